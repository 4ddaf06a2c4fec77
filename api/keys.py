"""The signing keys of an installation as files: one key signs, the retired ones go on being believed.

    keyring.json    the public keys, what each may speak of, and when it was made and retired
    <id>.pem        the private key that signs, readable by its owner alone

Whoever can write here decides what is believed, so looser permissions are an error. At every moment the directory is
whole: the new private key is on the disk before the keyring names it, and the old one is deleted after.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from api.problem import Problem
from drivers import strongbox
from stickers import digest, names
from stickers.names import KeyId
from stickers.signature import OF_INSTALLATION, Keyring, PublicKey, Signer, Statement, key_id

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FORMAT: Final = "holdfast.keyring/v1"
KEYRING: Final = "keyring.json"
LARGEST: Final = 1024 * 1024  # bytes that are read of any file here
SUBJECT: Final = re.compile(rf"(?:{'|'.join(Statement)}):[a-z0-9*/-]+")
EVERYTHING: Final = tuple(f"{statement}:*" for statement in OF_INSTALLATION)

Now = Callable[[], datetime]


def subjects(project: str = "*", environment: str = "*") -> tuple[str, ...]:
    """What a key may speak of: all statements about the environments of a project, or about one."""
    where = "*" if (project, environment) == ("*", "*") else f"{_name(project)}/{_name(environment)}"
    return tuple(f"{statement}:{where}" for statement in OF_INSTALLATION)


def _name(text: str) -> str:
    return text if text == "*" else names.name(text)


def _utc() -> datetime:
    return datetime.now(UTC)


def init(directory: Path, *, subjects: Sequence[str] = EVERYTHING, now: Now = _utc) -> PublicKey:
    """Make the first key. Where keys are, nothing is overwritten."""
    _check_subjects(subjects)
    with _locked(directory):
        if os.path.lexists(directory / KEYRING):
            raise Problem("KEYS_EXIST", f"{directory} holds keys already; `holdfast keys rotate` makes a new one")
        return _add_key(directory, (), tuple(subjects), now())


def rotate(directory: Path, *, subjects: Sequence[str] | None = None, now: Now = _utc) -> PublicKey:
    """Make a new key that signs from now on, by default about what the old one may speak of. The old one signs no more,
    its private half is deleted, and what it has signed stays valid."""
    _check_subjects(subjects or ())
    _check_there(directory)
    with _locked(directory):
        entries = _read_entries(directory)
        allowed = tuple(subjects) if subjects else _grown(_signing(directory, entries).key.subjects)
        return _add_key(directory, entries, allowed, now())


def _grown(subjects: tuple[str, ...]) -> tuple[str, ...]:
    """Subjects of a key made before there were checkpoints: who may speak of everything somewhere, may of those too."""
    places = [text.partition(":")[2] for text in subjects]
    whole = [place for place in dict.fromkeys(places) if places.count(place) == len(OF_INSTALLATION) - 1]
    return subjects + tuple(more for place in whole if (more := f"{Statement.CHECKPOINT}:{place}") not in subjects)


def load_keyring(directory: Path) -> Keyring:
    """The public keys this installation believes, retired ones included."""
    return Keyring(entry.key for entry in _read_entries(directory))


def load_signer(directory: Path) -> Signer:
    """The key that signs."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = _signing(directory, _read_entries(directory)).key
    path = _private(directory, key.id)
    try:
        private = load_pem_private_key(_read(path, forbidden=0o077), password=None)
    except (ValueError, TypeError):  # whatever is wrong with it, nothing of it is shown
        private = None
    if not isinstance(private, Ed25519PrivateKey) or _public(private) != key.public:
        raise _damaged(path, f"expected the private key of {key.id}")
    return Signer(private, key)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One key as the keyring lists it."""

    key: PublicKey
    created: datetime
    retired: datetime | None

    def plain(self) -> dict[str, object]:
        return {
            "id": self.key.id,
            "public": self.key.public.hex(),
            "subjects": list(self.key.subjects),
            "created": digest.instant(self.created),
            "retired": None if self.retired is None else digest.instant(self.retired),
        }


def _add_key(directory: Path, entries: Sequence[_Entry], allowed: tuple[str, ...], now: datetime) -> PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    key = PublicKey(id=key_id(_public(private)), public=_public(private), subjects=allowed)
    strongbox.put(_private(directory, key.id), _pem(private))
    kept = [entry if entry.retired else _Entry(key=entry.key, created=entry.created, retired=now) for entry in entries]
    body = {"format": FORMAT, "keys": [entry.plain() for entry in (*kept, _Entry(key=key, created=now, retired=None))]}
    strongbox.put(directory / KEYRING, json.dumps(body, indent=1).encode() + b"\n", mode=0o644)
    _sweep(directory, keep=key.id)
    return key


def _sweep(directory: Path, keep: KeyId) -> None:
    """Delete every private key but the one that signs: retired ones, and what a run that was killed left."""
    for path in (*directory.glob("*.pem"), *directory.glob(f"{strongbox.BESIDE}*")):
        if path != _private(directory, keep):
            path.unlink()
    strongbox.settle(directory)


# -- files ----------------------------------------------------------------------------------------------------------


def _private(directory: Path, key: KeyId) -> Path:
    return directory / f"{key}.pem"


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """The directory, made when missing, for this process alone."""
    with _translated(), strongbox.alone(directory):
        yield


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except strongbox.Exposed as error:
        raise Problem("KEYS_EXPOSED", str(error)) from None
    except strongbox.Odd as error:
        raise Problem("KEYS_DAMAGED", str(error)) from None
    except strongbox.Unusable as error:
        raise Problem("KEYS_UNREACHABLE", str(error)) from None


def _read(path: Path, *, forbidden: int) -> bytes:
    with _translated():
        return strongbox.get(path, forbidden=forbidden)


def _check_there(directory: Path) -> None:
    if not os.path.lexists(directory / KEYRING):
        raise Problem("NO_KEYS", f"{directory} holds no keys; `holdfast keys init` makes the first one")


# -- the keyring as text --------------------------------------------------------------------------------------------


def _read_entries(directory: Path) -> tuple[_Entry, ...]:
    _check_there(directory)
    path = directory / KEYRING
    with _translated():
        strongbox.check_mode(directory, directory.stat().st_mode, forbidden=0o022)
    content = _read(path, forbidden=0o022)
    try:
        body = json.loads(content)
        if body["format"] != FORMAT:
            raise _damaged(path, f"format {str(body['format'])[:40]!r}, this version reads {FORMAT}")
        entries = tuple(_entry(item) for item in body["keys"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {str(error)[:80]}") from None
    if len({entry.key.id for entry in entries}) < len(entries):
        raise _damaged(path, "a key is listed twice")
    return entries


def _entry(item: Mapping[str, Any]) -> _Entry:
    public, allowed = bytes.fromhex(item["public"]), item["subjects"]
    if item["id"] != key_id(public) or len(public) != 32:
        raise ValueError(f"key {str(item['id'])[:40]!r} is not the name of its public half")
    if not isinstance(allowed, list) or not allowed or not all(SUBJECT.fullmatch(text) for text in allowed):
        raise ValueError(f"key {item['id']} may not speak of {str(allowed)[:80]}")
    created, retired = datetime.fromisoformat(item["created"]), item["retired"]
    when = None if retired is None else datetime.fromisoformat(retired)
    for moment in filter(None, (created, when)):
        digest.instant(moment)  # refuses times without a zone
    key = PublicKey(id=KeyId(item["id"]), public=public, subjects=tuple(allowed), retired=when is not None)
    return _Entry(key=key, created=created, retired=when)


def _signing(directory: Path, entries: Sequence[_Entry]) -> _Entry:
    found = [entry for entry in entries if entry.retired is None]
    if len(found) != 1:
        raise _damaged(directory / KEYRING, f"{len(found)} keys sign, expected one")
    return found[0]


def _check_subjects(allowed: Sequence[str]) -> None:
    for text in allowed:
        if not SUBJECT.fullmatch(text):
            expected = f"{', '.join(Statement)}, then : and project/environment, * for any"
            raise Problem("BAD_SUBJECT", f"{text[:80]!r} is nothing a key can speak of; expected {expected}")


def _damaged(path: Path, how: str) -> Problem:
    return Problem("KEYS_DAMAGED", f"{path} is damaged: {how}")


def _public(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes_raw()


def _pem(private: Ed25519PrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
