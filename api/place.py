"""Where this process lives, as its leases name it: so that who is started again takes over at once what it held.

A place is never shared. It is drawn once for a state directory and locked while a process lives there; it is mixed
with the name of the machine and the time of its start, since state directories are copied with disks and images, and
every container believes to live in `/var/lib/holdfast`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import socket
from pathlib import Path
from secrets import token_hex
from typing import Final

from api.problem import Problem

FILE: Final = "replica"
BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class Place:
    """A state directory, for this process alone until `release`: its socket is there. `name` is what leases bear."""

    def __init__(self, state: Path) -> None:
        self._descriptor = os.open(state / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            _, _, holder = os.pread(self._descriptor, 64, 0).decode(errors="replace").strip().partition("\n")
            os.close(self._descriptor)
            raise Problem(
                "STORE_LOCKED",
                f"process {holder or 'unknown'} of Holdfast lives in {state}: talk to that one, stop it first, or give "
                "each replica a HOLDFAST_STATE",
            ) from None
        self.name = f"{socket.gethostname()}/{_mixed(self._drawn())}"

    def _drawn(self) -> str:
        drawn = os.pread(self._descriptor, 16, 0).decode(errors="replace")
        if not re.fullmatch("[0-9a-f]{16}", drawn):
            drawn = token_hex(8)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{drawn}\n{os.getpid()}\n".encode(), 0)
        return drawn

    def release(self) -> None:
        os.close(self._descriptor)


def _mixed(drawn: str) -> str:
    boot = BOOT.read_text().strip() if BOOT.exists() else ""
    return hashlib.sha256(f"{drawn} {socket.gethostname()} {boot}".encode()).hexdigest()[:12]
