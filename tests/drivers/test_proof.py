"""Proof: what counts as healthy, what does not, and when the waiting ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desired_state.health import Health, HttpCheck
from drivers import proof
from drivers.proof import Disproven, Glimpse, Proven
from stickers.observation import Health as Answer
from stickers.observation import HealthState, Workload, WorkloadState
from tests.drivers.fake_hands import placement, workload
from tests.harness import virtual_time

anyio_backend = virtual_time.backend()

GOOD = workload(placement(), "new")
ILL = replace(GOOD, health=Answer(state=HealthState.UNHEALTHY, detail="answers 503"))
SILENT = replace(GOOD, health=Answer(state=HealthState.UNKNOWN))
UNCHECKED = replace(GOOD, health=Answer(state=HealthState.UNCHECKED))
STARTING = replace(GOOD, state=WorkloadState.STARTING)
RESTARTING = replace(GOOD, state=WorkloadState.RESTARTING)
GONE = replace(GOOD, state=WorkloadState.STOPPED, exit_code=3)
RULES = Health(check=HttpCheck(port=80), interval=timedelta(seconds=1), successes=3, deadline=timedelta(seconds=10))


class Answers:
    """One answer a look, the last one for ever; counts the looks."""

    def __init__(self, *answers: Workload | None, takes: float = 0.0) -> None:
        self.answers, self.takes, self.asked = list(answers), takes, 0

    async def __call__(self) -> Workload | None:
        await anyio.sleep(self.takes)
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def again(workload: Workload) -> Workload:
    """The same instance after a restart."""
    assert workload.started_at is not None
    return replace(workload, started_at=workload.started_at + timedelta(seconds=5), restarts=workload.restarts + 1)


async def reason(glimpse: Glimpse, health: Health | None = RULES) -> str:
    found = await proof.healthy(glimpse, health)
    assert isinstance(found, Disproven)
    return found.reason


async def test_as_many_consecutive_answers_as_declared_prove() -> None:
    answers = Answers(GOOD)
    began = anyio.current_time()
    found = await proof.healthy(answers, RULES)
    assert found == Proven(workload=GOOD, answers=3)
    assert answers.asked == 3
    assert anyio.current_time() - began == pytest.approx(2)


@pytest.mark.parametrize("bad", [ILL, SILENT, UNCHECKED, STARTING, RESTARTING], ids=lambda one: one.health.state)
async def test_one_bad_answer_begins_the_count_anew(bad: Workload) -> None:
    answers = Answers(GOOD, GOOD, bad, GOOD)
    assert isinstance(await proof.healthy(answers, RULES), Proven)
    assert answers.asked == 6


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (ILL, "running, answers 503"),
        (SILENT, "running, unknown"),
        (STARTING, "starting, healthy"),
        (UNCHECKED, "running, unchecked"),
    ],
)
async def test_what_never_gets_well_is_disproven_at_the_deadline_with_the_last_answer(
    answer: Workload, told: str
) -> None:
    began = anyio.current_time()
    assert await reason(Answers(answer)) == f"not healthy within 10 s: {told}"
    assert anyio.current_time() - began == pytest.approx(10)


async def test_flapping_is_not_healthy() -> None:
    assert "not healthy within" in await reason(Answers(*[GOOD, GOOD, ILL] * 10))


async def test_an_instance_that_is_gone_is_disproven_at_once() -> None:
    answers = Answers(GOOD, None)
    assert await reason(answers) == "the instance is gone"
    assert answers.asked == 2


async def test_an_exit_is_believed_the_second_time_it_is_seen() -> None:
    answers = Answers(GONE)
    assert await reason(answers) == "exited with code 3"
    assert answers.asked == 2


async def test_an_exit_without_a_code_is_told_without_one() -> None:
    assert await reason(Answers(replace(GONE, exit_code=None))) == "exited"


async def test_an_exit_seen_once_may_be_a_start_on_its_way() -> None:
    answers = Answers(GOOD, GOOD, GONE, GOOD)
    assert isinstance(await proof.healthy(answers, RULES), Proven)
    assert answers.asked == 6


async def test_a_restart_begins_the_count_anew() -> None:
    answers = Answers(GOOD, GOOD, again(GOOD))
    assert isinstance(await proof.healthy(answers, RULES), Proven)
    assert answers.asked == 5


async def test_another_instance_begins_the_count_anew() -> None:
    answers = Answers(GOOD, GOOD, replace(GOOD, instance="newer"))
    found = await proof.healthy(answers, RULES)
    assert isinstance(found, Proven)
    assert (answers.asked, found.workload.instance) == (5, "newer")


async def test_a_crash_loop_that_answers_in_between_is_found_out_before_the_deadline() -> None:
    runs = [replace(again(GOOD), restarts=number) for number in range(20)]
    began = anyio.current_time()
    assert await reason(Answers(*runs)) == "restarted 3 times while being proven"
    assert anyio.current_time() - began < 5


async def test_restarts_from_before_the_proof_do_not_count() -> None:
    assert isinstance(await proof.healthy(Answers(replace(GOOD, restarts=40)), RULES), Proven)


async def test_it_must_answer_well_for_the_declared_minimum() -> None:
    answers = Answers(GOOD)
    rules = replace(RULES, minimum=timedelta(seconds=6))
    began = anyio.current_time()
    assert isinstance(await proof.healthy(answers, rules), Proven)
    assert anyio.current_time() - began == pytest.approx(6)


async def test_what_dies_within_the_minimum_is_not_healthy() -> None:
    rules = replace(RULES, minimum=timedelta(seconds=6))
    assert await reason(Answers(*[GOOD] * 5, GONE), rules) == "exited with code 3"


async def test_asked_again_fewer_answers_are_enough_and_no_minimum_is_waited_for() -> None:
    answers = Answers(GOOD)
    rules = replace(RULES, minimum=timedelta(seconds=6))
    found = await proof.healthy(answers, rules, answers=1)
    assert (found, answers.asked) == (Proven(workload=GOOD, answers=1), 1)


async def test_a_good_answer_after_the_deadline_comes_too_late() -> None:
    rules = replace(RULES, successes=1)
    assert "not healthy within 10 s" in await reason(Answers(GOOD, takes=10.5), rules)


@pytest.mark.parametrize("answer", [UNCHECKED, GOOD])
async def test_without_a_check_running_is_all_the_proof_there_is(answer: Workload) -> None:
    answers = Answers(answer)
    assert await proof.healthy(answers, None) == Proven(workload=answer, answers=1)
    assert answers.asked == 1


async def test_without_a_check_what_does_not_run_is_still_disproven() -> None:
    assert await reason(Answers(RESTARTING), None) == "not healthy within 30 s: restarting, healthy"


async def test_declared_stopped_is_proven_by_standing_still() -> None:
    found = await proof.stopped(Answers(UNCHECKED, GONE), timedelta(seconds=5))
    assert found == Proven(workload=GONE, answers=1)


async def test_declared_stopped_is_disproven_when_it_goes_on() -> None:
    began = anyio.current_time()
    found = await proof.stopped(Answers(GOOD), timedelta(seconds=5))
    assert found == Disproven(reason="still running although declared stopped")
    assert anyio.current_time() - began == pytest.approx(5)


async def test_declared_stopped_is_disproven_when_nothing_stands() -> None:
    assert await proof.stopped(Answers(None), timedelta(seconds=5)) == Disproven(reason="nothing stands there")


LOOKS: Sequence[Workload | None] = (GOOD, GOOD, GOOD, ILL, SILENT, STARTING, GONE, None, again(GOOD))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(LOOKS), min_size=1, max_size=14), st.integers(1, 4))
def test_proof_is_only_ever_of_good_answers_in_a_row(answers: list[Workload | None], wanted: int) -> None:
    asked = Answers(*answers)
    rules = replace(RULES, successes=wanted)
    found = virtual_time.run(lambda: proof.healthy(asked, rules))
    seen = [*answers, *[answers[-1]] * 20][: asked.asked]
    if isinstance(found, Proven):
        assert seen[-wanted:] == [seen[-1]] * wanted
        assert seen[-1] in (GOOD, again(GOOD))
    else:
        assert not _would_prove(seen, wanted)


def _would_prove(seen: Sequence[Workload | None], wanted: int) -> bool:
    """Whether any `wanted` answers in a row were good, of one run."""
    good: Callable[[Workload | None], bool] = lambda one: one in (GOOD, again(GOOD))  # noqa: E731
    rows = (seen[start : start + wanted] for start in range(len(seen) - wanted + 1))
    return any(all(map(good, row)) and len({one.started_at for one in row if one}) == 1 for row in rows)
