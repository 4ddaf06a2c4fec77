"""The directory of one project: its lock files, and for each service a record of what it was made of and its sticker.

    <root>/<project>/hold                      held by whoever acts, and by the compose program it has started
    <root>/<project>/lock.yaml                 -> locks/<hash>.yaml, the one that holds; switched by a rename
    <root>/<project>/locks/<hash>.yaml         a lock file, and beside it <hash>.yaml.sha256, as sha256sum checks it
    <root>/<project>/services/<service>/       record.json and sticker.json
    <root>/<project>/compose.log               what compose said last

Everything is written under a temporary name, synced and renamed, so that a crash leaves the old or the new.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from drivers.compose import lock
from drivers.compose.lock import Piece, Place
from drivers.errors import Busy, Refused, Unreachable
from stickers import codec
from stickers.names import ActionKey, Digest
from stickers.observation import Worn
from stickers.signature import Envelope

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FORMAT: Final = "holdfast.compose/v1"
LARGEST: Final = 1 << 20  # bytes of a record that are read


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of one service beside its container, which carries no trace of an action: else no two actions
    would tell compose the same.

    `piece` is what the lock says. While `pending`, `back` is what stood when the change began, and is put back when
    its proof fails. Containers that are not `before` were made by the action of that key. `kept`: the newest first.
    """

    piece: Piece | None = None
    pending: bool = False
    back: Piece | None = None
    kept: tuple[Piece, ...] = ()
    key: ActionKey | None = None
    before: tuple[str, ...] = ()
    fence: int = 0
    format: str = FORMAT

    def key_of(self, instance: str) -> ActionKey | None:
        return None if instance in self.before else self.key

    @property
    def contents(self) -> tuple[tuple[Digest, Digest], ...]:
        """What could be put back without being fetched, beside what stands."""
        former = (self.back, *self.kept) if self.pending else self.kept
        own = self.piece.content if self.piece else None
        return tuple(dict.fromkeys(piece.content for piece in former if piece is not None and piece.content != own))

    @property
    def images(self) -> set[str]:
        return {piece.image for piece in (self.piece, self.back, *self.kept) if piece is not None}


@cache
def _codec() -> TypeAdapter[Record]:
    from pydantic import TypeAdapter

    return TypeAdapter(Record)


class Folder:
    """One project's directory. Its methods block, and are called from a thread."""

    def __init__(self, root: str, place: Place) -> None:
        self.place = place
        self.path = Path(root) / place.project
        self.lock, self.log = self.path / "lock.yaml", self.path / "compose.log"
        self._locks, self._services = self.path / "locks", self.path / "services"

    # -- one at a time ----------------------------------------------------------------------------------------------

    def hold(self) -> int:
        """An open file that holds the project until it is closed, here and by whoever inherits it; else `Busy`."""
        with _told(self.path):
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(self.path / "hold", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise Busy(f"{self.place.target}: another action, or the compose program it started, is at it") from None
        return handle

    # -- records ----------------------------------------------------------------------------------------------------

    def services(self) -> tuple[str, ...]:
        return _entries(self._services)

    def record(self, service: str) -> Record:
        """What is recorded; one that cannot be read counts as none: the containers say what stands."""
        return self._read(self._services / service)

    def _read(self, place: Path) -> Record:
        content = self._content(place / "record.json", LARGEST)
        try:
            found = _codec().validate_json(content) if content is not None else Record()
        except ValueError:
            return Record()
        return found if found.format == FORMAT else Record()

    def write_record(self, service: str, record: Record) -> None:
        self._write(self._services / service / "record.json", _codec().dump_json(record, indent=1) + b"\n")

    def mark(self, service: str, name: str) -> tuple[int, int, int]:
        """Changes whenever the file is written."""
        try:
            seen = os.stat(self._services / service / name)
        except OSError:
            return 0, 0, 0
        return seen.st_ino, seen.st_mtime_ns, seen.st_size

    def records(self) -> dict[str, Record]:
        return {service: self.record(service) for service in self.services()}

    def images(self) -> set[str]:
        """What the projects of this root may still run, without fetching it: several may stand on one engine."""
        root = self.path.parent
        places = [root / project / "services" for project in _entries(root)]
        records = [self._read(place / service) for place in places for service in _entries(place)]
        return {image for record in records for image in record.images}

    # -- stickers ---------------------------------------------------------------------------------------------------

    def worn(self, service: str) -> Worn | None:
        content = self._content(self._services / service / "sticker.json", codec.LARGEST)
        if content is None:
            return None
        try:
            return Worn(envelope=codec.from_file(content))
        except codec.Unreadable as problem:
            return Worn(envelope=None, problem=str(problem))

    def wear(self, service: str, envelope: Envelope) -> None:
        self._write(self._services / service / "sticker.json", codec.to_file(envelope))

    def bare(self, service: str) -> None:
        """The sticker off, and where nothing is recorded any more, the directory of the service with it; after the
        last of them, all that is left of the project."""
        place = self._services / service
        with _told(place):
            (place / "sticker.json").unlink(missing_ok=True)
            if self.record(service).piece is None:
                shutil.rmtree(place, ignore_errors=True)
            if not self.services():
                for path in (self.lock, self.log):
                    path.unlink(missing_ok=True)
                shutil.rmtree(self._locks, ignore_errors=True)

    # -- lock files -------------------------------------------------------------------------------------------------

    def write_lock(self, content: bytes) -> None:
        """The lock beside the others, its hash beside it, and then the switch to it."""
        name = f"{lock.hash_of(content)}.yaml"
        path = self._locks / name
        if self._content(path, len(content) + 1) != content:
            self._write(path, content)
        line = f"{lock.hash_of(content)}  {name}\n".encode()
        if self._content(self._locks / f"{name}.sha256", 200) != line:
            self._write(self._locks / f"{name}.sha256", line)
        with _told(self.lock):
            temporary = self.lock.with_name(".lock.yaml")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(f"locks/{name}")
            temporary.rename(self.lock)
            _synced(self.path)

    def prune(self, keep: int) -> None:
        """The newest locks stay beside the one that holds."""
        with _told(self._locks):
            if not self.lock.is_symlink():
                return
            holds = os.path.basename(os.readlink(self.lock))
            others = [path for path in self._locks.glob("*.yaml") if path.name != holds]
            newest = sorted(others, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
            for path in newest[keep:]:
                path.unlink(missing_ok=True)
                path.with_name(path.name + ".sha256").unlink(missing_ok=True)

    def said(self, most: int = 4096) -> str:
        """The end of what compose said."""
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - most))
            return log.read(most).decode(errors="replace")
        return ""

    # -- files ------------------------------------------------------------------------------------------------------

    def _content(self, path: Path, most: int) -> bytes | None:
        with _told(path):
            try:
                with path.open("rb") as file:
                    return file.read(most)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def _write(self, path: Path, content: bytes) -> None:
        with _told(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary = path.with_name(f".{path.name}")
            with open(temporary, "wb", opener=_private) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
            _synced(path.parent)


def _entries(directory: Path) -> tuple[str, ...]:
    with _told(directory):
        try:
            return tuple(sorted(entry for entry in os.listdir(directory) if not entry.startswith(".")))
        except (FileNotFoundError, NotADirectoryError):
            return ()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _synced(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[Any]:
    """What the file system refuses, in our words."""
    try:
        yield
    except PermissionError:
        raise Refused(f"{path} may not be used by the user Holdfast runs as") from None
    except OSError as error:
        raise Unreachable(f"{path}: {os.strerror(error.errno or 0)}") from None
