"""Clauses about eyes: facts only, nothing unseen is guessed, and nothing that happens to a target makes a look fail."""

from __future__ import annotations

import anyio

from drivers.conformance.bench import Power, Version
from drivers.conformance.clause import clause, must
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Look, Narrator, Watcher
from drivers.errors import DriverError
from stickers.observation import HealthState, WorkloadState

SOON = 10.0  # seconds within which an event or a line arrives


@clause()
async def an_empty_target_is_seen_empty(stage: Stage) -> None:
    """Where nothing of ours stands, that is what is seen, of that target, at that time."""
    before = stage.bench.tools.now()
    seen = await stage.observe(stage.placement(Wish()))
    must(seen.unseen is None and not seen.standings, f"seen is {seen}")
    must(seen.target == stage.bench.target.id and seen.at >= before, f"seen is {seen}")


@clause()
async def an_unchanged_target_is_seen_equal(stage: Stage) -> None:
    """Two looks at a target on which nothing has changed compare equal."""
    one = await stage.deployed(Wish())
    first, second = await stage.observe(one), await stage.observe(one)
    must(first.unseen is second.unseen is None, f"unseen: {first.unseen}, then {second.unseen}")
    must(first.standings == second.standings, f"first {first.standings}, then {second.standings}")
    must(second.at >= first.at, "the second look is not later than the first")


@clause()
async def what_was_stopped_is_seen_stopped(stage: Stage) -> None:
    """A workload that somebody stopped is seen as stopped, with its content and its sticker."""
    one = await stage.deployed(Wish())
    await stage.bench.stop(one.id)

    def stopped(seen: object) -> bool:
        return getattr(getattr(seen, "workload", None), "state", None) is WorkloadState.STOPPED

    seen = await stage.until(stopped, "a stopped workload", asked=one)
    workload = seen.workload if seen else None
    must(workload and (workload.artifact, workload.configuration) == one.content, f"seen is {workload}")
    must(workload and workload.health.state is not HealthState.HEALTHY, f"seen is {workload}")
    must(await stage.sticker(), "the sticker is not seen any more")


@clause()
async def what_was_removed_is_seen_missing(stage: Stage) -> None:
    """Where somebody removed the workload nothing stands, and the sticker that is left is seen."""
    one = await stage.deployed(Wish())
    await stage.bench.remove(one.id)
    seen = await stage.until(lambda seen: seen is None or seen.workload is None, "no workload", asked=one)
    must(seen and seen.worn, f"seen is {seen}")


@clause()
async def what_was_removed_comes_back(stage: Stage) -> None:
    """A deploy where nothing stands any more starts what the sticker still claims."""
    one = await stage.deployed(Wish())
    await stage.bench.remove(one.id)
    await stage.until(lambda seen: seen is None or seen.workload is None, "no workload", asked=one)
    await stage.deployed(Wish(), before=one)
    await stage.must_stand(one)


@clause(Power.SWAPS)
async def what_was_swapped_is_not_seen_as_the_sticker_says(stage: Stage) -> None:
    """What the runtime runs is what is seen, not what was recorded when it was started."""
    one = await stage.deployed(Wish())
    await stage.bench.swap(one.id, Version.TWO)

    def other(seen: object) -> bool:
        workload = getattr(seen, "workload", None)
        return workload is None or (workload.artifact, workload.configuration) != one.content

    await stage.until(other, "something other than version one", asked=one)
    must(await stage.sticker(), "the sticker is not seen any more")


@clause(Power.SWAPS)
async def what_was_swapped_can_be_replaced(stage: Stage) -> None:
    """What somebody put there by hand is replaced by a deploy that was planned against it."""
    one = await stage.deployed(Wish())
    await stage.bench.swap(one.id, Version.TWO)
    await stage.deployed(Wish(), before=one)
    await stage.must_stand(one)


@clause()
async def what_was_stopped_is_brought_back(stage: Stage) -> None:
    """A deploy of another version replaces a workload that somebody stopped."""
    one = await stage.deployed(Wish())
    await stage.bench.stop(one.id)
    two = await stage.deployed(Wish(version=Version.TWO), before=one)
    await stage.must_stand(two)


@clause()
async def no_sticker_and_an_unreadable_one_are_told_apart(stage: Stage) -> None:
    """A sticker that is gone is seen as none; one that cannot be read is seen, with the reason."""
    one = await stage.deployed(Wish())
    await stage.bench.garble(one.id)
    seen = await stage.standing()
    worn = seen.worn if seen else None
    must(worn, f"the unreadable sticker is not seen: {seen}")
    told = worn is not None and (worn.envelope is None or stage.bench.tools.read(worn.envelope) is None)  # type: ignore[arg-type]
    must(told, f"the unreadable sticker was read: {worn}")
    await stage.bench.wear(one.id, None)
    seen = await stage.standing()
    must(seen and seen.worn is None and seen.workload, f"without a sticker, seen is {seen}")


@clause(Power.UNREACHABLE)
async def what_cannot_be_reached_is_unseen_and_holds_up_nobody(stage: Stage) -> None:
    """A target that does not answer is unseen, with a reason; those looked at together with it are seen."""
    one = await stage.deployed(Wish())
    far = stage.bench.unreachable()
    looks = [Look(target=far), Look(target=stage.bench.target, placements=(one,))]
    found = await stage.driver.observe(looks)
    must(set(found) == {far.id, stage.bench.target.id}, f"seen are {set(found)}")
    must(found[far.id].unseen and not found[far.id].standings, f"the far one is {found[far.id]}")
    near = found[stage.bench.target.id]
    must(near.unseen is None and near.standings, f"the near one is {near}")


@clause(Power.UNREACHABLE)
async def nothing_can_be_done_where_nothing_answers(stage: Stage) -> None:
    """An action on a target that does not answer fails with an error of ours, in time."""
    from dataclasses import replace

    far = stage.bench.unreachable()
    change = await stage.deploy(Wish())
    placement = replace(change.placement, id=replace(change.placement.id, target=far.id))
    action = replace(stage.action(replace(change, placement=placement, replaces=None)), target=far)
    try:
        receipt = await stage.apply(action)
    except DriverError:
        return
    raise AssertionError(f"answered was {receipt}")


@clause()
async def powers_are_what_the_driver_has(stage: Stage) -> None:
    """A driver that says it has events can be watched, one that says it has logs can be read, and no other."""
    driver, powers = stage.driver, stage.driver.capabilities
    must(isinstance(driver, Watcher) == powers.events, f"events: {powers.events}, is a Watcher: {not powers.events}")
    must(isinstance(driver, Narrator) == powers.logs, f"logs: {powers.logs}, is a Narrator: {not powers.logs}")
    for power, has in ((Power.EVENTS, powers.events), (Power.LOGS, powers.logs), (Power.ADOPTS, powers.adopts)):
        must((power in stage.bench.powers) == has, f"the bench says of {power} what the driver does not: {has}")


@clause(Power.EVENTS)
async def a_hand_change_is_told(stage: Stage) -> None:
    """Whoever watches a target is told to look at it soon after something was stopped there."""
    one = await stage.deployed(Wish())
    driver = stage.driver
    assert isinstance(driver, Watcher)
    told = anyio.Event()

    async def watch() -> None:
        async for id in driver.watch([stage.bench.target]):
            must(id == stage.bench.target.id, f"told of {id}")
            told.set()

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        await anyio.sleep(1)
        await stage.bench.stop(one.id)
        with anyio.move_on_after(SOON):
            await told.wait()
        group.cancel_scope.cancel()
    must(told.is_set(), f"nothing was told within {SOON:g} s")


@clause(Power.LOGS)
async def what_a_workload_printed_can_be_read(stage: Stage) -> None:
    """The last lines of what serves, no more than were asked for, each without its end."""
    one = await stage.deployed(Wish())
    driver = stage.driver
    assert isinstance(driver, Narrator)
    lines = [line async for line in driver.logs(stage.bench.target, one.id, tail=100, follow=False)]
    must(lines and all(isinstance(line, str) and "\n" not in line for line in lines), f"read was {lines}")
    last = [line async for line in driver.logs(stage.bench.target, one.id, tail=1, follow=False)]
    must(len(last) == 1, f"of one line asked for, read was {last}")


@clause(Power.LOGS)
async def what_a_workload_prints_can_be_followed(stage: Stage) -> None:
    """A reader that follows gets what is there and stays; it ends when it leaves."""
    one = await stage.deployed(Wish())
    driver = stage.driver
    assert isinstance(driver, Narrator)
    got: list[str] = []

    async def follow() -> None:
        async for line in driver.logs(stage.bench.target, one.id, tail=100, follow=True):
            got.append(line)

    with anyio.move_on_after(2) as scope:
        await follow()
    must(got, "nothing was read")
    must(scope.cancelled_caught, "following ended although the workload runs")
