"""The bar says how far a job is, on a terminal alone, and never gets in the way of the lines."""

from __future__ import annotations

import io
import os
import pty
import re

import pytest

from api.cli.bar import Bar
from api.cli.follow import follow


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(written: str) -> list[str]:
    """What stands on the screen at last: `\\r` goes to the line's beginning, ESC[K erases it."""
    return [re.split(r"\r\x1b\[K", row)[-1] for row in written.split("\n")]


def test_lines_scroll_above_the_bar() -> None:
    out = Terminal()
    bar = Bar(out, now=lambda: 0.0)
    bar.line("first")
    bar.move(1, 4, "web-1 running")
    bar.line("second")
    first, second, last = screen(out.getvalue())
    assert (first, second) == ("first", "second")
    assert last == "██████░░░░░░░░░░░░░░░░░░ 1/4  0:00  web-1 running"
    bar.end()
    assert screen(out.getvalue()) == ["first", "second", ""]


def test_without_a_terminal_there_are_only_the_lines() -> None:
    out = io.StringIO()
    bar = Bar(out)
    bar.line("first")
    bar.move(1, 2, "web-1")
    bar.end()
    assert out.getvalue() == "first\n"


def test_it_is_never_wider_than_the_terminal() -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as out, os.fdopen(master, "rb"):
        import fcntl
        import struct
        import termios

        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
        bar = Bar(out)
        bar.move(1, 2, "a target with a very long name that would wrap")
        shown = os.read(master, 4_096).decode().rpartition("\x1b[K")[2]
        assert len(shown) <= 39


def test_time_is_told_in_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 125.0])
    out = Terminal()
    Bar(out, now=lambda: next(times)).move(2, 2, "")
    assert "2/2  2:05" in out.getvalue()


def test_following_a_job_moves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    monkeypatch.setattr("sys.stdout", out)
    task = {
        "kind": "task",
        "target": "web-1",
        "component": "api",
        "state": "running",
        "detail": "",
        "done": 0,
        "total": 2,
    }
    end = {"result": {"ok": True, "message": "done"}}
    assert follow(iter([{"event": task}, {"event": task | {"done": 1, "state": "succeeded"}}, end]), "text") == 0
    assert "1/2" in out.getvalue()
    assert screen(out.getvalue())[-2:] == ["done", ""]
