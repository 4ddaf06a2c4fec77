"""Streams read by threads: nothing is lost, not too much is read ahead, and no thread outlives its reader."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import anyio
import pytest

from drivers.errors import Unreachable
from drivers.feed import AHEAD, LINE, Feed, Hold, lines


class Spring:
    """A stream that flows until it is closed; `drawn` counts what was taken out of it."""

    def __init__(self) -> None:
        self.drawn, self._closed = 0, threading.Event()

    def close(self) -> None:
        self._closed.set()

    def open(self, hold: Hold) -> Iterator[int]:
        hold(self)
        while not self._closed.is_set():
            self.drawn += 1
            yield self.drawn


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "stream"]


async def test_every_item_comes_in_its_order() -> None:
    async with Feed(Spring().open) as feed:
        found = [await anext(feed) for _ in range(5 * AHEAD)]
    assert found == list(range(1, 5 * AHEAD + 1))


async def test_what_nobody_wants_yet_is_not_read() -> None:
    spring = Spring()
    async with Feed(spring.open) as feed:
        await anext(feed)
        await anyio.sleep(0.2)
        assert spring.drawn <= AHEAD + 2


async def test_it_ends_with_its_last_stream() -> None:
    async with Feed(lambda hold: iter([1]), lambda hold: iter([2])) as feed:
        assert sorted([item async for item in feed]) == [1, 2]


async def test_the_error_of_one_stream_ends_it() -> None:
    def fails(hold: Hold) -> Iterator[int]:
        raise Unreachable("gone")
        yield 0

    with pytest.raises(Unreachable):
        async with Feed(fails) as feed:
            await anext(feed)


def test_no_thread_outlives_the_loop_of_its_reader() -> None:
    async def read() -> None:
        async with Feed(*[Spring().open] * 8) as feed:
            await anext(feed)

    before = set(_threads())
    for _ in range(20):
        anyio.run(read)
    deadline = time.monotonic() + 5
    while (left := set(_threads()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


async def test_what_is_printed_comes_line_by_line_however_it_was_cut() -> None:
    pieces = [b"one\ntw", b"o\n", b"", b"\xff\nlast"]
    found = [line async for line in lines(lambda _: iter(pieces))]
    assert found == ["one", "two", "\ufffd", "last"]


async def test_a_line_without_end_is_shown_in_pieces() -> None:
    found = [line async for line in lines(lambda _: iter([b"x" * LINE, b"x", b"y\n"]))]
    assert found == ["x" * (LINE + 1), "y"]
