"""Unix sockets that are listened at."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def listening(path: Path, mode: int) -> Iterator[socket.socket]:
    """A socket at the path, of that mode from its first instant; one that a dead process left is replaced, and it is
    gone afterwards. Raises `OSError`."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(~mode & 0o777)
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            listener.bind(f"/proc/self/fd/{directory}/{path.name}")  # a deep path exceeds the 107 bytes of an address
        finally:
            os.close(directory)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    try:
        yield listener
    finally:
        listener.close()
        path.unlink(missing_ok=True)
