"""Tar archives of strangers, read with bounds: no header, however long, and no archive, however well compressed,
takes more memory or bytes than allowed."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final, Literal, cast

from drivers.errors import Refused

HEADERS: Final = 1024 * 1024  # bytes that one member's headers may take: names, extended attributes, sparse maps
PIECE: Final = 256 * 1024
DAMAGED: Final = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, RecursionError, OverflowError)


class _Guarded:
    """A file that gives at most as many bytes as are allowed until more are."""

    def __init__(self, file: BinaryIO, total: int) -> None:
        self._file, self._total, self._room = file, total, HEADERS

    def allow(self, count: int) -> None:
        self._room = count + HEADERS

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._room + tarfile.RECORDSIZE:
            raise Refused("a member of the archive has headers longer than any honest one")
        piece = self._file.read(size)
        self._room -= len(piece)
        self._total -= len(piece)
        if self._total < 0:
            raise Refused("the archive has more bytes than are allowed")
        return piece

    def seek(self, position: int) -> int:
        return self._file.seek(position)

    def tell(self) -> int:
        return self._file.tell()


class _Member(tarfile.TarInfo):
    """A member whose damaged header is an error; tarfile takes one in the middle for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        try:
            member = super().frombuf(buf, encoding, errors)
        except (tarfile.EmptyHeaderError, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise ValueError(f"damaged header: {error}") from None
        if member.size < 0:
            raise ValueError("damaged header: negative size")
        return member


class Archive:
    """The members of one archive in order, each with its data while it is the current one.

    `total` bounds the bytes read from the file. `seekable` skips data instead of reading it.
    """

    def __init__(self, file: BinaryIO, *, total: int, seekable: bool = False) -> None:
        self._guarded, self._seekable, self._unread = _Guarded(file, total), seekable, 0
        mode: Literal["r:", "r|"] = "r:" if seekable else "r|"
        try:
            self._tar = tarfile.open(fileobj=cast(BinaryIO, self._guarded), mode=mode, tarinfo=_Member)  # noqa: SIM115
        except DAMAGED as error:
            raise Refused(f"not a tar archive: {_said(error)}") from None

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        while (member := self._next()) is not None:
            yield member
            if self._unread and not self._seekable:
                _exhaust(self.data(member))

    def _next(self) -> tarfile.TarInfo | None:
        try:
            self._guarded.allow(0)
            member = self._tar.next()
            self._tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every member it has seen
            if member is not None and member.size < 0:
                raise ValueError("negative size")
        except DAMAGED as error:
            raise Refused(f"the archive is damaged: {_said(error)}") from None
        self._unread = member.size if member is not None and member.isreg() else 0
        return member

    def data(self, member: tarfile.TarInfo) -> Iterator[bytes]:
        """What is left of the current member's bytes, in pieces."""
        self._guarded.allow(self._unread)
        file = self._tar.extractfile(member)
        assert file is not None
        while self._unread:
            try:
                piece = file.read(min(self._unread, PIECE))
            except DAMAGED as error:
                raise Refused(f"the archive is damaged: {_said(error)}") from None
            if not piece:
                raise Refused(f"the archive ends within {member.name[:80]!r}")
            self._unread -= len(piece)
            yield piece


def _exhaust(pieces: Iterator[bytes]) -> None:
    for _ in pieces:
        pass


def _said(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:120]
