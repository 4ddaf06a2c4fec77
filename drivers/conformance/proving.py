"""Clauses about proof and the way back: what failed is undone at once, and what ran in health can always run again."""

from __future__ import annotations

import anyio

from desired_state.model import Placement
from drivers.conformance.bench import Power, Version
from drivers.conformance.clause import Clause, clause, must, named
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Result
from stickers.sticker import Phase


def _reverts(fixed: bool) -> Clause:
    async def body(stage: Stage) -> None:
        one = await stage.deployed(Wish(fixed=fixed))
        was = await stage.sticker()
        outcome = await stage.one(await stage.deploy(Wish(version=Version.BAD, fixed=fixed), before=one))
        must(outcome.result is Result.REVERTED, f"{outcome.result}: {outcome.detail}")
        await stage.must_stand(one)
        worn = await stage.sticker()
        must(worn and was and worn.sequence > was.sequence, f"the sticker was {was}, is {worn}")
        evidence = outcome.evidence
        must(evidence and (evidence.artifact, evidence.configuration) == one.content, f"proven was {evidence}")
        must(worn and evidence and worn.evidence == evidence.id, "the sticker does not name the new proof")

    return named(
        f"a_failed_proof_puts_the_predecessor_back_{'in_place' if fixed else 'beside'}",
        "A version that is not proven is gone, and what ran in health before runs again, proven and labelled anew.",
        body,
        (Power.FIXED,) if fixed else (),
    )


REVERTS = (_reverts(False), _reverts(True))


@clause()
async def a_failed_first_deploy_leaves_nothing(stage: Stage) -> None:
    """Where nothing stood, nothing stands after a failed proof, and no sticker is worn."""
    outcome = await stage.one(await stage.deploy(Wish(version=Version.BAD)))
    must(outcome.result is Result.REVERTED and outcome.evidence is None, f"{outcome.result}: {outcome.detail}")
    running = [raw for raw in await stage.raw() if raw.running]
    must(not running, f"still running: {running}")
    standing = await stage.standing()
    must(standing is None or (standing.workload, standing.worn) == (None, None), f"seen is {standing}")


@clause()
async def what_nobody_proved_is_put_back_and_not_labelled(stage: Stage) -> None:
    """What stood before and is not known to have been healthy stands again after a failed proof, without a sticker."""
    one = await stage.deployed(Wish())
    outcome = await stage.one(await stage.deploy(Wish(version=Version.BAD), before=None))
    must(outcome.result is Result.UNPROVEN, f"{outcome.result}: {outcome.detail}")
    running = [raw.artifact for raw in await stage.raw() if raw.running]
    must(running == [one.artifact.digest], f"running is {running}")
    worn = await stage.sticker()
    must(worn is None or worn.phase is Phase.IN_TRANSIT, f"worn is {worn}")


@clause()
async def a_failed_proof_can_be_tried_again(stage: Stage) -> None:
    """After a revert the next version deploys as if nothing had happened."""
    one = await stage.deployed(Wish())
    await stage.one(await stage.deploy(Wish(version=Version.BAD), before=one))
    two = await stage.deployed(Wish(version=Version.TWO), before=one)
    await stage.must_stand(two)


@clause(Power.ANSWERS)
async def the_old_one_proves_nothing_for_the_new_one(stage: Stage) -> None:
    """A bad version beside a healthy one is not proven by the healthy one's answers, and gets no traffic."""
    one = await stage.deployed(Wish())
    answers = await _answers_during(stage, Wish(version=Version.BAD), one)
    must(set(answers) == {Version.ONE}, f"while a bad version was tried, {set(answers)} answered")


@clause(Power.BESIDE, Power.ANSWERS)
async def without_a_fixed_port_somebody_always_answers(stage: Stage) -> None:
    """Where the new one comes up beside the old one, no moment passes in which nobody answers, and nobody who was
    replaced answers again."""
    one = await stage.deployed(Wish())
    answers = await _answers_during(stage, Wish(version=Version.TWO), one)
    must(None not in answers, f"nobody answered {answers.count(None)} of {len(answers)} times")
    first = answers.index(Version.TWO) if Version.TWO in answers else len(answers)
    must(Version.ONE not in answers[first:], "the old one answered after the new one")


async def _answers_during(stage: Stage, wish: Wish, before: Placement) -> list[Version | None]:
    """Who answered, asked again and again while the wish was carried out, and once afterwards."""
    answers: list[Version | None] = []
    action = stage.action(await stage.deploy(wish, before=before))
    async with anyio.create_task_group() as group:

        async def ask() -> None:
            while True:
                answers.append(await stage.bench.answering(before.id))
                await anyio.sleep(stage.bench.pause.total_seconds())

        group.start_soon(ask)
        await stage.apply(action)
        group.cancel_scope.cancel()
    answers.append(await stage.bench.answering(before.id))
    return answers


@clause(Power.SOURCE)
async def the_way_back_needs_no_source(stage: Stage) -> None:
    """A predecessor that is kept on the target runs again although no artifact can be had from anywhere."""
    one = await stage.deployed(Wish())
    two = await stage.deployed(Wish(version=Version.TWO), before=one)
    await stage.bench.lose_source()
    outcome = await stage.one(await stage.deploy(Wish(), before=two))
    must(outcome.as_wanted, f"{outcome.result}: {outcome.detail}")
    await stage.must_stand(one)


@clause(Power.SOURCE)
async def an_artifact_that_cannot_be_had_touches_nothing(stage: Stage) -> None:
    """When the bytes cannot be had, what stands goes on, under its sticker."""
    from drivers.conformance.idempotence import refused
    from drivers.errors import DriverError

    one = await stage.deployed(Wish())
    await stage.bench.lose_source()
    await refused(stage, await stage.deploy(Wish(version=Version.THREE), before=one), DriverError)


@clause()
async def as_many_predecessors_are_kept_as_was_said(stage: Stage) -> None:
    """The newest predecessors stay, in order, stopped; what is older is gone from the target."""
    before: Placement | None = None
    past: list[Placement] = []
    for version, colour in ((Version.ONE, "a"), (Version.TWO, "b"), (Version.THREE, "c"), (Version.ONE, "d")):
        before = await stage.deployed(Wish(version=version, colour=colour), before=before, keep=2)
        past.insert(0, before)
    standing = await stage.standing()
    must(standing and standing.kept == tuple(one.content for one in past[1:3]), f"kept is {standing}")
    raw = await stage.raw()
    must(len(raw) <= 3 and sum(one.running for one in raw) == 1, f"the runtime has {raw}")


@clause()
async def last_good_is_kept_even_when_nothing_else_is(stage: Stage) -> None:
    """With no predecessor to keep, the one that ran in health until now stays: it is the way back."""
    one = await stage.deployed(Wish(colour="a"))
    two = await stage.deployed(Wish(version=Version.TWO), before=one, keep=0)
    standing = await stage.standing()
    must(standing and standing.kept == (one.content,), f"kept is {standing.kept if standing else None}")
    await stage.deployed(Wish(version=Version.THREE), before=two, keep=0)
    standing = await stage.standing()
    must(standing and standing.kept == (two.content,), f"kept is {standing.kept if standing else None}")
