"""Signatures: DSSE envelopes over canonical JSON, Ed25519, and keys that are allowed certain subjects only.

A subject is ``statement:project/environment``; a key is allowed patterns of subjects (``sticker:default/*``).
Whoever needs a signature is handed `Sign`, never a key.

    SignatureError
      Unsigned     the envelope carries no signature
      Forged       a signature that does not hold, an unknown key, or a key that may not speak of this subject
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Final, NewType

from stickers import digest
from stickers.names import EnvironmentId, KeyId

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import SSlibKey

Envelope = NewType("Envelope", str)  # the JSON text of a DSSE envelope

MAX_ENVELOPE: Final = 16 * 1024  # characters; an honest sticker needs below two thousand


class Statement(StrEnum):
    STICKER = "sticker"
    EVIDENCE = "evidence"
    ACTION = "action"

    @property
    def payload_type(self) -> str:
        return f"application/vnd.holdfast.{self.value}.v1+json"


Sign = Callable[[Statement, EnvironmentId, object], Envelope]


class SignatureError(Exception):
    """An envelope that cannot be trusted; the text is a sentence for people."""


class Unsigned(SignatureError):
    pass


class Forged(SignatureError):
    pass


@dataclass(frozen=True, kw_only=True)
class PublicKey:
    """A public key and what it may speak of. A retired key still verifies what it signed, and signs no more."""

    id: KeyId
    public: bytes
    subjects: tuple[str, ...]
    retired: bool = False

    def allows(self, subject: str) -> bool:
        return any(fnmatchcase(subject, pattern) for pattern in self.subjects)

    @cached_property
    def verifier(self) -> SSlibKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from securesystemslib.signer import SSlibKey

        return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(self.public), keyid=self.id)


def key_id(public: bytes) -> KeyId:
    """A key is named by its content."""
    return KeyId(digest.short(digest.of_bytes(public)))


class Keyring:
    """The public keys this installation believes."""

    def __init__(self, keys: Iterable[PublicKey]) -> None:
        self.keys: Mapping[KeyId, PublicKey] = {key.id: key for key in keys}

    def payload(self, envelope: Envelope, statement: Statement, subject_of: Callable[[bytes], EnvironmentId]) -> bytes:
        """The payload, if a known key that may speak of its subject signed it; else `SignatureError`."""
        from securesystemslib.exceptions import UnverifiedSignatureError  # 130 ms, only where signatures are read
        from securesystemslib.exceptions import VerificationError as Unverified

        sealed = _opened(envelope)
        if sealed.payload_type != statement.payload_type:
            raise Forged(f"the envelope carries {str(sealed.payload_type)[:80]!r}, expected {statement.payload_type}")
        if not sealed.signatures:
            raise Unsigned("the envelope carries no signature")
        known = [self.keys[KeyId(id)] for id in sealed.signatures if id in self.keys]
        if not known:
            raise Forged(f"signed by a key nobody here knows: {', '.join(map(repr, sealed.signatures))[:80]}")
        try:
            accepted = sealed.verify([key.verifier for key in known], 1)
        except (Unverified, UnverifiedSignatureError):
            raise Forged("the signature does not fit the content") from None
        subject = f"{statement}:{subject_of(sealed.payload)}"
        if not any(self.keys[KeyId(id)].allows(subject) for id in accepted):
            raise Forged(f"key {', '.join(accepted)} may not speak of {subject}")
        return bytes(sealed.payload)


def unverified_payload(envelope: Envelope) -> bytes:
    """What the envelope says, for showing to people beside the reason why it is not believed."""
    return bytes(_opened(envelope).payload)


class Signer:
    """A private key that signs statements about the subjects it is allowed."""

    def __init__(self, private: Ed25519PrivateKey, key: PublicKey) -> None:
        from securesystemslib.signer import CryptoSigner

        self.key = key
        self._signer = CryptoSigner(private, key.verifier)

    def sign(self, statement: Statement, environment: EnvironmentId, record: object) -> Envelope:
        """The record's canonical form, sealed. A subject that the key may not speak of raises `Forged`."""
        from securesystemslib.dsse import Envelope as Sealed

        subject = f"{statement}:{environment}"
        if self.key.retired or not self.key.allows(subject):
            raise Forged(f"key {self.key.id} may not speak of {subject}")
        sealed = Sealed(digest.canonical(record), statement.payload_type, {})
        sealed.sign(self._signer)
        return _text(sealed)


def _opened(envelope: Envelope):  # type: ignore[no-untyped-def]  # securesystemslib's Envelope, imported late
    from securesystemslib.dsse import Envelope as Sealed

    if len(envelope) > MAX_ENVELOPE:
        raise Forged(f"the envelope has {len(envelope)} characters, at most {MAX_ENVELOPE} are read")
    try:
        sealed = Sealed.from_dict(json.loads(envelope))
        as_written = _text(sealed) == envelope
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Forged(f"not a signed envelope: {type(error).__name__}") from None
    if not as_written:  # base64 and JSON have many texts for one content; one is ours, so that no text is two stickers
        raise Forged("the envelope is not written as it was when it was signed")
    return sealed


def _text(sealed) -> Envelope:  # type: ignore[no-untyped-def]  # as above
    return Envelope(json.dumps(sealed.to_dict(), separators=(",", ":"), sort_keys=True))
