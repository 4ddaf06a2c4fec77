"""Processes that a test left behind, found by what they were started with, and ended by their id."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path


def of(root: Path) -> list[int]:
    """Process ids of all whose arguments or first environment mention the directory; zombies are not counted."""
    mention, me = os.fsencode(root), os.getpid()
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid != me and _mentions(pid, mention)]


def _mentions(pid: int, mention: bytes) -> bool:
    for name in ("cmdline", "environ"):
        with contextlib.suppress(OSError):
            if mention in Path(f"/proc/{pid}/{name}").read_bytes():
                return True
    return False


def end(root: Path, within: float = 30.0) -> list[int]:
    """End supervisors first, since they take their workloads along; answers who had to be killed after all."""
    _signal([pid for pid in of(root) if _supervises(pid)], signal.SIGTERM)
    _wait(root, within)
    left = of(root)
    _signal(left, signal.SIGKILL)
    _wait(root, within)
    return left


def _supervises(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"\0supervise\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _wait(root: Path, within: float) -> None:
    """Looks for others only when all that it knows of are gone: there may be hundreds that it has no business with."""
    mention, until = os.fsencode(root), time.monotonic() + within
    while left := of(root):
        while left := [pid for pid in left if _mentions(pid, mention)]:
            if time.monotonic() > until:
                return
            time.sleep(0.02)
