"""Clauses about what is done once and what is not done at all: twice is once, no surprise overwritten, stale fences."""

from __future__ import annotations

from dataclasses import replace

from drivers.conformance.bench import Power, Version
from drivers.conformance.clause import clause, must
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Change, Footing, Result
from drivers.errors import Conflict, DriverError, StaleFence
from stickers.names import Digest
from stickers.observation import HealthState, WorkloadState

NOBODY = Footing(instance="nobody", artifact=Digest("sha256:" + "0" * 64), configuration=Digest("sha256:" + "0" * 64))


async def refused(stage: Stage, change: Change, error: type[DriverError], *, fence: int = 1) -> None:
    """The change is answered with that error, and nothing is touched."""
    before = await stage.scene(change.id)
    try:
        outcome = await stage.one(change, fence=fence)
    except error:
        await stage.must_be_untouched(before, change.id)
        return
    raise AssertionError(f"expected {error.__name__}, answered was {outcome.result}: {outcome.detail}")


@clause()
async def a_deploy_on_an_empty_target_runs_and_labels(stage: Stage) -> None:
    """A deploy where nothing stands starts the workload, proves it, labels it and says so."""
    change = await stage.deploy(Wish())
    action = stage.action(change)
    receipt = await stage.apply(action)
    outcome = receipt.outcomes[0]
    must(receipt.key == action.key and receipt.target == stage.bench.target.id, f"the receipt is of {receipt}")
    must(outcome.result is Result.CHANGED, f"{outcome.result}: {outcome.detail}")
    await stage.must_stand(change.placement)
    raw = await stage.raw()
    must(len(raw) == 1 and raw[0].key == action.key, f"one workload with the action's key, but {raw}")
    standing = await stage.standing(asked=change.placement)
    seen = standing.workload if standing else None
    must(seen and seen.state is WorkloadState.RUNNING, f"seen as {seen}")
    must(seen and seen.health.state is HealthState.HEALTHY, f"seen as {seen}")
    must(seen and seen.instance == outcome.instance, f"seen is {seen}, the outcome names {outcome.instance}")


@clause()
async def twice_is_once(stage: Stage) -> None:
    """What is already as wanted is unchanged and untouched, under the same key and under another."""
    change = await stage.deploy(Wish())
    action = stage.action(change)
    await stage.apply(action)
    before = await stage.scene()
    again = await stage.apply(action)
    must(not again.changed and again.as_wanted, f"the same action again answered {again.outcomes[0].result}")
    await stage.must_be_untouched(before)
    other = await stage.one(await stage.deploy(Wish()))
    must(other.result is Result.UNCHANGED, f"another action for the same answered {other.result}")
    await stage.must_be_untouched(before)


@clause()
async def a_replacement_leaves_one_workload(stage: Stage) -> None:
    """Another version replaces the one that stands, which is kept and runs no more."""
    one = await stage.deployed(Wish())
    two = await stage.deployed(Wish(version=Version.TWO), before=one)
    await stage.must_stand(two)
    standing = await stage.standing()
    must(standing and standing.kept == (one.content,), f"kept is {standing.kept if standing else None}")
    must(standing and not standing.debris, f"left over is {standing.debris if standing else None}")


@clause(Power.FIXED)
async def a_fixed_port_is_handed_over(stage: Stage) -> None:
    """Where only one workload can hold the port, the old one ends, the new one takes over, and the old one is kept."""
    one = await stage.deployed(Wish(fixed=True))
    two = await stage.deployed(Wish(version=Version.TWO, fixed=True), before=one)
    await stage.must_stand(two)
    standing = await stage.standing()
    must(standing and standing.kept == (one.content,), f"kept is {standing.kept if standing else None}")


@clause()
async def another_configuration_replaces(stage: Stage) -> None:
    """The same artifact with another configuration is another workload."""
    grey = await stage.deployed(Wish())
    first = await stage.raw()
    red = await stage.deployed(Wish(colour="red"), before=grey)
    await stage.must_stand(red)
    now = {one.instance for one in await stage.raw() if one.running}
    must(not now & {one.instance for one in first}, f"the old workload still runs: {now}")


@clause()
async def another_release_with_the_same_content_only_rewrites_the_sticker(stage: Stage) -> None:
    """A release that differs in nothing but its name restarts nothing."""
    await stage.deployed(Wish())
    run = await stage.run()
    outcome = await stage.one(await stage.deploy(Wish(release="kit@renamed")))
    must(outcome.result is Result.LABELLED, f"{outcome.result}: {outcome.detail}")
    must(await stage.run() == run, f"the run was {run}, is {await stage.run()}")
    await stage.must_stand(stage.placement(Wish(release="kit@renamed")))


@clause()
async def what_the_change_does_not_replace_is_a_conflict(stage: Stage) -> None:
    """A workload that is neither as wanted nor what the change replaces is not overwritten."""
    await stage.deployed(Wish())
    change = await stage.deploy(Wish(version=Version.TWO))
    await refused(stage, replace(change, replaces=NOBODY), Conflict)


@clause()
async def a_workload_where_nothing_may_stand_is_a_conflict(stage: Stage) -> None:
    """A deploy that expects an empty place does not overwrite what it finds there."""
    await stage.deployed(Wish())
    change = await stage.deploy(Wish(version=Version.TWO))
    await refused(stage, replace(change, replaces=None), Conflict)


@clause()
async def nothing_where_something_must_stand_is_a_conflict(stage: Stage) -> None:
    """A deploy that was planned against a workload which is gone starts nothing."""
    change = await stage.deploy(Wish())
    await refused(stage, replace(change, replaces=NOBODY), Conflict)


@clause()
async def a_restart_of_something_else_is_a_conflict(stage: Stage) -> None:
    """A restart that was planned against another workload restarts nothing."""
    change = await stage.restart(await stage.deployed(Wish()))
    await refused(stage, replace(change, replaces=NOBODY), Conflict)


@clause()
async def a_restart_labels_nothing_that_does_not_run(stage: Stage) -> None:
    """A restart that names a placement whose content does not stand there is a conflict, not a wrong sticker."""
    await stage.deployed(Wish())
    change = await stage.restart(stage.placement(Wish()))
    await refused(stage, replace(change, placement=stage.placement(Wish(version=Version.TWO))), Conflict)


@clause()
async def a_removal_of_something_else_is_a_conflict(stage: Stage) -> None:
    """A removal that was planned against another workload removes nothing."""
    change = await stage.removal(await stage.deployed(Wish()))
    await refused(stage, replace(change, replaces=NOBODY), Conflict)


@clause()
async def a_stale_fence_changes_nothing(stage: Stage) -> None:
    """Whoever holds a lower fence than one that has acted here has lost its lease: it deploys, restarts and removes
    nothing."""
    one = stage.placement(Wish())
    await stage.one(await stage.deploy(Wish()), fence=7)
    await refused(stage, await stage.deploy(Wish(version=Version.TWO), before=one), StaleFence, fence=6)
    await refused(stage, await stage.restart(one), StaleFence, fence=6)
    await refused(stage, await stage.removal(one), StaleFence, fence=6)


@clause()
async def the_same_and_a_higher_fence_may_act(stage: Stage) -> None:
    """A fence that is not lower than any that has acted here is good."""
    one = stage.placement(Wish())
    await stage.one(await stage.deploy(Wish()), fence=7)
    await stage.one(await stage.deploy(Wish(version=Version.TWO), before=one), fence=7)
    two = stage.placement(Wish(version=Version.TWO))
    await stage.one(await stage.deploy(Wish(), before=two), fence=8)
    await stage.must_stand(one)


@clause()
async def a_restart_changes_no_content(stage: Stage) -> None:
    """A restart ends the run that was and begins another, of the same content, proven and labelled again; under the
    same key it happens once."""
    one = await stage.deployed(Wish())
    was, started = await stage.sticker(), await stage.run()
    action = stage.action(await stage.restart(one))
    outcome = (await stage.apply(action)).outcomes[0]
    must(outcome.result is Result.CHANGED and outcome.evidence, f"{outcome.result}: {outcome.detail}")
    now = await stage.run()
    must(now != started, f"the run is the one that was: {now}")
    await stage.must_stand(one)
    worn = await stage.sticker()
    must(worn and was and worn.sequence > was.sequence, f"the sticker was {was}, is {worn}")
    again = await stage.apply(action)
    must(not again.changed and await stage.run() == now, f"the same key restarted again: {again.outcomes[0].result}")


@clause()
async def a_restart_brings_up_what_was_stopped(stage: Stage) -> None:
    """A stopped workload of the right content runs again after a restart."""
    one = await stage.deployed(Wish())
    await stage.bench.stop(one.id)
    outcome = await stage.one(await stage.restart(one))
    must(outcome.as_wanted, f"{outcome.result}: {outcome.detail}")
    await stage.must_stand(one)


@clause()
async def what_is_made_anew_is_another_workload(stage: Stage) -> None:
    """A deploy that is to make anew what stands as wanted does so, once to its key."""
    one = await stage.deployed(Wish())
    run = await stage.run()
    change = await stage.deploy(Wish(), before=one)
    action = stage.action(replace(change, anew=True))
    outcome = (await stage.apply(action)).outcomes[0]
    must(outcome.result is Result.CHANGED, f"{outcome.result}: {outcome.detail}")
    now = await stage.run()
    must(now != run, f"the run is the one that was: {now}")
    must([raw.key for raw in await stage.raw() if raw.running] == [action.key], f"running is {await stage.raw()}")
    await stage.must_stand(one)
    again = await stage.apply(action)
    must(not again.changed and await stage.run() == now, f"the same key made it again: {again.outcomes[0].result}")


@clause()
async def a_removal_leaves_nothing(stage: Stage) -> None:
    """After a removal neither workload nor predecessor nor sticker is left, and removing again changes nothing."""
    one = await stage.deployed(Wish())
    two = await stage.deployed(Wish(version=Version.TWO), before=one)
    action = stage.action(await stage.removal(two))
    receipt = await stage.apply(action)
    must(receipt.outcomes[0].result is Result.CHANGED, f"{receipt.outcomes[0].detail}")
    must(not await stage.raw(), f"left are {await stage.raw()}")
    standing = await stage.standing()
    must(standing is None or (standing.workload, standing.worn) == (None, None), f"seen is {standing}")
    again = await stage.apply(action)
    must(not again.changed, f"removing again answered {again.outcomes[0].result}")


@clause()
async def what_was_removed_can_be_deployed_again(stage: Stage) -> None:
    """A removal leaves a place where a deploy begins anew."""
    one = await stage.deployed(Wish())
    await stage.one(await stage.removal(one))
    await stage.deployed(Wish())
    await stage.must_stand(one)


@clause()
async def declared_stopped_is_made_and_not_started(stage: Stage) -> None:
    """A placement that is declared stopped stands there, labelled, and does not run."""
    change = await stage.deploy(Wish(running=False))
    outcome = await stage.one(change)
    must(outcome.result is Result.CHANGED, f"{outcome.result}: {outcome.detail}")
    await stage.must_stand(change.placement)
    again = await stage.one(await stage.deploy(Wish(running=False)))
    must(again.result is Result.UNCHANGED, f"again: {again.result}")


@clause()
async def what_runs_is_stopped_when_it_is_declared_so(stage: Stage) -> None:
    """A running workload that is declared stopped ends; declared running again, it runs."""
    one = await stage.deployed(Wish())
    stopped = await stage.deployed(Wish(running=False), before=one)
    await stage.must_stand(stopped)
    await stage.deployed(Wish(), before=stopped)
    await stage.must_stand(one)


@clause()
async def an_action_of_several_changes_answers_each(stage: Stage) -> None:
    """One action may change several placements of a target, and its receipt answers per change, in order."""
    changes = [await stage.deploy(Wish(component=component)) for component in ("api", "web")]
    receipt = await stage.apply(stage.action(*changes))
    must([one.id for one in receipt.outcomes] == [change.id for change in changes], f"{receipt.outcomes}")
    for change in changes:
        await stage.must_stand(change.placement)
