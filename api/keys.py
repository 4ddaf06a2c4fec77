"""The signing keys of an installation as files: one key signs, the retired ones go on being believed.

    keyring.json    the public keys, what each may speak of, and when it was made and retired
    <id>.pem        the private key that signs, readable by its owner alone

Whoever can write here decides what is believed, so looser permissions are an error. At every moment the directory is
whole: the new private key is on the disk before the keyring names it, and the old one is deleted after.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from api.problem import Problem
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
    _write(_private(directory, key.id), _pem(private), mode=0o600)
    kept = [entry if entry.retired else _Entry(key=entry.key, created=entry.created, retired=now) for entry in entries]
    body = {"format": FORMAT, "keys": [entry.plain() for entry in (*kept, _Entry(key=key, created=now, retired=None))]}
    _write(directory / KEYRING, json.dumps(body, indent=1).encode() + b"\n", mode=0o644)
    _sweep(directory, keep=key.id)
    return key


def _sweep(directory: Path, keep: KeyId) -> None:
    """Delete every private key but the one that signs: retired ones, and what a run that was killed left."""
    for path in (*directory.glob("*.pem"), *directory.glob(".new-*")):
        if path != _private(directory, keep):
            path.unlink()
    _settle(directory)


# -- files ----------------------------------------------------------------------------------------------------------


def _private(directory: Path, key: KeyId) -> Path:
    return directory / f"{key}.pem"


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """The directory, made when missing, for this process alone."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Problem("KEYS_UNREACHABLE", f"{directory}: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        _check_mode(directory, os.fstat(handle).st_mode, forbidden=0o022)
        yield
    except OSError as error:
        raise Problem("KEYS_UNREACHABLE", f"{error.filename or directory}: {error.strerror}") from None
    finally:
        os.close(handle)


def _write(path: Path, content: bytes, *, mode: int) -> None:
    """The file with this content and mode, whole or not at all, and on the disk when this returns."""
    handle, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _settle(path.parent)


def _settle(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path, *, forbidden: int) -> bytes:
    """The content of a regular file that others have none of the forbidden rights to."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        reason = "is a link, which is not followed" if error.errno == errno.ELOOP else error.strerror
        raise Problem("KEYS_UNREACHABLE", f"{path}: {reason}") from None
    with os.fdopen(handle, "rb") as file:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise _damaged(path, "expected a regular file")
        _check_mode(path, mode, forbidden)
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise _damaged(path, f"more than {LARGEST} bytes")
    return content


def _check_mode(path: Path, mode: int, forbidden: int) -> None:
    if mode & forbidden:
        right = "read" if forbidden & 0o044 else "changed"
        wanted = stat.S_IMODE(mode) & ~forbidden
        raise Problem(
            "KEYS_EXPOSED",
            f"{path} can be {right} by others (mode {stat.S_IMODE(mode):04o}); chmod {wanted:04o} {path}",
        )


def _check_there(directory: Path) -> None:
    if not os.path.lexists(directory / KEYRING):
        raise Problem("NO_KEYS", f"{directory} holds no keys; `holdfast keys init` makes the first one")


# -- the keyring as text --------------------------------------------------------------------------------------------


def _read_entries(directory: Path) -> tuple[_Entry, ...]:
    _check_there(directory)
    path = directory / KEYRING
    _check_mode(directory, directory.stat().st_mode, forbidden=0o022)
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
