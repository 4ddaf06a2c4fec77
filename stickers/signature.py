"""Signatures: DSSE v1 envelopes over canonical JSON, Ed25519, and keys that are allowed certain subjects only.

The few lines of DSSE stand here and not in a library, because the library imports every cloud SDK that is installed,
for a third of a second and some 30 MB; the tests hold them to it.

A subject is ``statement:project/environment``, or finer, ``statement:project/environment/target``; a key is allowed
patterns of subjects (``sticker:default/*``).
Whoever needs a signature is handed `Sign`, never a key.

    SignatureError
      Unsigned     the envelope carries no signature
      Forged       a signature that does not hold, an unknown key, or a key that may not speak of this subject
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NewType

from stickers import digest
from stickers.names import EnvironmentId, KeyId

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Envelope = NewType("Envelope", str)  # the JSON text of a DSSE envelope

MAX_ENVELOPE: Final = 16 * 1024  # characters; an honest sticker needs below two thousand


class Statement(StrEnum):
    STICKER = "sticker"
    EVIDENCE = "evidence"
    ACTION = "action"
    CHECKPOINT = "checkpoint"  # how far an audit chain reached
    TASK = "task"  # what an agent may do, said by the signer
    RESULT = "result"  # what came of it, said by the agent

    @property
    def payload_type(self) -> str:
        return f"application/vnd.holdfast.{self.value}.v1+json"


OF_INSTALLATION: Final = (Statement.STICKER, Statement.EVIDENCE, Statement.ACTION, Statement.CHECKPOINT)

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
        """Whoever may speak of an environment may speak of each of its targets."""
        wider = subject.rpartition("/")[0] if subject.count("/") > 1 else subject
        return any(fnmatchcase(one, pattern) for pattern in self.subjects for one in (subject, wider))

    def signed(self, signature: bytes, content: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature  # 30 ms, only where signatures are read

        try:
            self._verifier.verify(signature, content)
        except InvalidSignature:
            return False
        return True

    @cached_property
    def _verifier(self) -> Ed25519PublicKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        return Ed25519PublicKey.from_public_bytes(self.public)


def key_id(public: bytes) -> KeyId:
    """A key is named by its content."""
    return KeyId(digest.short(digest.of_bytes(public)))


class Keyring:
    """The public keys this installation believes."""

    def __init__(self, keys: Iterable[PublicKey]) -> None:
        self.keys: Mapping[KeyId, PublicKey] = {key.id: key for key in keys}

    def payload(self, envelope: Envelope, statement: Statement, subject_of: Callable[[bytes], str]) -> bytes:
        """The payload, if a known key that may speak of its subject signed it; else `SignatureError`."""
        sealed = _opened(envelope)
        if sealed.payload_type != statement.payload_type:
            raise Forged(f"the envelope carries {sealed.payload_type[:80]!r}, expected {statement.payload_type}")
        if not sealed.signatures:
            raise Unsigned("the envelope carries no signature")
        known = {id: self.keys[KeyId(id)] for id in sealed.signatures if id in self.keys}
        if not known:
            raise Forged(f"signed by a key nobody here knows: {', '.join(map(repr, sealed.signatures))[:80]}")
        accepted = [key for id, key in known.items() if key.signed(sealed.signatures[id], sealed.signed_bytes)]
        if not accepted:
            raise Forged("the signature does not fit the content")
        subject = f"{statement}:{subject_of(sealed.payload)}"
        if not any(key.allows(subject) for key in accepted):
            raise Forged(f"key {', '.join(key.id for key in accepted)} may not speak of {subject}")
        return sealed.payload


def unverified_payload(envelope: Envelope) -> bytes:
    """What the envelope says, for showing to people beside the reason why it is not believed."""
    return _opened(envelope).payload


class Signer:
    """A private key that signs statements about the subjects it is allowed."""

    def __init__(self, private: Ed25519PrivateKey, key: PublicKey) -> None:
        self.key = key
        self._private = private

    def sign(self, statement: Statement, environment: EnvironmentId, record: object) -> Envelope:
        """The record's canonical form, sealed. A subject that the key may not speak of raises `Forged`."""
        subject = f"{statement}:{environment}"
        if self.key.retired or not self.key.allows(subject):
            raise Forged(f"key {self.key.id} may not speak of {subject}")
        sealed = _Sealed(payload=digest.canonical(record), payload_type=statement.payload_type)
        return replace(sealed, signatures={self.key.id: self._private.sign(sealed.signed_bytes)}).text


@dataclass(frozen=True, kw_only=True)
class _Sealed:
    """What an envelope holds: signatures by the ids of their keys."""

    payload: bytes
    payload_type: str
    signatures: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def signed_bytes(self) -> bytes:
        """DSSE's pre-authentication encoding: nothing can be moved between type and payload."""
        kind = self.payload_type.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)

    @property
    def text(self) -> Envelope:
        signatures = [{"keyid": id, "sig": _base64(signature)} for id, signature in self.signatures.items()]
        content = {"payload": _base64(self.payload), "payloadType": self.payload_type, "signatures": signatures}
        return Envelope(json.dumps(content, separators=(",", ":"), sort_keys=True))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _opened(envelope: Envelope) -> _Sealed:
    if len(envelope) > MAX_ENVELOPE:
        raise Forged(f"the envelope has {len(envelope)} characters, at most {MAX_ENVELOPE} are read")
    try:
        sealed = _parsed(json.loads(envelope))
        as_written = sealed.text == envelope
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Forged(f"not a signed envelope: {type(error).__name__}") from None
    if not as_written:  # base64 and JSON have many texts for one content; one is ours, so that no text is two stickers
        raise Forged("the envelope is not written as it was when it was signed")
    return sealed


def _parsed(content: Any) -> _Sealed:
    return _Sealed(
        payload=base64.b64decode(content["payload"]),
        payload_type=_string(content["payloadType"]),
        signatures={_string(each["keyid"]): base64.b64decode(each["sig"]) for each in content["signatures"]},
    )


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where a text belongs")
    return value
