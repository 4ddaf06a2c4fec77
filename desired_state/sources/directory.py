"""A directory as a source: every `*.yaml` and `*.yml` below it that is not hidden, watched."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from watchfiles import Change, awatch

from desired_state.findings import Finding, escaped
from desired_state.sources.base import NOTHING, InForce, SourceUnavailable, Tree
from desired_state.strict import FILE_BYTES
from stickers import digest

SUFFIXES: Final = (".yaml", ".yml")
FILES: Final = 20_000
TREE_BYTES: Final = 64 << 20
LEVELS: Final = 20
ATTEMPTS: Final = 10

T = TypeVar("T")
Identity = tuple[int, int, str]  # of a directory: device, number, where it really is
Signature = tuple[tuple[str, int, int, int, int], ...]


class _Moved(Exception):
    """Something went away between being listed and being read."""


@dataclass(frozen=True, slots=True)
class _File:
    """A file to be read: its path in the tree, where it really is, and what tells one state of it from another."""

    name: str
    path: str
    state: os.stat_result

    @property
    def signature(self) -> tuple[str, int, int, int, int]:
        state = self.state
        return self.name, state.st_ino, state.st_mtime_ns, state.st_ctime_ns, state.st_size


class Directory:
    """A `Source`. `settle` is how long (in seconds) a tree that changed must have been left alone to be taken for
    whole; `patience` how long it waits before it looks for a directory that is not there.

    Symbolic links to files are followed as long as they stay inside; what leads out, or to a directory, is a finding,
    since to pass over it would be to undeclare what it holds.
    """

    def __init__(self, root: Path, *, settle: float = 0.05, patience: float = 1.0) -> None:
        self.root, self.settle, self.patience = root, settle, patience
        self._limiter = CapacityLimiter(2)
        self._settled: str | None = None  # the revision that was read last

    async def read(self, in_force: InForce = NOTHING) -> Tree:
        for _ in range(ATTEMPTS):
            with suppress(_Moved):
                tree, signature = await self._in_thread(self._snapshot)
                if tree.revision == self._settled:
                    return tree
                if not _left_alone(signature, self.settle):
                    await anyio.sleep(self.settle)
                if await self._in_thread(self._signature) == signature:
                    self._settled = tree.revision
                    return tree
        raise SourceUnavailable(f"{self.root} does not stop changing while it is read")

    async def changes(self) -> AsyncGenerator[None, None]:
        known = await self._identity()
        while True:
            if known is None:
                await anyio.sleep(self.patience)
            else:
                async with aclosing(self._watched(known)) as watched:
                    async for _ in watched:
                        yield
                yield  # it went away, or another stands in its place
            known, before = await self._identity(), known
            if known is not None and before is None:
                yield

    async def _watched(self, known: Identity) -> AsyncGenerator[None, None]:
        """Yields at changes, the first time when the watch stands; ends when the directory is no longer the known one:
        another number or another place, or it was removed, for the number may be given again at once."""
        events = awatch(self.root, rust_timeout=250, yield_on_timeout=True, debounce=400, step=50)
        first = True
        try:
            async with aclosing(events):
                async for changed in events:
                    if changed or first:
                        first = False
                        yield
                    if self._removed(changed, known) or await self._identity() != known:
                        return
        except (OSError, RuntimeError):  # nothing left to watch with, or nothing to watch
            await anyio.sleep(self.patience)

    def _removed(self, changed: set[tuple[Change, str]], known: Identity) -> bool:
        places = (os.path.abspath(self.root), known[2])
        return any(kind is Change.deleted and os.path.abspath(path) in places for kind, path in changed)

    async def _identity(self) -> Identity | None:
        return await self._in_thread(lambda: _identity(self.root))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)

    # -- in the worker thread ---------------------------------------------------------------------------------------

    def _snapshot(self) -> tuple[Tree, Signature]:
        listed = self._listed()
        files: dict[str, bytes] = {}
        findings = [found for found in listed if isinstance(found, Finding)]
        for file in listed:
            if isinstance(file, _File):
                content = self._content(file)
                if isinstance(content, Finding):
                    findings.append(content)
                else:
                    files[file.name] = content
        self._check_size(files)
        return Tree(files=files, revision=_revision(files), findings=tuple(findings)), _signature(listed)

    def _signature(self) -> Signature:
        return _signature(self._listed())

    def _listed(self) -> list[_File | Finding]:
        try:
            root = os.path.realpath(self.root, strict=True)
            listed = list(_walk(root, root, 0))
        except OSError as error:
            raise SourceUnavailable(f"{self.root} cannot be read: {error.strerror}") from None
        if len(listed) > FILES:
            raise SourceUnavailable(f"{self.root} holds more than {FILES} documents' files")
        return listed

    def _content(self, file: _File) -> bytes | Finding:
        try:
            return _read(file.path)
        except FileNotFoundError:
            raise _Moved from None
        except PermissionError:
            return _finding(file.name, "FILE_UNREADABLE", "a file that may not be read", "a file that may")
        except OSError as error:
            raise SourceUnavailable(f"{file.name} cannot be read: {error.strerror}") from None

    def _check_size(self, files: dict[str, bytes]) -> None:
        if sum(map(len, files.values())) > TREE_BYTES:
            raise SourceUnavailable(f"{self.root} holds more than {TREE_BYTES >> 20} MiB of documents")


def _identity(root: Path) -> Identity | None:
    try:
        real = os.path.realpath(root, strict=True)
        state = os.stat(real)
    except OSError:
        return None
    return (state.st_dev, state.st_ino, real) if stat.S_ISDIR(state.st_mode) else None


def _walk(root: str, directory: str, level: int) -> Iterator[_File | Finding]:
    """Everything below, in the order of names. What goes away meanwhile is left out: the next look says so."""
    with os.scandir(directory) as found:
        entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in entries:
        name = os.path.relpath(entry.path, root)
        if entry.is_symlink():
            yield from _linked(root, entry, name)
        elif entry.is_dir(follow_symlinks=False):
            yield from _below(root, entry, name, level)
        elif entry.name.lower().endswith(SUFFIXES):
            yield from _file(entry.path, name)


def _below(root: str, entry: os.DirEntry[str], name: str, level: int) -> Iterator[_File | Finding]:
    if level >= LEVELS:
        yield _finding(name, "TOO_DEEP", f"more than {LEVELS} levels of directories", "fewer")
        return
    try:
        yield from _walk(root, entry.path, level + 1)
    except PermissionError:
        yield _finding(name, "FILE_UNREADABLE", "a directory that may not be read", "one that may")
    except (FileNotFoundError, NotADirectoryError):
        raise _Moved from None


def _linked(root: str, entry: os.DirEntry[str], name: str) -> Iterator[_File | Finding]:
    real = os.path.realpath(entry.path)
    if os.path.isdir(real):
        yield _finding(name, "LINK_TO_DIRECTORY", "a symbolic link to a directory", "the directory itself")
    elif entry.name.lower().endswith(SUFFIXES):
        if os.path.commonpath([root, real]) == root:
            yield from _file(real, name)
        else:
            yield _finding(
                name, "LINK_OUT_OF_TREE", "a symbolic link that leads out of the tree", "one that stays inside"
            )


def _file(path: str, name: str) -> Iterator[_File | Finding]:
    try:
        state = os.lstat(path)
    except FileNotFoundError:
        yield _finding(name, "FILE_MISSING", "nothing where a file should be", "a file")
        return
    if stat.S_ISREG(state.st_mode):
        yield _File(name, path, state)
    else:
        yield _finding(name, "NOT_A_FILE", "something that is no file", "a file")


def _read(path: str) -> bytes:
    """The bytes, one more than a file may have when there are too many. Neither a link nor a pipe that was put there
    meanwhile is followed or waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FileNotFoundError(path)
        return file.read(FILE_BYTES + 1)


def _signature(listed: list[_File | Finding]) -> Signature:
    return tuple(file.signature for file in listed if isinstance(file, _File))


def _left_alone(signature: Signature, settle: float) -> bool:
    """Whether nothing in it has changed for so long, by the one time of a file that nobody can set."""
    newest = max((changed for _, _, _, changed, _ in signature), default=0)
    return 0 < newest < time.time_ns() - settle * 1e9


def _revision(files: dict[str, bytes]) -> str:
    """The digest of what was read. Names of files need not be texts."""
    return digest.of({os.fsencode(name).hex(): digest.of_bytes(content) for name, content in files.items()})


def _finding(name: str, code: str, found: str, expected: str) -> Finding:
    return Finding(code=code, file=escaped(name), line=1, column=1, path="", found=found, expected=expected)
