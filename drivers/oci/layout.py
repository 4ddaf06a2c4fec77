"""OCI image layouts, as a directory or a tar of one: read by digest with every byte hashed, and packed reproducibly.

Blocking; async callers run it in a worker thread.
"""

from __future__ import annotations

import fcntl
import gzip
import io
import json
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from drivers.errors import Refused
from drivers.oci import manifest
from drivers.oci.archive import PIECE, Archive
from drivers.oci.manifest import MAX_DOCUMENT, Descriptor, Index, Manifest, Platform, Verifier
from stickers import digest
from stickers.names import Digest

MARKER: Final = "oci-layout"
MARK: Final = b'{"imageLayoutVersion":"1.0.0"}'
MAX_ENTRIES: Final = 200_000  # of a layout's tar, and of a packed directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A manifest found by digest. `asked` is the digest that was asked for, `digest` that of the manifest itself: they
    differ where an index was asked for."""

    asked: Digest
    digest: Digest
    manifest: Manifest


class Layout:
    """An image layout, open for reading. `open_file` opens one file of it by name."""

    def __init__(self, where: Path, open_file: Callable[[str], BinaryIO]) -> None:
        self._where, self._open = where, open_file
        with self._open(MARKER) as file:
            version = _json(file.read(4096), where / MARKER).get("imageLayoutVersion")
        if version != "1.0.0":
            raise Refused(f"{where} is an image layout of version {str(version)[:40]!r}; 1.0.0 is read")

    def images(self) -> tuple[Descriptor, ...]:
        """What the layout lists, in its order."""
        with self._open("index.json") as file:
            found = manifest.read(file.read(MAX_DOCUMENT + 1))
        if not isinstance(found, Index):
            raise Refused(f"{self._where / 'index.json'} is not an index")
        return found.manifests

    def read(self, wanted: Digest) -> bytes:
        """A small blob by digest: a manifest, an index or a configuration."""
        with self._open(_blob(wanted)) as file:
            content = file.read(MAX_DOCUMENT + 1)
        if len(content) > MAX_DOCUMENT:
            raise Refused(f"{wanted} has more than the {MAX_DOCUMENT} bytes that are read of a manifest")
        if digest.of_bytes(content) != wanted:
            raise Refused(f"blob {wanted} of {self._where} has other content: {digest.of_bytes(content)}")
        return content

    def resolve(self, wanted: Digest, platform: Platform) -> Resolved:
        """The manifest with this digest, or that of the platform in the index with this digest."""
        found, chosen = manifest.read(self.read(wanted)), wanted
        if isinstance(found, Index):
            chosen = manifest.choose(found, platform).digest
            found = manifest.read(self.read(chosen))
        if isinstance(found, Index):
            raise Refused(f"{wanted} is an index of indexes, which is not read")
        return Resolved(asked=wanted, digest=chosen, manifest=found)

    def copy(self, blob: Descriptor, to: Path, between: Callable[[], object] = lambda: None) -> None:
        """The blob into a new file, verified; nothing is left at `to` when it is not what was described. `between` is
        called with each piece, and may end the copy by raising."""
        with new_file(to) as target:
            for piece in self.pieces(blob):
                between()
                target.write(piece)

    def pieces(self, blob: Descriptor) -> Iterator[bytes]:
        """The blob in pieces; `Refused` at the latest after the last one, when it is not what was described."""
        verifier = Verifier(blob)
        with self._open(_blob(blob.digest)) as source:
            while piece := source.read(PIECE):
                verifier.feed(piece)
                yield piece
        verifier.finish()


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that must not exist yet, taken away again when its writing fails."""
    with path.open("xb") as file:
        try:
            yield file
        except BaseException:
            path.unlink()
            raise


def directory(path: Path) -> Layout:
    """A layout that is a directory."""
    return Layout(path, lambda name: _regular(path / name))


def archive(path: Path) -> Layout:
    """A layout that is a tar of such a directory. It is read in place; nothing of it is unpacked."""
    with _regular(path) as file:
        if file.read(2) == b"\x1f\x8b":
            raise Refused(f"{path} is compressed; an image layout is read from a plain tar")
        file.seek(0)
        places = _places(file)

    def open_file(name: str) -> BinaryIO:
        if name not in places:
            raise Refused(f"{name} is not in {path}")
        return cast(BinaryIO, io.BufferedReader(_Slice(_regular(path), *places[name])))

    return Layout(path, open_file)


def _places(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Where each regular file of the tar begins, and its size."""
    places: dict[str, tuple[int, int]] = {}
    for count, member in enumerate(Archive(file, total=MAX_ENTRIES * 4096, seekable=True)):
        if count >= MAX_ENTRIES:
            raise Refused(f"the image layout's tar has more than {MAX_ENTRIES} members")
        if member.isreg() and not member.issparse():
            places[member.name.removeprefix("./")] = (member.offset_data, member.size)
    return places


class _Slice(io.RawIOBase):
    """A stretch of a file, as a file that owns it."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        super().__init__()
        self._file, self._rest = file, size
        file.seek(start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        piece = self._file.read(min(len(buffer), self._rest))
        buffer[: len(piece)] = piece
        self._rest -= len(piece)
        return len(piece)

    def close(self) -> None:
        self._file.close()
        super().close()


def _regular(path: Path) -> BinaryIO:
    """The file opened for reading, if it is a regular one; links are not followed."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Refused(f"{path} is not a regular file")
    return os.fdopen(handle, "rb")


def _blob(wanted: Digest) -> str:
    return f"blobs/sha256/{wanted.removeprefix('sha256:')}"


def _json(content: bytes, where: Path) -> dict[str, object]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise Refused(f"{where} is not a JSON object")
    return body


# -- packing --------------------------------------------------------------------------------------------------------


def pack(
    source: Path,
    layout: Path,
    *,
    argv: Sequence[str] | None = None,
    name: str | None = None,
    platform: Platform | None = None,
) -> Digest:
    """Make a single-layer image of what the directory holds, add it to the layout (made when missing), and answer the
    digest of its manifest. Owners, times and all mode bits but the owner's right to execute are left out, so the same
    names and contents give the same digest. `argv` is what the image itself says it is started with; `platform`
    defaults to this machine's; `name` lists the image in the layout and is no part of the digest.
    """
    _check_places(source, layout)
    try:
        with _locked(layout):
            layer, content = _pack_layer(source, layout)
            config = _add(layout, _config(content, argv, platform or manifest.this_machine()), manifest.CONFIG)
            body = {"schemaVersion": 2, "mediaType": manifest.MANIFEST, "config": config.plain()}
            image = _add(layout, _encoded(body | {"layers": [layer.plain()]}), manifest.MANIFEST)
            _list(layout, replace(image, name=name))
    except OSError as error:
        raise Refused(f"{source} cannot be packed: {error}") from None
    return image.digest


def _check_places(source: Path, layout: Path) -> None:
    if not source.is_dir():
        raise Refused(f"{source} is not a directory")
    if layout.resolve().is_relative_to(source.resolve()):
        raise Refused(f"the image layout {layout} lies within {source}, which would pack it into itself")
    if layout.exists() and not layout.is_dir():
        raise Refused(f"{layout} is not a directory")


@contextmanager
def _locked(layout: Path) -> Iterator[None]:
    """The layout, made when missing, for this process alone."""
    layout.mkdir(parents=True, exist_ok=True)
    handle = os.open(layout, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        for debris in (*layout.glob(".new-*"), *layout.glob("blobs/sha256/.new-*")):
            debris.unlink()  # of a packer that was killed; nobody else holds the lock
        if not (layout / MARKER).exists():
            if any(layout.iterdir()):
                raise Refused(f"{layout} holds other things than an image layout")
            _replace(layout / MARKER, MARK)
        (layout / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        yield
    finally:
        os.close(handle)


def _config(content: Digest, argv: Sequence[str] | None, platform: Platform) -> bytes:
    inner = {"Entrypoint": list(argv)} if argv else {}
    body = {"architecture": platform.architecture, "os": platform.os, "config": inner}
    return _encoded(body | {"rootfs": {"type": "layers", "diff_ids": [content]}})


def _encoded(body: object) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def _pack_layer(source: Path, layout: Path) -> tuple[Descriptor, Digest]:
    """The layer as a blob of the layout, and the digest of its content before compression."""
    with _new_blob(layout) as (file, keep):
        outer = _Hashed(file)
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=cast(BinaryIO, outer), mtime=0) as zipped:
            inner = _Hashed(cast(BinaryIO, zipped))
            _write_tar(source, inner)
        keep(outer.running.digest)
    return (
        Descriptor(media_type=manifest.LAYER + "+gzip", digest=outer.running.digest, size=outer.running.size),
        inner.running.digest,
    )


class _Hashed:
    """A file that hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.running = file, digest.Running()

    def write(self, piece: bytes) -> int:
        self.running.update(piece)
        return self._file.write(piece)

    def flush(self) -> None:
        self._file.flush()


def _write_tar(source: Path, to: _Hashed) -> None:
    with tarfile.open(fileobj=cast(BinaryIO, to), mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for path in _sorted_entries(source):
            member = _member(path, source)
            if member.isreg():
                with _regular(path) as file:
                    member.size = os.fstat(file.fileno()).st_size
                    tar.addfile(member, file)
            else:
                tar.addfile(member)
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every member it has written


def _sorted_entries(source: Path) -> Iterator[Path]:
    """Everything below, each directory before what it holds, in the order of the names' bytes."""
    pending, count = [source], 0
    while pending:
        path = pending.pop()
        if path is not source:
            yield path
        if path is source or (path.is_dir() and not path.is_symlink()):
            found = sorted(path.iterdir(), key=lambda item: os.fsencode(item.name), reverse=True)
            count += len(found)
            if count > MAX_ENTRIES:
                raise Refused(f"{source} holds more than {MAX_ENTRIES} files")
            pending.extend(found)


def _member(path: Path, source: Path) -> tarfile.TarInfo:
    mode = path.lstat().st_mode
    member = tarfile.TarInfo(os.fspath(path.relative_to(source)))
    member.mode = 0o755
    if stat.S_ISDIR(mode):
        member.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(mode):
        member.type, member.mode, member.linkname = tarfile.SYMTYPE, 0o777, os.readlink(path)
        if not confined(path, source):
            raise Refused(f"{path} links to {member.linkname[:80]!r}, which is outside of {source}")
    elif stat.S_ISREG(mode):
        member.mode = 0o755 if mode & stat.S_IXUSR else 0o644
    else:
        raise Refused(f"{path} is neither a file nor a directory nor a link")
    return member


def confined(link: Path, root: Path) -> bool:
    """Whether a symbolic link is relative and, followed to its end, stays below the root."""
    if os.path.isabs(os.readlink(link)):
        return False
    return Path(os.path.realpath(link)).is_relative_to(os.path.realpath(root))


@contextmanager
def _new_blob(layout: Path) -> Iterator[tuple[BinaryIO, Callable[[Digest], None]]]:
    """A file that becomes a blob when it is kept under its digest, and leaves no trace when not."""
    blobs = layout / "blobs" / "sha256"
    handle, temporary = tempfile.mkstemp(prefix=".new-", dir=blobs)
    try:
        with os.fdopen(handle, "wb") as file:

            def keep(wanted: Digest) -> None:
                _settle(file, temporary, layout / _blob(wanted))

            yield file, keep
    finally:
        Path(temporary).unlink(missing_ok=True)


def _add(layout: Path, content: bytes, media_type: str) -> Descriptor:
    wanted = digest.of_bytes(content)
    _replace(layout / _blob(wanted), content)
    return Descriptor(media_type=media_type, digest=wanted, size=len(content))


def _replace(path: Path, content: bytes) -> None:
    """The file with this content, whole or not at all."""
    handle, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            _settle(file, temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _settle(file: BinaryIO, temporary: str, path: Path) -> None:
    os.fchmod(file.fileno(), 0o644)
    file.flush()
    os.fsync(file.fileno())
    Path(temporary).rename(path)
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _list(layout: Path, image: Descriptor) -> None:
    """Name the image in the layout's index; a name moves to the image that got it last. What others listed stays."""
    index = layout / "index.json"
    body: dict[str, Any] = {"schemaVersion": 2, "mediaType": manifest.INDEX, "manifests": []}
    if index.exists():
        listed = directory(layout).images()
        body = json.loads(index.read_bytes())
    else:
        listed = ()
    if any(item.digest == image.digest and item.name == (image.name or item.name) for item in listed):
        return
    pairs = zip(body["manifests"], listed, strict=True)
    kept = [plain for plain, item in pairs if image.name is None or item.name != image.name]
    _replace(index, _encoded(body | {"manifests": [*kept, image.plain()]}))
