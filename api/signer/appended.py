"""Files that only grow: a line is there, on the disk, or it is not."""

from __future__ import annotations

import os
from pathlib import Path

from api.problem import Problem


def append(path: Path, line: str, *, settled: bool = True) -> None:
    """One more line. `settled`: it is on the disk when this returns."""
    new = not path.exists()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _write(handle, line.encode() + b"\n")
            if settled:
                os.fsync(handle)
        finally:
            os.close(handle)
        if new:
            settle(path.parent)
    except OSError as error:
        raise Problem("DISK", f"{path}: {error.strerror}") from None


def _write(handle: int, content: bytes) -> None:
    """All of it, or none: what came there of a line that has no room is taken away."""
    before = os.fstat(handle).st_size
    try:
        while content:
            content = content[os.write(handle, content) :]
    except OSError:
        os.ftruncate(handle, before)
        raise


def whole_lines(path: Path) -> list[str]:
    """Every line that has its end. What comes after the last is of somebody who was killed while writing, and is taken
    away."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    whole, end, torn = content.rpartition(b"\n")
    if torn:
        os.truncate(path, len(whole) + len(end))
    return whole.decode().split("\n") if end else []


def settle(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
