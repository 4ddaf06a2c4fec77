"""Clauses about stickers: never a lie, never half believed, one line of rising numbers, and a proof behind each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import anyio

from desired_state.model import Placement
from drivers.conformance.bench import Power, Version
from drivers.conformance.clause import Clause, clause, must, named
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Action, Result, Stamp, Step
from drivers.memory.world import tampered
from stickers.names import PlacementId
from stickers.observation import Standing
from stickers.signature import Envelope
from stickers.sticker import Phase, Sticker


@clause()
async def a_sticker_is_in_transit_before_the_first_change(stage: Stage) -> None:
    """When the first change begins, the sticker worn says that it is in transit, with the action's key and fence."""
    one = await stage.deployed(Wish())
    was, scene = await stage.sticker(), await stage.raw()
    action = stage.action(await stage.deploy(Wish(version=Version.TWO), before=one), fence=3)
    must(await stage.crash(action, Step.START), f"no step {Step.START} was reported")
    worn = await stage.sticker()
    must(await stage.raw() == scene, f"before the start something had changed: {await stage.raw()}")
    must(worn and worn.phase is Phase.IN_TRANSIT, f"worn was {worn}")
    must(worn and (worn.key, worn.fence) == (action.key, 3), f"in transit by {worn}")
    must(worn and was and worn.sequence == was.sequence + 1, f"number {worn and worn.sequence} after {was}")


@clause()
async def a_sticker_is_proven_only_after_proof(stage: Stage) -> None:
    """While the proof goes on, and until everything is done, what is worn is in transit; where nothing stood before,
    nothing need be worn yet."""
    action = stage.action(await stage.deploy(Wish()))
    for step in (Step.PROVE, Step.STICKER):
        must(await stage.crash(action, step), f"no step {step} was reported")
        worn = await stage.sticker()
        must(worn is None or worn.phase is Phase.IN_TRANSIT, f"when {step} began, worn was {worn}")


@clause()
async def numbers_of_stickers_only_rise(stage: Stage) -> None:
    """Each sticker has a higher number than the one before and names it by its digest."""
    last: Sticker | None = None
    before: Placement | None = None
    for version in (Version.ONE, Version.TWO, Version.ONE):
        before = await stage.deployed(Wish(version=version), before=before)
        worn = await stage.sticker()
        must(worn, "no sticker is worn")
        assert worn is not None
        must(last is None or worn.sequence > last.sequence, f"{worn.sequence} after {last and last.sequence}")
        must(last is None or worn.previous is not None, "a sticker follows the one before, and names none")
        last = worn


@clause()
async def the_number_given_is_the_first_one_used(stage: Stage) -> None:
    """A stamp whose number is far above the one worn is honoured, so that no number is used twice."""
    change = await stage.deploy(Wish())
    change = replace(change, stamp=Stamp(sequence=40, previous=None))
    outcome = await stage.one(change)
    worn = await stage.sticker()
    must(worn and worn.sequence >= 40, f"worn is number {worn and worn.sequence}, the first free one was 40")
    must(worn and outcome.sequence == worn.sequence, f"the outcome says {outcome.sequence}")


@clause()
async def a_proof_names_what_it_proved(stage: Stage) -> None:
    """The evidence names this instance, this content and this action, taken after the switch, and the sticker names
    the evidence."""
    one = await stage.deployed(Wish())
    action = stage.action(await stage.deploy(Wish(version=Version.TWO), before=one))
    outcome = (await stage.apply(action)).outcomes[0]
    evidence, worn = outcome.evidence, await stage.sticker()
    must(evidence, "the outcome carries no evidence")
    assert evidence is not None
    running = [raw.instance for raw in await stage.raw() if raw.running]
    two = stage.placement(Wish(version=Version.TWO))
    must(running == [evidence.instance], f"proven was {evidence.instance}, running is {running}")
    must((evidence.artifact, evidence.configuration) == two.content, f"proven was {evidence}")
    must((evidence.key, evidence.placement) == (action.key, two.id), f"the evidence is of {evidence}")
    must(evidence.proven_at >= evidence.switched_at, "proven before the switch")
    health = two.health
    must(health and evidence.answers >= 1 and evidence.checks == (str(health.check),), f"asked was {evidence.checks}")
    must(worn and worn.evidence == evidence.id, f"the sticker names {worn and worn.evidence}")


@clause()
async def unlabelled_is_labelled_without_a_restart(stage: Stage) -> None:
    """A workload that is as wanted and wears no sticker is proven and labelled; nothing is restarted."""
    await _relabelled(stage, lambda place: stage.bench.wear(place, None))


@clause()
async def an_unreadable_sticker_is_replaced_without_a_restart(stage: Stage) -> None:
    """A sticker that cannot be read counts as none."""
    await _relabelled(stage, stage.bench.garble)


@clause()
async def a_forged_sticker_is_not_believed(stage: Stage) -> None:
    """A sticker whose signature does not hold counts as none, whatever it says."""

    async def forge(id: PlacementId) -> None:
        envelope = await stage.envelope(id)
        assert envelope is not None
        await stage.bench.wear(id, Envelope(tampered(envelope)))

    await _relabelled(stage, forge)


@clause()
async def a_replayed_sticker_is_not_believed(stage: Stage) -> None:
    """A sticker that was once valid here and is older than the last one known counts as none."""
    one = await stage.deployed(Wish())
    old = await stage.envelope()
    two = await stage.deployed(Wish(version=Version.TWO), before=one)
    await stage.deployed(Wish(), before=two)
    known = await stage.stamp(one.id)
    before = await stage.raw()
    await stage.bench.wear(one.id, old)
    change = await stage.deploy(Wish())
    outcome = await stage.one(replace(change, stamp=known))
    must(outcome.result is Result.LABELLED, f"{outcome.result}: {outcome.detail}")
    must(await stage.raw() == before, f"the workload was {before}, is {await stage.raw()}")
    worn = await stage.sticker()
    must(worn and worn.sequence >= known.sequence, f"worn is number {worn and worn.sequence} after {known.sequence}")


@clause()
async def the_sticker_of_another_placement_is_not_believed(stage: Stage) -> None:
    """A valid sticker that was copied from elsewhere counts as none, whatever it is in the middle of."""
    web = await stage.deployed(Wish(component="web"))
    newer = await stage.deploy(Wish(component="web", version=Version.TWO), before=web)
    change = replace(newer, stamp=Stamp(sequence=50, previous=None))
    await stage.crash(stage.action(change, fence=9), Step.START)
    foreign = await stage.envelope(stage.id("web"))
    must(foreign, "no sticker was marked before the start")
    await _relabelled(stage, lambda place: stage.bench.wear(place, foreign))


async def _relabelled(stage: Stage, spoil: Callable[[PlacementId], Awaitable[None]]) -> None:
    one = await stage.deployed(Wish())
    before, run, known = await stage.raw(), await stage.run(), await stage.stamp(one.id)
    await spoil(one.id)
    change = await stage.deploy(Wish())
    outcome = await stage.one(replace(change, stamp=known))
    must(outcome.result is Result.LABELLED and outcome.evidence, f"{outcome.result}: {outcome.detail}")
    must(await stage.raw() == before and await stage.run() == run, f"the run was {run}, is {await stage.run()}")
    await stage.must_stand(one)
    worn = await stage.sticker()
    must(worn and worn.sequence >= known.sequence, f"number {worn and worn.sequence}, {known.sequence} was free")


def _never_lies(wish: Wish, needs: tuple[Power, ...]) -> Clause:
    async def body(stage: Stage) -> None:
        one = await stage.deployed(Wish(fixed=wish.fixed))
        action = stage.action(await stage.deploy(wish, before=one))
        lies = await _lies_during(stage, action)
        must(not lies, f"a proven sticker beside something else, {len(lies)} times, first {lies[:1]}")

    place = "in_place" if wish.fixed else "beside"
    what = "a_failing_deploy" if wish.version is Version.BAD else "a_deploy"
    return named(
        f"no_sticker_lies_during_{what}_{place}",
        "At every moment, a proven sticker says what stands there.",
        body,
        needs,
    )


async def _lies_during(stage: Stage, action: Action) -> list[Standing]:
    """What was seen, while the action went on, to wear a proven sticker of something else."""
    lies: list[Standing] = []
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while True:
                seen = await stage.standing()
                if seen is not None and not tells_the_truth(stage, seen):
                    lies.append(seen)
                await anyio.sleep(stage.bench.pause.total_seconds())

        group.start_soon(watch)
        await stage.apply(action)
        group.cancel_scope.cancel()
    return lies


def tells_the_truth(stage: Stage, seen: Standing) -> bool:
    sticker = stage.bench.tools.read(Envelope(seen.worn.envelope)) if seen.worn and seen.worn.envelope else None
    if sticker is None or sticker.phase is Phase.IN_TRANSIT:
        return True
    return seen.workload is not None and (seen.workload.artifact, seen.workload.configuration) == sticker.claim.content


NEVER_LIES = tuple(
    _never_lies(Wish(version=version, fixed=fixed), (Power.FIXED,) if fixed else ())
    for version in (Version.TWO, Version.BAD)
    for fixed in (False, True)
)
