"""Numbered frames arrive once and in order, whatever polls and answers get lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.agent.channels import polls
from drivers.agent.channels.polls import Line, Overrun, Poll, Polled
from drivers.agent.protocol import Malformed


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans())))
def test_nothing_is_lost_doubled_or_moved(story: list[tuple[int, bool, bool]]) -> None:
    here, there = Line(), Line()
    said: list[str] = []
    heard: list[str] = []
    for more, poll_lost, answer_lost in [*story, (0, False, False)]:
        for _ in range(more):
            said.append(str(len(said)))
            here.put(said[-1])
        first, frames = here.waiting(1000)
        if poll_lost:
            continue
        heard += there.fresh(first, frames)
        if not answer_lost:
            here.has_come(there.got)
    assert heard == said
    assert not here


def test_a_gap_and_a_number_never_sent_are_refused() -> None:
    line = Line()
    line.put("a")
    with pytest.raises(Malformed, match="begin at 3"):
        line.fresh(3, ["c"])
    with pytest.raises(Malformed, match="was never sent"):
        line.has_come(2)
    line.has_come(1)
    line.has_come(0)  # an answer that was overtaken


def test_as_much_is_sent_at_once_as_was_asked_for_and_one_at_least() -> None:
    line = Line()
    for text in ("aaaa", "bb", "cc"):
        line.put(text)
    assert line.waiting(6) == (1, ("aaaa", "bb"))
    assert line.waiting(1) == (1, ("aaaa",))


def test_what_nobody_fetches_ends() -> None:
    line = Line()
    with pytest.raises(Overrun):
        for _ in range(polls.MOST_KEPT + 1):
            line.put("a")


def test_polls_are_read_as_they_were_written() -> None:
    poll = Poll(line="a", got=1, first=2, frames=("x", "y"), wait=2.5)
    polled = Polled(got=3, first=4, frames=("z",))
    assert polls.read_poll(polls.written(poll)) == poll
    assert polls.read_polled(polls.written(polled)) == polled
    for reader in (polls.read_poll, polls.read_polled):
        with pytest.raises(Malformed):
            reader(b"[]")
