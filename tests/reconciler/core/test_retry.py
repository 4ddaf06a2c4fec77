"""The arithmetic of trying again."""

from __future__ import annotations

from datetime import timedelta
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.drift import Memory
from reconciler.core.retry import (
    CIRCUIT,
    CIRCUIT_OPENS_AT,
    HEALS,
    QUIET,
    TASKS,
    TURNS,
    Backoff,
    circuit,
    heal_done,
    heal_failed,
    heal_held,
    longest,
    next_attempt,
)
from tests.reconciler.core.builders import NOW

SECOND = timedelta(seconds=1)
POLICY = Backoff(first=SECOND, factor=2, limit=timedelta(seconds=30), attempts=8)
POLICIES = st.sampled_from([TASKS, TURNS, HEALS, CIRCUIT, POLICY])


def test_the_longest_wait_grows_by_the_factor_up_to_the_limit() -> None:
    assert [longest(attempt, POLICY).total_seconds() for attempt in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]


@given(st.integers(1, 10**6), POLICIES, st.text())
def test_a_wait_is_between_nothing_and_the_longest(attempt: int, policy: Backoff, seed: str) -> None:
    wait = next_attempt(attempt, policy, seed=seed)
    if policy.attempts is not None and attempt >= policy.attempts:
        assert wait is None
    else:
        assert wait is not None
        assert timedelta() <= wait <= longest(attempt, policy) <= policy.limit


@given(st.integers(1, 7), st.text())
def test_the_same_seed_waits_equally_long(attempt: int, seed: str) -> None:
    assert next_attempt(attempt, POLICY, seed=seed) == next_attempt(attempt, POLICY, seed=seed)


def test_jitter_is_full_and_even() -> None:
    waits = [next_attempt(6, POLICY, seed=f"target-{n}") for n in range(2_000)]
    seconds = [wait.total_seconds() for wait in waits if wait is not None]
    assert len(set(seconds)) == len(seconds) == 2_000
    assert min(seconds) < 1
    assert max(seconds) > 29
    assert mean(seconds) == pytest.approx(15, abs=1)


def test_the_attempts_of_one_seed_are_jittered_apart() -> None:
    shares = {
        (wait / longest(attempt, POLICY))
        for attempt in range(1, 8)
        if (wait := next_attempt(attempt, POLICY, seed="a"))
    }
    assert len(shares) == 7


def test_after_the_last_attempt_there_is_no_next() -> None:
    assert next_attempt(7, POLICY, seed="a") is not None
    assert next_attempt(8, POLICY, seed="a") is None


def test_a_turn_is_always_tried_again() -> None:
    assert next_attempt(10**9, TURNS, seed="a") is not None


def test_a_circuit_opens_at_so_many_failures_and_no_sooner() -> None:
    assert circuit(CIRCUIT_OPENS_AT - 1, seed="a") is None
    first = circuit(CIRCUIT_OPENS_AT, seed="a")
    assert first is not None
    assert first <= CIRCUIT.first
    later = circuit(50, seed="a")
    assert later is not None
    assert later <= CIRCUIT.limit


def test_heals_wait_longer_the_more_of_them_did_not_hold() -> None:
    memory, spans = Memory(), []
    for _ in range(6):
        memory = heal_failed(memory, now=NOW, seed="default/web-1/api")
        assert memory.not_before is not None
        spans.append((memory.attempts, memory.not_before - NOW <= longest(memory.attempts, HEALS)))
    assert spans == [(attempt, True) for attempt in range(1, 7)]


def test_a_heal_that_went_well_holds_up_nothing_and_those_that_follow_wait_ever_longer() -> None:
    memory, spans = Memory(), []
    for attempt in range(1, 7):
        memory = heal_done(memory, now=NOW, seed="default/web-1/api")
        assert memory.not_before is not None
        spans.append(memory.not_before - NOW)
        assert memory.attempts == attempt
    assert spans[0] == timedelta()
    assert all(timedelta() < span <= longest(attempt, HEALS) for attempt, span in enumerate(spans[1:], 1))


def test_a_heal_that_went_well_is_forgotten_when_it_has_held() -> None:
    memory = heal_done(Memory(sequence=7), now=NOW, seed="a")
    assert heal_held(memory, now=NOW + QUIET - SECOND) is memory
    assert heal_held(memory, now=NOW + QUIET) == Memory(sequence=7)


def test_a_quiet_period_forgets_the_heals_and_nothing_sooner_does() -> None:
    memory = Memory(attempts=3, not_before=NOW, sequence=7)
    assert heal_held(memory, now=NOW + QUIET - SECOND) is memory
    assert heal_held(memory, now=NOW + QUIET) == Memory(sequence=7)


def test_where_nothing_failed_there_is_nothing_to_forget() -> None:
    memory = Memory(sequence=7)
    assert heal_held(memory, now=NOW + 99 * QUIET) is memory


def test_failures_after_a_quiet_period_count_from_one() -> None:
    memory = Memory(attempts=5, not_before=NOW)
    rested = heal_held(memory, now=NOW + QUIET)
    assert heal_failed(rested, now=NOW + QUIET, seed="a").attempts == 1
