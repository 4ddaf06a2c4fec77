"""Clauses about what is cut off in the middle: crashes at each step, deadlines, cancellation, somebody newer."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Final

import anyio

from drivers.conformance.bench import Power, Version
from drivers.conformance.clause import Clause, clause, must, named
from drivers.conformance.labelling import tells_the_truth
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Action, Progress, Result, Step
from drivers.errors import Conflict, DriverError, OutcomeUnknown, Retryable
from stickers.sticker import Phase

STEPS: Final = (Step.PREPARE, Step.MARK, Step.START, Step.PROVE, Step.SWITCH, Step.SETTLE, Step.STICKER)


async def finished_once(stage: Stage, action: Action) -> None:
    """After a crash: no sticker lies, the same action finishes, and it has one workload to its key."""
    placement = stage.placement(_wish_of(action))
    begun = {one.instance for one in await stage.raw(placement.id) if one.key == action.key}
    seen = await stage.standing(placement.id)
    must(
        seen is None or tells_the_truth(stage, seen),
        f"after the crash a sticker lied: {seen}",
    )
    receipt = await stage.persist(action)
    must(receipt.as_wanted, f"resumed, it ended {receipt.outcomes[0].result}: {receipt.outcomes[0].detail}")
    await stage.must_stand(placement)
    mine = [one for one in await stage.raw(placement.id) if one.key == action.key]
    must(len(mine) == 1, f"the action's key is worn by {mine}")
    must(not begun or mine[0].instance in begun, f"begun was {begun}, finished was another, {mine[0].instance}")
    again = await stage.apply(action)
    must(not again.changed, f"once more, it answered {again.outcomes[0].result}")


def _wish_of(action: Action) -> Wish:
    """The kit's own words for the version two that every clause here deploys."""
    fixed = any(port.host is not None for port in action.changes[0].placement.configuration.ports)  # type: ignore[union-attr]
    return Wish(version=Version.TWO, fixed=fixed)


def _place(fixed: bool) -> str:
    return "in_place" if fixed else "beside"


def _resumes(step: Step, fixed: bool) -> Clause:
    async def body(stage: Stage) -> None:
        one = await stage.deployed(Wish(fixed=fixed))
        action = stage.action(await stage.deploy(Wish(version=Version.TWO, fixed=fixed), before=one))
        await stage.crash(action, step)
        await finished_once(stage, action)

    return named(
        f"a_crash_at_{step.value.replace(' ', '_')}_is_finished_{_place(fixed)}",
        "Whoever crashes when the step begins finds, and finishes, what was begun, and starts nothing twice.",
        body,
        ({Power.FIXED} if fixed else set()) | ({Power.BESIDE} if step is Step.SWITCH else set()),
    )


RESUMES = tuple(
    _resumes(step, fixed) for fixed in (False, True) for step in STEPS if not (fixed and step is Step.SWITCH)
)


@clause()
async def a_crash_of_a_first_deploy_is_finished(stage: Stage) -> None:
    """Nothing stood there, and the crash came when the proof began: the same action finishes with one workload."""
    action = stage.action(await stage.deploy(Wish(version=Version.TWO)))
    must(await stage.crash(action, Step.PROVE), "no step prove was reported")
    await finished_once(stage, action)


@clause(Power.BESIDE)
async def a_crash_at_the_second_proof_is_finished(stage: Stage) -> None:
    """The traffic has moved and the crash comes before it is proven again."""
    one = await stage.deployed(Wish())
    action = stage.action(await stage.deploy(Wish(version=Version.TWO), before=one))
    await stage.crash(action, Step.PROVE, visit=2)
    await finished_once(stage, action)


@clause()
async def a_crash_at_any_moment_is_finished(stage: Stage) -> None:
    """Wherever between its beginning and its end an action is cut off, again and again, it is finished as one."""
    began = anyio.current_time()
    one = await stage.deployed(Wish())
    whole = max(anyio.current_time() - began, 0.01)
    action = stage.action(await stage.deploy(Wish(version=Version.TWO), before=one))
    seen: set[str] = set()
    for part in (0.1, 0.3, 0.5, 0.7, 0.9):
        await _until_it_can(stage, action, whole * part)
        seen |= {raw.instance for raw in await stage.raw() if raw.key == action.key}
    await finished_once(stage, action)
    must(len(seen) <= 1, f"the action's key was worn by {seen}, one after the other")


async def _until_it_can(stage: Stage, action: Action, seconds: float) -> None:
    try:
        await stage.crash_after(action, seconds)
    except Retryable:  # what the last one left is still busy
        await stage.begin_again()


@clause()
async def a_newer_action_finishes_what_an_older_one_began(stage: Stage) -> None:
    """A placement in transit is not held by the key that crashed: another action takes it where it wants it."""
    one = await stage.deployed(Wish())
    older = stage.action(await stage.deploy(Wish(version=Version.TWO), before=one))
    must(await stage.crash(older, Step.PROVE), "no step prove was reported")
    newer = stage.action(await stage.deploy(Wish(version=Version.THREE), before=one), fence=2)
    receipt = await stage.persist(newer)
    must(receipt.as_wanted, f"it ended {receipt.outcomes[0].result}: {receipt.outcomes[0].detail}")
    await stage.must_stand(stage.placement(Wish(version=Version.THREE)))


@clause()
async def a_crashed_deploy_can_be_taken_back(stage: Stage) -> None:
    """A newer action may want what ran before the one that crashed."""
    one = await stage.deployed(Wish())
    older = stage.action(await stage.deploy(Wish(version=Version.TWO), before=one))
    must(await stage.crash(older, Step.PROVE), "no step prove was reported")
    receipt = await stage.persist(stage.action(await stage.deploy(Wish(), before=one), fence=2))
    must(receipt.as_wanted, f"it ended {receipt.outcomes[0].result}: {receipt.outcomes[0].detail}")
    await stage.must_stand(one)


def _reverts_after_a_crash(step: Step, fixed: bool) -> Clause:
    async def body(stage: Stage) -> None:
        one = await stage.deployed(Wish(fixed=fixed))
        action = stage.action(await stage.deploy(Wish(version=Version.BAD, fixed=fixed), before=one))
        must(await stage.crash(action, step), f"no step {step} was reported")
        receipt = await stage.persist(action)
        outcome = receipt.outcomes[0]
        must(outcome.result is Result.REVERTED, f"resumed, it ended {outcome.result}: {outcome.detail}")
        await stage.must_stand(one)

    return named(
        f"a_bad_version_is_put_back_after_a_crash_at_{step.value.replace(' ', '_')}_{_place(fixed)}",
        "Whoever resumes and finds that the proof fails still puts back what ran in health before the crash.",
        body,
        {Power.FIXED} if fixed else (),
    )


REVERTS_AFTER_A_CRASH = tuple(
    _reverts_after_a_crash(step, fixed) for fixed in (False, True) for step in (Step.PROVE, Step.PUT_BACK)
)


@clause()
async def a_crash_of_a_removal_is_finished(stage: Stage) -> None:
    """A removal that was cut off is finished by the same action."""
    one = await stage.deployed(Wish())
    action = stage.action(await stage.removal(one))
    await stage.crash(action, Step.REMOVE)
    await stage.persist(action)
    must(not await stage.raw(), f"left are {await stage.raw()}")
    standing = await stage.standing()
    must(standing is None or (standing.workload, standing.worn) == (None, None), f"seen is {standing}")


@clause()
async def out_of_time_the_outcome_is_unknown(stage: Stage) -> None:
    """An action whose deadline ends before its proof answers neither yes nor no, and the same key finishes it."""
    one = await stage.deployed(Wish())
    change = await stage.deploy(Wish(version=Version.TWO), before=one)
    health = change.placement.health
    assert health is not None
    slow = replace(
        change.placement, health=replace(health, minimum=timedelta(seconds=30), deadline=health.deadline * 9)
    )
    action = stage.action(replace(change, placement=slow))
    late = replace(action, deadline=timedelta(seconds=2))
    try:
        receipt = await stage.apply(late)
    except OutcomeUnknown:
        pass
    else:
        raise AssertionError(f"out of time it answered {receipt.outcomes[0].result}: {receipt.outcomes[0].detail}")
    worn = await stage.sticker()
    must(worn and worn.phase is Phase.IN_TRANSIT, f"out of time, worn was {worn}")
    await finished_once(stage, replace(action, changes=(change,)))


@clause()
async def a_cancellation_comes_through(stage: Stage) -> None:
    """A cancelled call ends as cancelled: it neither answers nor turns the cancellation into an error."""
    action = stage.action(await stage.deploy(Wish(version=Version.BAD)))
    must(await stage.crash(action, Step.PROVE), "the cancelled call answered as if it had not been cancelled")


@clause()
async def whoever_is_overtaken_changes_nothing_more(stage: Stage) -> None:
    """Somebody with a higher fence acts while an older action waits for its proof: what the newer one brought stays,
    and the older one ends without having been done."""
    one = await stage.deployed(Wish())
    older = stage.action(await stage.deploy(Wish(version=Version.BAD), before=one), fence=1)
    answer: list[object] = []
    proving = anyio.Event()

    def report(progress: Progress) -> None:
        if progress.step is Step.PROVE:
            proving.set()

    async def old() -> None:
        try:
            answer.append(await stage.driver.apply(older, report=report))
        except DriverError as error:
            answer.append(error)

    second = stage.bench.driver()
    async with anyio.create_task_group() as group:
        group.start_soon(old)
        await proving.wait()
        newer = stage.action(await stage.deploy(Wish(version=Version.TWO), before=one), fence=2)
        overtook = False
        try:
            await second.apply(newer, report=lambda progress: None)
            overtook = True
        except Retryable:  # the runtime lets one action at a time at a placement: then nobody is overtaken
            pass
    await second.aclose()
    if overtook:
        must(isinstance(answer[0], Conflict), f"the older one answered {answer[0]}")
        await stage.must_stand(stage.placement(Wish(version=Version.TWO)))
