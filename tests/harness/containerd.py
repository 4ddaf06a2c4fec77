"""A private containerd, so that an engine can be killed and what holds its containers lives on, or dies too.

An engine that starts its own containerd takes it along when it is killed; on most hosts it is a service of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.harness.engine import processes_of

START = 30.0  # seconds

SETTINGS = """version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{directory}/sock"
"""


class NoContainerd(RuntimeError):
    """Why none can be had here."""


class Containerd:
    """On directories of its own; its shims name its socket on their command lines."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.address = directory, f"{directory}/sock"
        (directory / "settings").write_text(SETTINGS.format(directory=directory))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Where it does not run already. To be called by a thread that lives as long as the tests do."""
        if self._process is not None:
            return
        libc = ctypes.CDLL(None)
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                ["containerd", f"--config={self.directory}/settings"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: libc.prctl(1, signal.SIGKILL),  # none outlives the tests that started it
            )
        deadline = time.monotonic() + START
        while not self._listens():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise NoContainerd((self.directory / "log").read_text(errors="replace")[-400:])
            time.sleep(0.02)

    def crash(self, *, everything: bool) -> None:
        """Killed, and with `everything` the shims and all that runs in containers, as when the host loses power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if everything:
            for pid in _with_descendants(set(processes_of(self.directory))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knocking:
            return knocking.connect_ex(self.address) == 0


@contextlib.contextmanager
def running_containerd() -> Iterator[Containerd]:
    """One of our own; `NoContainerd` says why there cannot be one."""
    if os.geteuid() != 0 or shutil.which("containerd") is None:
        raise NoContainerd("needs root and containerd")
    directory = Path(tempfile.mkdtemp(prefix="holdfast-containerd-"))
    containerd = Containerd(directory)
    try:
        containerd.start()
        yield containerd
    finally:
        containerd.crash(everything=True)
        shutil.rmtree(directory, ignore_errors=True)


def _with_descendants(pids: set[int]) -> set[int]:
    """They, and all that they or those have started: found before any is killed, since orphans are nobody's."""
    found, grows = set(pids), True
    parents = dict(_parents())
    while grows:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found, grows = found | more, bool(more)
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                yield int(entry.name), int((entry / "stat").read_text().rpartition(")")[2].split()[1])
