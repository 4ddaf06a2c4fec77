"""Gives back to the system what a storm of handshakes leaves in the allocator: a quarter of what connections hold."""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def give_back() -> None:
    """Takes tens of milliseconds where there are thousands of connections."""
    _trim(0)


def _found() -> Callable[[int], int]:
    """glibc's own. Elsewhere there is none."""
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return lambda padding: 0
    return trim


_trim = _found()
