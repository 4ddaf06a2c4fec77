"""Layers of an image onto a directory, every path confined to it.

Nothing that a layer says is believed: absolute names, ``..``, links that leave the root, writing through a link,
devices and pipes are `Refused`, and so is more than was allowed. Owners, times, extended attributes, set-id bits and
the right of others to write are not taken over.

Blocking; async callers run it in a worker thread. The directory belongs to the caller: after an error it holds what was
written until then.
"""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, cast

from drivers.errors import Refused
from drivers.oci import layout
from drivers.oci.archive import Archive

GZIP: Final = b"\x1f\x8b"
ZSTD: Final = b"\x28\xb5\x2f\xfd"
WHITEOUT: Final = ".wh."
OPAQUE: Final = ".wh..wh..opq"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What all layers of one image may take together. `size` is in bytes, as written and as read from the archives."""

    size: int = 8 * 1024**3
    entries: int = 500_000
    depth: int = 100
    name: int = 255


def unpack(layers: Sequence[Path], into: Path, limits: Limits | None = None) -> None:
    """Write the layers, lowest first, into a directory that must not exist yet."""
    try:
        into.mkdir(mode=0o755)
        tree = _Tree(into, limits or Limits())
        for layer in layers:
            with layer.open("rb") as file:
                tree.add(_plain(file))
        tree.check_links()
    except OSError as error:
        raise Refused(f"the image cannot be unpacked: {error}") from None


def _plain(file: BinaryIO) -> BinaryIO:
    """The layer as a plain tar."""
    magic = file.read(4)
    file.seek(0)
    if magic == ZSTD:
        raise Refused("a layer is compressed with zstd, which is not read; pack the image with gzip")
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if magic[:2] == GZIP else file


class _Tree:
    """A directory on its way to being the image's file system. Nobody else writes below it."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self._root, self._limits = root, limits
        self._size, self._entries = limits.size, limits.entries
        self._links: set[Path] = set()
        self._own: set[Path] = set()  # what the current layer brought: its whiteouts do not apply to that

    def add(self, tar: BinaryIO) -> None:
        self._own = set()
        archive = Archive(tar, total=self._limits.size + self._limits.entries * 1024)
        for member in archive:
            self._count()
            parts = self._parts(member.name)
            if not parts:
                self._expect_directory(member)
            elif parts[-1].startswith(WHITEOUT):
                self._white_out(parts)
            else:
                self._place(member, self._free(parts, member), archive)

    def check_links(self) -> None:
        """A link may be harmless alone and leave the root through another one, so they are followed when all stand."""
        for link in self._links:
            if link.is_symlink() and not layout.confined(link, self._root):
                raise Refused(f"the link {self._name(link)} leaves the image")

    def _place(self, member: tarfile.TarInfo, path: Path, archive: Archive) -> None:
        if member.isdir():
            path.mkdir(exist_ok=True)
            path.chmod(member.mode & 0o755 | 0o700)
        elif member.issym():
            self._link(member, path)
        elif member.islnk():
            self._hard_link(member, path)
        elif member.isreg():
            self._write(member, path, archive)
        else:
            raise Refused(f"{self._name(path)} is a device, a pipe or of an unknown kind ({member.type!r})")

    def _write(self, member: tarfile.TarInfo, path: Path, archive: Archive) -> None:
        self._size -= member.size
        if self._size < 0:
            raise Refused(f"the image holds more than the {self._limits.size} bytes that are allowed")
        with layout.new_file(path) as file:
            for piece in archive.data(member):
                file.write(piece)
            os.fchmod(file.fileno(), member.mode & 0o755 | 0o400)

    def _link(self, member: tarfile.TarInfo, path: Path) -> None:
        target = member.linkname
        inside = os.path.normpath(os.path.join(path.parent.relative_to(self._root), target))
        if not target or os.path.isabs(target) or inside.split("/", 1)[0] == ".." or "\0" in target:
            raise Refused(f"the link {self._name(path)} to {target[:80]!r} leaves the image")
        path.symlink_to(target)
        self._links.add(path)

    def _hard_link(self, member: tarfile.TarInfo, path: Path) -> None:
        parts = self._parts(member.linkname)
        source = self._root.joinpath(*parts)
        if not self._stands(parts[:-1]) or not _is(source, stat.S_ISREG):
            raise Refused(f"{self._name(path)} is a link to {member.linkname[:80]!r}, which is no file of the image")
        os.link(source, path)

    # -- names ------------------------------------------------------------------------------------------------------

    def _parts(self, name: str) -> tuple[str, ...]:
        """The name's parts below the root; empty for the root itself."""
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise Refused(f"{name[:80]!r} leaves the image")
        if len(parts) > self._limits.depth or any(len(os.fsencode(part)) > self._limits.name for part in parts):
            raise Refused(f"{name[:80]!r} is longer or deeper than is allowed")
        return parts

    def _free(self, parts: tuple[str, ...], member: tarfile.TarInfo) -> Path:
        """Where the member goes: its parents made, and whatever stood there taken away."""
        path = self._root
        for part in parts[:-1]:
            path /= part
            self._own.add(path)
            if _is(path, stat.S_ISDIR):
                continue
            if os.path.lexists(path):
                raise Refused(f"{member.name[:80]!r} lies below {self._name(path)}, which is no directory")
            self._count()
            path.mkdir(mode=0o755)
        path /= parts[-1]
        self._own.add(path)
        if not (member.isdir() and _is(path, stat.S_ISDIR)):
            self._take_away(path)
        return path

    def _stands(self, parts: tuple[str, ...]) -> bool:
        """Whether these are directories all the way, no link among them."""
        path = self._root
        for part in parts:
            path /= part
            if not _is(path, stat.S_ISDIR):
                return False
        return True

    def _name(self, path: Path) -> str:
        return repr(os.fspath(path.relative_to(self._root)))[:100]

    def _expect_directory(self, member: tarfile.TarInfo) -> None:
        if not member.isdir():
            raise Refused("the root of the image is no directory")

    # -- what goes --------------------------------------------------------------------------------------------------

    def _white_out(self, parts: tuple[str, ...]) -> None:
        """Take away what lower layers brought under the name; a layer's whiteouts do not touch what itself brings."""
        parent, hidden = self._root.joinpath(*parts[:-1]), parts[-1].removeprefix(WHITEOUT)
        if hidden in ("", ".", ".."):
            raise Refused(f"whiteout {'/'.join(parts)[:80]!r} names nothing")
        if not self._stands(parts[:-1]):
            return
        if parts[-1] == OPAQUE:
            for path in list(parent.iterdir()):
                self._hide(path)
        elif not hidden.startswith(WHITEOUT):
            self._hide(parent / hidden)

    def _hide(self, path: Path) -> None:
        if path not in self._own:
            self._take_away(path)
        elif _is(path, stat.S_ISDIR):
            for inner in list(path.iterdir()):
                self._hide(inner)

    def _take_away(self, path: Path) -> None:
        if _is(path, stat.S_ISDIR):
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def _count(self) -> None:
        self._entries -= 1
        if self._entries < 0:
            raise Refused(f"the image has more than the {self._limits.entries} entries that are allowed")


def _is(path: Path, kind: Callable[[int], bool]) -> bool:
    """Whether something of this kind stands there; links are not followed."""
    try:
        return kind(path.lstat().st_mode)
    except FileNotFoundError:
        return False
