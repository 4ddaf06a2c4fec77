"""The memory driver keeps the contract, and its world misbehaves as it is told."""

from __future__ import annotations

import gc
import random
import time
from dataclasses import replace
from datetime import timedelta

import anyio
import pytest
from pydantic import ValidationError

from desired_state.model import Target
from drivers.conformance import Bench, Conformance, Version
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Action, Look, Result
from drivers.errors import Busy, InvalidAction, OutcomeUnknown, Refused, StaleFence, Unreachable
from drivers.memory import Chance, Crashed, Crossing, Deed, Fault, MemoryDriver, Trouble, When, scripts
from drivers.memory.driver import AHEAD, MemoryConnection
from drivers.memory.world import BY_HAND, HAND
from stickers import names
from stickers.names import EnvironmentId, TargetId
from stickers.observation import HealthState, WorkloadState
from tests.drivers.memory_bench import MemoryBench
from tests.harness import virtual_time

anyio_backend = virtual_time.backend()


class TestMemory(Conformance):
    @pytest.fixture
    def bench(self) -> Bench:
        return MemoryBench()


@pytest.fixture
def bench() -> MemoryBench:
    return MemoryBench()


@pytest.fixture
def stage(bench: MemoryBench) -> Stage:
    return Stage(bench)


# -- crashes at every crossing ----------------------------------------------------------------------------------------

STEPS = ("look", "prepare", "wear", "start", "workload", "switch", "settle")
CROSSINGS = [
    (step, when, visit)
    for step in STEPS
    for when in When
    for visit in ((1, 2) if step in ("wear", "workload") else (1,))
    if when is not When.BETWEEN or step == "start"
]


async def crash(stage: Stage, bench: MemoryBench, action: Action, fault: Fault, visit: int) -> bool:
    """Whoever acts crashes at the `visit`th crossing that the fault fits."""
    visits = 0

    def nemesis(crossing: Crossing) -> Fault | None:
        nonlocal visits
        visits += fault.fits(crossing)
        return fault if fault.fits(crossing) and visits == visit else None

    bench.world.nemesis = nemesis
    try:
        await stage.apply(action)
    except Crashed:
        return True
    finally:
        bench.world.nemesis = None
        await stage.begin_again()
    return False


@pytest.mark.parametrize("fixed", [False, True], ids=["beside", "in place"])
@pytest.mark.parametrize(("step", "when", "visit"), CROSSINGS)
async def test_a_crash_at_any_crossing_is_finished_by_the_same_action(
    bench: MemoryBench, stage: Stage, step: str, when: When, visit: int, fixed: bool
) -> None:
    one = await stage.deployed(Wish(fixed=fixed))
    action = stage.action(await stage.deploy(Wish(version=Version.TWO, fixed=fixed), before=one))
    fault = Fault(trouble=Trouble.CRASH, step=step, when=when)
    crashed = await crash(stage, bench, action, fault, visit)
    assert crashed or (step == "switch" and fixed) or (when is When.BETWEEN and not fixed)
    assert (await stage.apply(action)).as_wanted
    await stage.must_stand(stage.placement(Wish(version=Version.TWO, fixed=fixed)))
    assert len([one for one in await stage.raw() if one.key == action.key]) == 1


@pytest.mark.parametrize("fixed", [False, True], ids=["beside", "in place"])
@pytest.mark.parametrize("step", ["start", "workload", "put_back", "wear"])
@pytest.mark.parametrize("when", [When.BEFORE, When.AFTER])
@pytest.mark.parametrize("visit", [1, 2])
async def test_a_bad_version_is_put_back_whatever_crashed_on_the_way(
    bench: MemoryBench, stage: Stage, step: str, when: When, visit: int, fixed: bool
) -> None:
    one = await stage.deployed(Wish(fixed=fixed))
    action = stage.action(await stage.deploy(Wish(version=Version.BAD, fixed=fixed), before=one))
    await crash(stage, bench, action, Fault(trouble=Trouble.CRASH, step=step, when=when), visit)
    receipt = await stage.apply(action)
    assert receipt.outcomes[0].result is Result.REVERTED
    await stage.must_stand(one)


async def test_a_crash_is_held_up_by_no_exception_of_ours(bench: MemoryBench, stage: Stage) -> None:
    bench.host.faults.append(Fault(trouble=Trouble.CRASH, step="start"))
    with pytest.raises(Crashed, match="driver crashed: default/m1 before start") as caught:
        await stage.one(await stage.deploy(Wish()))
    assert not isinstance(caught.value, Exception)
    assert caught.value.crossing.step == "start"


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(trouble=Trouble.UNREACHABLE, step="start"), Unreachable),
        (Fault(trouble=Trouble.BUSY, step="look"), Busy),
        (Fault(trouble=Trouble.REFUSED, step="prepare"), Refused),
        (Fault(trouble=Trouble.LOST, step="start"), OutcomeUnknown),
        (Fault(trouble=Trouble.LOST, step="look"), Unreachable),
        (Fault(trouble=Trouble.HANG, step="wear"), OutcomeUnknown),
    ],
    ids=lambda one: str(getattr(one, "trouble", "")),
)
async def test_a_fault_strikes_once_and_the_same_action_is_done_after_it(
    bench: MemoryBench, stage: Stage, fault: Fault, error: type[Exception]
) -> None:
    bench.host.faults.append(fault)
    action = stage.action(await stage.deploy(Wish()))
    bench.host.faults = [fault]
    with pytest.raises(error):
        await stage.apply(action)
    assert bench.host.faults == []
    assert (await stage.apply(action)).as_wanted
    await stage.must_stand(stage.placement(Wish()))


async def test_a_lost_answer_comes_after_the_effect(bench: MemoryBench, stage: Stage) -> None:
    bench.host.faults.append(Fault(trouble=Trouble.LOST, step="start"))
    with pytest.raises(OutcomeUnknown):
        await stage.one(await stage.deploy(Wish()))
    assert [one.running for one in await stage.raw()] == [True]


async def test_a_slow_step_takes_its_time(bench: MemoryBench, stage: Stage) -> None:
    bench.host.faults.append(Fault(trouble=Trouble.SLOW, step="prepare", seconds=30))
    began = anyio.current_time()
    await stage.deployed(Wish())
    assert anyio.current_time() - began > 30


async def test_a_full_disk_says_so_and_leaves_what_stands(bench: MemoryBench, stage: Stage) -> None:
    one = await stage.deployed(Wish())
    bench.host.faults.append(Fault(trouble=Trouble.REFUSED, step="prepare"))
    with pytest.raises(Refused, match="no space left"):
        await stage.one(await stage.deploy(Wish(version=Version.TWO), before=one))
    bench.host.mend()
    await stage.must_stand(one)


async def test_a_fault_without_end_strikes_until_it_is_lifted(bench: MemoryBench, stage: Stage) -> None:
    bench.host.cut()
    for _ in range(3):
        assert (await stage.observe()).unseen == "default/m1 does not answer"
    bench.host.mend()
    assert (await stage.observe()).unseen is None


async def test_a_fault_strikes_as_often_as_it_says(bench: MemoryBench, stage: Stage) -> None:
    bench.host.faults = [Fault(trouble=Trouble.UNREACHABLE, step="observe", times=2)]
    assert [(await stage.observe()).unseen is not None for _ in range(3)] == [True, True, False]


async def test_a_target_that_hangs_is_unseen_in_its_own_time_and_holds_up_nobody(bench: MemoryBench) -> None:
    driver = MemoryDriver(bench.tools, bench.world)
    bench.host.faults = [Fault(trouble=Trouble.HANG, step="observe", times=None)]
    other = replace(bench.target, id=TargetId("default/m2"))
    began = anyio.current_time()
    found = await driver.observe([Look(target=bench.target), Look(target=other)])
    assert anyio.current_time() - began == pytest.approx(5)
    assert found[bench.target.id].unseen == "no answer within 5 s"
    assert found[other.id].unseen is None


async def test_dice_throw_the_same_for_the_same_seed_and_strike_only_what_can_happen() -> None:
    def strikes(seed: int) -> list[Fault | None]:
        chance = Chance(random.Random(seed), dict.fromkeys(Trouble, 0.1))
        return [
            chance(Crossing(who="a", target=TargetId("default/m1"), step="start", when=when))
            for _ in range(300)
            for when in When
        ]

    assert strikes(1) == strikes(1) != strikes(2)
    happened = [fault for fault in strikes(3) if fault is not None]
    assert {fault.trouble for fault in happened} == set(Trouble)
    for fault in happened:
        assert (fault.trouble is not Trouble.LOST) or fault.when is When.AFTER
        assert fault.trouble is not Trouble.REFUSED or fault.when is When.BEFORE


async def test_a_nemesis_meets_every_crossing(bench: MemoryBench, stage: Stage) -> None:
    met: list[tuple[str, When]] = []

    def nemesis(crossing: Crossing) -> None:
        met.append((crossing.step, crossing.when))

    change = await stage.deploy(Wish(fixed=True))
    bench.world.nemesis = nemesis
    await stage.one(change)
    assert met == [
        ("look", When.BEFORE),
        ("look", When.AFTER),
        ("prepare", When.BEFORE),
        ("prepare", When.AFTER),
        ("wear", When.BEFORE),
        ("wear", When.AFTER),
        ("start", When.BEFORE),
        ("start", When.BETWEEN),
        ("start", When.AFTER),
        *[("workload", When.BEFORE), ("workload", When.AFTER)] * 2,
        ("settle", When.BEFORE),
        ("settle", When.AFTER),
        ("wear", When.BEFORE),
        ("wear", When.AFTER),
    ]


# -- hands and scripts ------------------------------------------------------------------------------------------------


async def test_hands_change_what_is_seen(bench: MemoryBench, stage: Stage) -> None:
    one = await stage.deployed(Wish())
    before = await stage.envelope()
    bench.host.forge(one.id)
    assert (await stage.envelope(), await stage.sticker()) != (before, None)
    assert await stage.sticker() is None
    bench.host.replay(one.id, back=0)
    assert await stage.envelope() == before
    bench.host.replay(one.id, back=1)
    worn = await stage.sticker()
    assert worn is not None
    assert worn.sequence == 1
    bench.host.garble(one.id)
    standing = await stage.standing()
    assert standing is not None
    assert standing.worn is not None
    assert standing.worn.problem is not None
    bench.host.peel(one.id)
    assert await stage.envelope() is None


async def test_another_configuration_by_hand_is_seen(bench: MemoryBench, stage: Stage) -> None:
    one = await stage.deployed(Wish())
    bench.host.configure(one.id, None)
    standing = await stage.standing()
    assert standing is not None
    assert standing.workload is not None
    assert (standing.workload.configuration, standing.workload.differences) == (
        None,
        ("its configuration is not recorded",),
    )


async def test_what_is_put_there_by_hand_wears_nothing(bench: MemoryBench, stage: Stage) -> None:
    one = stage.placement(Wish())
    bench.host.stand(one)
    standing = await stage.standing(asked=one)
    assert standing is not None
    assert standing.worn is None
    assert standing.workload is not None
    assert standing.workload.health.state is HealthState.HEALTHY


@pytest.mark.parametrize(
    ("script", "seen"),
    [
        (scripts.HEALTHY, "hhhhhhhhhh"),
        (scripts.NEVER, "uuuuuuuuuu"),
        (scripts.Warming(3), "uuuhhhhhhh"),
        (scripts.Dying(4, exits=False), "hhhhuuuuuu"),
        (scripts.Dying(4), "hhhh??????"),
        (scripts.Flapping(2), "hhuuhhuuhh"),
        (scripts.CrashLoop(1, 2), "h??h??h??h"),
    ],
    ids=str,
)
async def test_scripts_decide_how_what_runs_behaves(
    bench: MemoryBench, stage: Stage, script: scripts.Script, seen: str
) -> None:
    one = await stage.deployed(Wish())
    bench.host.behave(one.id, script)
    letters = {HealthState.HEALTHY: "h", HealthState.UNHEALTHY: "u", HealthState.UNKNOWN: "?"}
    got = ""
    await anyio.sleep(0.5)
    for _ in range(10):
        standing = await stage.standing(asked=one)
        assert standing is not None
        assert standing.workload is not None
        got += letters[standing.workload.health.state]
        await anyio.sleep(1)
    assert got == seen


async def test_what_dies_is_seen_stopped_with_its_code(bench: MemoryBench, stage: Stage) -> None:
    one = await stage.deployed(Wish())
    bench.host.behave(one.id, scripts.Dying(4, code=7))
    await anyio.sleep(5)
    standing = await stage.standing()
    assert standing is not None
    assert standing.workload is not None
    assert (standing.workload.state, standing.workload.exit_code) == (WorkloadState.STOPPED, 7)
    assert bench.world.answering(one.id) is None


@pytest.mark.parametrize("script", [scripts.Flapping(0.7), scripts.CrashLoop(0.7, 0.3)], ids=["flaps", "crashes"])
async def test_what_cannot_stay_healthy_is_put_back(bench: MemoryBench, stage: Stage, script: scripts.Script) -> None:
    one = await stage.deployed(Wish())
    bench.world.scripts[bench.artifact(Version.TWO).digest] = script
    change = await stage.deploy(Wish(version=Version.TWO), before=one)
    assert change.placement.health is not None
    soak = replace(change.placement.health, minimum=timedelta(seconds=2))
    outcome = await stage.one(replace(change, placement=replace(change.placement, health=soak)))
    assert outcome.result is Result.REVERTED
    await stage.must_stand(one)


async def test_a_connection_decides_how_artifacts_behave_at_its_target(bench: MemoryBench, stage: Stage) -> None:
    target = replace(bench.target, connection={"scripts": {bench.artifact(Version.ONE).digest: "never"}})
    action = replace(stage.action(await stage.deploy(Wish())), target=target)
    assert (await stage.apply(action)).outcomes[0].result is Result.REVERTED


async def test_a_connection_is_refused_with_what_is_expected(bench: MemoryBench, stage: Stage) -> None:
    for wrong in ({"scripts": {"latest": "never"}}, {"scripts": {"sha256:" + "0" * 64: "sings"}}, {"host": "m1"}):
        with pytest.raises(ValidationError):
            MemoryConnection.model_validate(wrong)
    action = stage.action(await stage.deploy(Wish()))
    with pytest.raises(InvalidAction, match="connection of default/m1"):
        await stage.apply(replace(action, target=replace(bench.target, connection={"host": "m1"})))


async def test_a_port_can_be_held_by_one_thing_only(bench: MemoryBench, stage: Stage) -> None:
    one = await stage.deployed(Wish(fixed=True))
    other = bench.host.stand(replace(one, id=stage.id("web")), running=False)
    with pytest.raises(Refused, match=r"port 9003 of default/m1 is held by api-"):
        bench.host.start(other, BY_HAND, "test")


async def test_bytes_that_nothing_refers_to_are_collected(bench: MemoryBench, stage: Stage) -> None:
    before = None
    for colour, version in (("a", Version.ONE), ("b", Version.TWO), ("c", Version.THREE)):
        before = await stage.deployed(Wish(version=version, colour=colour), before=before, keep=1)
    assert bench.host.artifacts == {bench.artifact(Version.TWO).digest, bench.artifact(Version.THREE).digest}


async def test_an_artifact_that_the_source_withholds_is_refused(bench: MemoryBench, stage: Stage) -> None:
    bench.world.withheld.add(bench.artifact(Version.ONE).digest)
    with pytest.raises(Refused, match="does not have"):
        await stage.one(await stage.deploy(Wish()))


async def test_a_fence_outlives_what_it_guarded(bench: MemoryBench, stage: Stage) -> None:
    one = await stage.deployed(Wish())
    await stage.one(await stage.removal(one), fence=8)
    with pytest.raises(StaleFence):
        await stage.one(await stage.deploy(Wish()), fence=7)


# -- the record -------------------------------------------------------------------------------------------------------


async def test_every_effect_is_recorded_in_order_with_who_and_what(bench: MemoryBench, stage: Stage) -> None:
    one = await stage.deployed(Wish())
    bench.world.effects.clear()
    action = stage.action(await stage.deploy(Wish(version=Version.TWO), before=one), fence=4)
    await stage.apply(action)
    two = bench.artifact(Version.TWO).digest
    told = [(effect.deed, effect.step) for effect in bench.world.effects]
    assert told == [
        (Deed.BROUGHT, "prepare"),
        (Deed.MARKED, "wear"),
        (Deed.MADE, "start"),
        (Deed.STARTED, "start"),
        (Deed.SWITCHED, "switch"),
        (Deed.STOPPED, "settle"),
        (Deed.LABELLED, "wear"),
    ]
    by = {(effect.who, effect.key, effect.fence, effect.id) for effect in bench.world.effects}
    assert by == {("driver", action.key, 4, one.id)}
    assert [effect.artifact for effect in bench.world.effects] == [two] * 5 + [one.artifact.digest, two]
    numbers = [effect.number for effect in bench.world.effects]
    assert numbers == sorted(set(numbers))


async def test_drivers_in_one_world_are_told_apart(bench: MemoryBench, stage: Stage) -> None:
    stage.driver = MemoryDriver(bench.tools, bench.world, who="second")
    await stage.deployed(Wish())
    assert {effect.who for effect in bench.world.effects} == {"second"}


async def test_what_is_done_by_hand_is_recorded_as_such(bench: MemoryBench, stage: Stage) -> None:
    one = await stage.deployed(Wish())
    bench.world.effects.clear()
    bench.host.kill(one.id)
    assert [(effect.who, effect.deed) for effect in bench.world.effects] == [(HAND, Deed.STOPPED)]


async def test_every_effect_can_be_looked_at_as_it_happens(bench: MemoryBench, stage: Stage) -> None:
    answering: list[object] = []
    one = await stage.deployed(Wish())
    bench.world.on_effect = lambda effect: answering.append(bench.world.answering(one.id))
    await stage.deployed(Wish(version=Version.TWO), before=one)
    assert None not in answering
    assert set(answering) == {bench.artifact(Version.ONE).digest, bench.artifact(Version.TWO).digest}


async def test_a_world_outlives_its_drivers(bench: MemoryBench, stage: Stage) -> None:
    one = await stage.deployed(Wish())
    await stage.begin_again()
    await stage.must_stand(one)


async def test_a_driver_without_a_world_has_one_of_its_own(bench: MemoryBench) -> None:
    first, second = MemoryDriver(bench.tools), MemoryDriver(bench.tools)
    await first.observe([Look(target=bench.target)])
    assert list(first.world.hosts) == [bench.target.id]
    assert not second.world.hosts


# -- events and logs --------------------------------------------------------------------------------------------------


async def test_lost_events_end_the_watch_with_unreachable(bench: MemoryBench) -> None:
    driver = MemoryDriver(bench.tools, bench.world)
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            with pytest.raises(Unreachable, match="events were lost"):
                async for _ in driver.watch([bench.target]):
                    pass
            group.cancel_scope.cancel()

        group.start_soon(watch)
        await anyio.sleep(1)
        bench.world.lose_events()
        await anyio.sleep(10)
        pytest.fail("the watch goes on")


async def test_only_the_targets_asked_for_are_told(bench: MemoryBench) -> None:
    driver, told = MemoryDriver(bench.tools, bench.world), []
    other = replace(bench.target, id=TargetId("default/m2"))

    async def watch() -> None:
        async for id in driver.watch([other]):
            told.append(id)

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        await anyio.sleep(1)
        bench.host.intrude("theirs", bench.artifact(Version.ONE))
        bench.world.host(other.id).intrude("theirs", bench.artifact(Version.ONE))
        await anyio.sleep(1)
        group.cancel_scope.cancel()
    assert told == [other.id]


async def test_what_changes_by_its_script_alone_is_told_when_it_does(bench: MemoryBench, stage: Stage) -> None:
    one = await stage.deployed(Wish())
    driver, told = MemoryDriver(bench.tools, bench.world), list[float]()

    async def watch() -> None:
        async for _ in driver.watch([bench.target]):
            told.append(anyio.current_time() - began)

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        await anyio.sleep(1)
        began = anyio.current_time()
        bench.host.behave(one.id, scripts.CrashLoop(5, 2))
        await anyio.sleep(13)
        group.cancel_scope.cancel()
    assert [round(at, 1) for at in told] == [0, 5, 7, 12]


async def test_what_was_stopped_meanwhile_is_not_told_to_have_changed(bench: MemoryBench, stage: Stage) -> None:
    one = await stage.deployed(Wish())
    driver, told = MemoryDriver(bench.tools, bench.world), list[TargetId]()

    async def watch() -> None:
        async for id in driver.watch([bench.target]):
            told.append(id)

    async with anyio.create_task_group() as group:
        bench.host.behave(one.id, scripts.Dying(5))
        bench.host.kill(one.id)
        group.start_soon(watch)
        await anyio.sleep(10)
        group.cancel_scope.cancel()
    assert told == []


async def test_a_watcher_that_does_not_keep_up_loses_its_events_and_nothing_else(bench: MemoryBench) -> None:
    driver = MemoryDriver(bench.tools, bench.world)
    ended = anyio.Event()

    async def watch() -> None:
        try:
            async for _ in driver.watch([bench.target]):
                await anyio.sleep(1)
        except Unreachable:
            ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        await anyio.sleep(1)
        for number in range(AHEAD + 2):
            bench.host.intrude(f"theirs-{number}", bench.artifact(Version.ONE))
    assert ended.is_set()


async def test_new_lines_reach_whoever_follows(bench: MemoryBench, stage: Stage) -> None:
    one = await stage.deployed(Wish())
    driver = MemoryDriver(bench.tools, bench.world)
    lines: list[str] = []

    async def follow() -> None:
        async for line in driver.logs(bench.target, one.id, tail=0, follow=True):
            lines.append(line)

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        await anyio.sleep(1)
        served = bench.host.place(one.id).served
        assert served is not None
        bench.host.say(served, "hello")
        await anyio.sleep(1)
        group.cancel_scope.cancel()
    assert lines == ["hello"]


async def test_logs_of_what_does_not_stand_are_refused(bench: MemoryBench, stage: Stage) -> None:
    driver = MemoryDriver(bench.tools, bench.world)
    with pytest.raises(Refused, match="nothing stands for default/m1/api"):
        [line async for line in driver.logs(bench.target, stage.id(), tail=1, follow=False)]


# -- cost -------------------------------------------------------------------------------------------------------------


async def test_a_look_at_thousands_of_unchanged_targets_is_cheap(bench: MemoryBench, stage: Stage) -> None:
    driver, looks = MemoryDriver(bench.tools, bench.world), []
    for number in range(2_000):
        target = Target(
            id=names.target_id("default", f"t{number}"), environment=EnvironmentId("default/kit"), driver="memory"
        )
        one = replace(stage.placement(Wish()), id=replace(stage.id(), target=target.id))
        bench.world.host(target.id).stand(one)
        looks.append(Look(target=target, placements=(one,)))
    first = await driver.observe(looks)
    spent = []
    for _ in range(5):
        gc.collect()
        before = time.process_time()
        again = await driver.observe(looks)
        spent.append(time.process_time() - before)
    assert again == first
    assert all(again[id].standings is first[id].standings for id in first)
    assert min(spent) < 0.01  # five microseconds a target
