"""One process per embedded store: a lock on a side file, which ends with the process however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from reconciler.store.errors import Locked


class SideFile:
    """The lock beside a database file. It holds the holder's process id, for the sentence that a second one gets.

    The file stays when the lock is given up: to remove it would let two processes lock two files of one name.
    """

    def __init__(self, database: Path) -> None:
        self.path = database.with_name(database.name + ".lock")
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise Locked(
                f"the store {database} is held by process {holder}: talk to that one, or stop it first"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
