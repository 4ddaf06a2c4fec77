"""One line at the bottom of a terminal that says how far a job is; everything else scrolls above it.

Without a terminal there is no bar, and nothing is written but the lines themselves.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Final, TextIO

WIDTH: Final = 24  # of the bar itself
NARROW: Final = 80  # columns where the terminal does not say how many it has
FULL, EMPTY = "█", "░"
ERASE: Final = "\r\x1b[K"


class Bar:
    """`line` prints above it, `move` says how far things are, `end` takes it away."""

    def __init__(self, out: TextIO | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._out = out or sys.stdout
        self._shown = self._out.isatty() and os.environ.get("TERM") != "dumb"
        self._now, self._began = now, now()
        self._done, self._total, self._text = 0, 0, ""

    def line(self, text: str) -> None:
        self._write(f"{ERASE}{text}\n" if self._shown else f"{text}\n")
        self._draw()

    def move(self, done: int, total: int, text: str) -> None:
        self._done, self._total, self._text = done, total, text
        self._draw()

    def end(self) -> None:
        if self._shown:
            self._write(ERASE)
        self._total = 0

    def _draw(self) -> None:
        if self._shown and self._total:
            self._write(ERASE + self._drawn(_columns(self._out)))

    def _drawn(self, columns: int) -> str:
        """Never wider than the terminal: what wraps cannot be erased."""
        filled = WIDTH * self._done // self._total
        seconds = int(self._now() - self._began)
        head = f"{FULL * filled}{EMPTY * (WIDTH - filled)} {self._done}/{self._total}  {_clock(seconds)}"
        return f"{head}  {self._text}"[: columns - 1]

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _clock(seconds: int) -> str:
    return f"{seconds // 60}:{seconds % 60:02}"


def _columns(out: TextIO) -> int:
    try:
        return os.get_terminal_size(out.fileno()).columns or NARROW
    except (OSError, ValueError):
        return NARROW
