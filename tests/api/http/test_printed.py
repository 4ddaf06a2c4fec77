"""What a workload printed, taken up again: nothing is left out in silence, and what may be told twice is said to be."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence

from api.http.printed import SLACK, WINDOW, Read, frames

Frame = tuple[str, str, str | None]  # kind, text, id


def log(*views: Sequence[str]) -> Read:
    """A log that is read once with each view, the last again and again."""
    left = list(views)

    async def read(lines: int, follow: bool) -> AsyncGenerator[str, None]:
        view = left.pop(0) if len(left) > 1 else left[0]
        for line in view[-lines:]:
            yield line

    return read


async def told(read: Read, last: str | None = None, tail: int = 1_000) -> list[Frame]:
    found = []
    async for frame in frames(read, tail, last):
        fields = dict(line.split(": ", 1) for line in frame.decode().strip().splitlines())
        found.append((fields["event"], json.loads(fields["data"]).get("text", ""), fields.get("id")))
    return found


def texts(found: list[Frame]) -> list[str]:
    return [text for kind, text, _ in found if kind == "line"]


def kinds(found: list[Frame]) -> list[str]:
    return [kind for kind, _, _ in found if kind != "line"]


async def test_whoever_comes_back_goes_on_behind_the_line_they_saw_last() -> None:
    lines = [f"line {number}" for number in range(50)]
    seen = await told(log(lines[:30]))
    again = await told(log(lines), last=seen[-2][2])
    assert (texts(again), kinds(again)) == (lines[30:], ["hello", "end"])


async def test_of_lines_that_repeat_none_is_left_out_and_it_is_said_that_some_may_come_again() -> None:
    beats = ["tick", "tock"] * 20
    seen = await told(log(beats))
    again = await told(log([*beats, "tick", "tock", "at last"]), last=seen[-2][2])
    assert kinds(again) == ["hello", "again", "end"]
    assert texts(again)[-3:] == ["tick", "tock", "at last"]
    assert len(texts(again)) <= len(beats) + 3 - WINDOW


async def test_a_line_that_is_not_shown_any_more_is_a_gap() -> None:
    again = await told(log(["other", "lines"]), last="0" * 32)
    assert (kinds(again), texts(again)) == (["hello", "gap", "end"], ["other", "lines"])


async def test_a_flood_between_the_search_and_the_stream_is_told_of() -> None:
    lines = [f"line {number}" for number in range(10)]
    last = (await told(log(lines)))[-2][2]
    flood = [f"flood {number}" for number in range(SLACK + WINDOW + 5)]

    async def read(count: int, follow: bool) -> AsyncGenerator[str, None]:
        for line in [*flood, "now"] if follow else lines:
            yield line

    again = await told(read, last=last)
    assert kinds(again) == ["hello", "gap", "end"]
    assert texts(again)[-1] == "now"
