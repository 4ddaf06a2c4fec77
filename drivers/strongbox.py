"""Files for their owner alone: whole at every moment, on the disk when they are said to be, never read where others
could have."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

LARGEST: Final = 1024 * 1024  # bytes that are read of any file here
PRIVATE: Final = 0o600
BESIDE: Final = ".new-"  # how a file begins that is not whole yet


class Exposed(Exception):
    """A file or directory that others can read or change; the sentence says how to mend it."""


class Unusable(Exception):
    """A file or directory that is not there or cannot be used."""


class Odd(Unusable):
    """A file that is not what it should be."""


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """The directory, made when missing, for this process alone."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Unusable(f"{directory}: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        check_mode(directory, os.fstat(handle).st_mode, forbidden=0o022)
        yield
    except OSError as error:
        raise Unusable(f"{error.filename or directory}: {error.strerror}") from None
    finally:
        os.close(handle)


def put(path: Path, content: bytes, *, mode: int = PRIVATE) -> None:
    """The file with this content and mode, whole or not at all, and on the disk when this returns."""
    handle, temporary = tempfile.mkstemp(prefix=BESIDE, dir=path.parent)
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
    settle(path.parent)


def settle(directory: Path) -> None:
    """What was renamed or removed in it is so on the disk too."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def get(path: Path, *, forbidden: int = 0o077) -> bytes:
    """The content of a regular file that others have none of the forbidden rights to."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        reason = "is a link, which is not followed" if error.errno == errno.ELOOP else error.strerror
        raise Unusable(f"{path}: {reason}") from None
    with os.fdopen(handle, "rb") as file:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise Odd(f"{path} is no regular file")
        check_mode(path, mode, forbidden)
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise Odd(f"{path} has more than {LARGEST} bytes")
    return content


def check_mode(path: Path, mode: int, forbidden: int) -> None:
    if mode & forbidden:
        right = "read" if forbidden & 0o044 else "changed"
        wanted = stat.S_IMODE(mode) & ~forbidden
        raise Exposed(f"{path} can be {right} by others (mode {stat.S_IMODE(mode):04o}); chmod {wanted:04o} {path}")


def sweep(directory: Path) -> None:
    """Take away what a run that was killed left half written."""
    for path in directory.glob(f"{BESIDE}*"):
        path.unlink(missing_ok=True)
