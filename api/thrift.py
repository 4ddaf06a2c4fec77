"""Giving memory back: what a large piece of work has left free belongs to the host again, not to the next large one.

The C library keeps what is freed for later, in an arena for each thread, and lets its bounds grow with what it has
seen: a daemon that deployed a large fleet once kept half of what that took for good.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Any, Final

import anyio
from anyio import to_thread

from reconciler import events
from reconciler.core.machine import JOB_TERMINAL
from reconciler.events import Event

CALM: Final = 10.0  # seconds after a large piece of work
LARGE: Final = 100_000  # objects

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENAS = -1, -3, -8  # of mallopt(3)
_BLOCK: Final = 128 * 1024  # bytes from which a block is the kernel's own: it goes back as soon as it is freed


def begin() -> None:
    """Once, before anything large is done, and after everything is imported: what is imported stays, so that the
    collector need not look at it again and again."""
    libc = _libc()
    if libc is not None:
        libc.mallopt(_ARENAS, 2)
        libc.mallopt(_MMAP_THRESHOLD, _BLOCK)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _BLOCK)
    gc.collect()
    gc.freeze()


class Thrift:
    """A sink of events, which knows when something large is over."""

    def __init__(self, calm: float = CALM) -> None:
        self._calm, self._over = calm, anyio.Event()

    def __call__(self, event: Event) -> None:
        match event:
            case events.JobMoved(state=state) if state in JOB_TERMINAL:
                self._over.set()
            case events.SourceRead() | events.LeaseTaken():
                self._over.set()
            case _:
                pass

    async def run(self) -> None:
        """For ever: a while after each, trim."""
        while True:
            await self._over.wait()
            await anyio.sleep(self._calm)
            self._over = anyio.Event()
            settle()
            await to_thread.run_sync(trim)


def settle() -> None:
    """What a large fleet is held in stays. The collector would walk all of it every few turns, and nothing else could
    be done meanwhile: half a second for 10,000 targets."""
    if len(gc.get_objects(generation=2)) > LARGE:
        gc.collect()
        gc.freeze()


def trim() -> None:
    """On a thread: the interpreter goes on meanwhile."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)


def _libc() -> Any:
    """The GNU C library; None where it is another."""
    try:
        libc = ctypes.CDLL(None)
        return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
    except OSError:
        return None
