"""Looks are as small as what has changed, and as the standing order says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from desired_state.model import Target
from drivers.agent import protocol
from drivers.agent.protocol import Changed, Code, Seen, Verb, Welcome
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Look
from drivers.memory import MemoryDriver
from stickers.observation import HealthState, Observation
from tests.drivers.agent.memory import on, through_agent
from tests.drivers.agent.scene import Scene, action, running
from tests.drivers.memory_bench import MemoryBench
from tests.harness import virtual_time

anyio_backend = virtual_time.backend()


def observed(seen: Seen) -> Observation:
    assert seen.observation is not None
    return protocol.read_body(Observation, seen.observation)


async def test_a_look_without_an_order_is_lacking_one(scene: Scene) -> None:
    asked = await scene.order()
    assert (await scene.look(replace(asked, order=protocol.content("another")))).lacking
    assert not (await scene.look(asked)).lacking


async def test_what_has_not_changed_is_not_sent_again(scene: Scene, stage: Stage) -> None:
    asked = await scene.order()
    first = await scene.look(asked)
    assert observed(first).target == scene.target.id
    again = await scene.look(replace(asked, seen=first.digest))
    assert (again.digest, again.observation) == (first.digest, None)
    await scene.answer(*scene.deploying(action(scene.target, await stage.deploy(Wish()))))
    changed = await scene.look(replace(asked, seen=first.digest))
    assert changed.digest != first.digest
    assert [one.component for one in observed(changed).standings] == ["api"]


async def test_looks_at_different_times_are_equal(scene: Scene, stage: Stage) -> None:
    await scene.answer(*scene.deploying(action(scene.target, await stage.deploy(Wish()))))
    asked = await scene.order(stage.placement(Wish()))
    first = await scene.look(asked)
    await anyio.sleep(3600)
    assert (await scene.look(asked)).digest == first.digest


async def test_health_is_asked_as_the_order_says_and_not_at_all_without_one(scene: Scene, stage: Stage) -> None:
    await scene.answer(*scene.deploying(action(scene.target, await stage.deploy(Wish()))))

    async def health() -> HealthState:
        workload = observed(await scene.look(await scene.order(*placements))).standings[0].workload
        assert workload is not None
        return workload.health.state

    placements: tuple[Any, ...] = ()
    assert await health() is HealthState.UNCHECKED
    placements = (stage.placement(Wish()),)
    assert await health() is HealthState.HEALTHY


async def test_an_order_stands_for_the_next_run(bench: MemoryBench, tmp_path: Path) -> None:
    async with on(bench, tmp_path) as scene:
        asked = await scene.order()
    async with on(bench, tmp_path) as scene:
        assert scene.agent.hello().orders == {scene.target.id: asked.order}
        assert not (await scene.look(asked)).lacking


async def test_an_order_authorised_earlier_does_not_take_the_place_of_a_later_one(scene: Scene, stage: Stage) -> None:
    body = protocol.body(Look(target=scene.target, placements=(stage.placement(Wish()),)))
    early = scene.task(Verb.INSPECT, body)
    asked = await scene.order()
    result, _ = await scene.answer(early, body)
    assert result.code is Code.EXPIRED
    assert not (await scene.look(asked)).lacking


async def test_looks_that_come_together_are_one_question(bench: MemoryBench, tmp_path: Path) -> None:
    questions: list[int] = []
    near = through_agent(bench.target)
    other = replace(near, id=type(near.id)("default/m2"))

    class Counts(MemoryDriver):
        async def observe(self, looks: Sequence[Look]) -> Any:
            questions.append(len(looks))
            return await super().observe(looks)

    welcome = {"targets": (near.id, other.id)}
    async with running(tmp_path, near, make=lambda kind, tools: Counts(tools, bench.world), welcome=welcome) as scene:
        one = await scene.order()
        scene.target = other
        two = await scene.order()
        questions.clear()
        scene.channel.say(replace(one, id=101), replace(two, id=102), replace(one, id=103))
        await scene.channel.until(lambda frame: len(scene.channel.of(Seen)) == 3)
    assert questions == [2]


async def test_what_the_runtime_tells_is_passed_on(scene: Scene, stage: Stage, bench: MemoryBench) -> None:
    await scene.answer(*scene.deploying(action(scene.target, await stage.deploy(Wish()))))
    await scene.order()
    await anyio.sleep(0.1)
    before = len(scene.channel.of(Changed))
    bench.host.kill(stage.id())
    await scene.channel.until(lambda frame: len(scene.channel.of(Changed)) > before)
    assert scene.channel.of(Changed)[-1] == Changed(targets=(scene.target.id,))


async def test_who_is_listened_to_is_listened_to_without_a_break(
    bench: MemoryBench, stage: Stage, tmp_path: Path
) -> None:
    begun: list[int] = []

    class Counts(MemoryDriver):
        async def watch(self, targets: Sequence[Target]) -> Any:
            begun.append(len(targets))
            async for target in super().watch(targets):
                yield target

    near = through_agent(bench.target)
    other = replace(near, id=type(near.id)("default/m2"))
    welcome = {"targets": (near.id, other.id)}
    async with running(tmp_path, near, make=lambda kind, tools: Counts(tools, bench.world), welcome=welcome) as scene:
        await scene.order()
        await scene.order(stage.placement(Wish()))  # looked at otherwise, and the same target
        await anyio.sleep(0.1)
        assert begun == [1]
        scene.target = other
        await scene.order()
        await anyio.sleep(0.1)
    assert begun == [1, 2]


async def test_lost_events_are_asked_for_again_and_the_target_is_to_be_looked_at(
    scene: Scene, bench: MemoryBench
) -> None:
    await scene.order()
    await anyio.sleep(0.1)
    bench.world.lose_events()
    await anyio.sleep(2)
    assert scene.channel.of(Changed) == [Changed(targets=(scene.target.id,))]


async def test_a_target_that_was_taken_away_is_not_looked_at(bench: MemoryBench, tmp_path: Path) -> None:
    async with on(bench, tmp_path) as scene:
        asked = await scene.order()
        scene.channel.say(Welcome(protocol=1, targets=(), kinds=("memory",)))
        assert (await scene.look(asked)).lacking


async def test_a_driver_that_breaks_leaves_its_target_unseen_and_nothing_else(
    bench: MemoryBench, tmp_path: Path
) -> None:
    class Breaks(MemoryDriver):
        async def observe(self, looks: Sequence[Look]) -> Any:
            raise ZeroDivisionError("a fault")

        async def watch(self, targets: Sequence[Target]) -> Any:
            raise ZeroDivisionError("a fault")
            yield

    near = through_agent(bench.target)
    async with running(tmp_path, near, make=lambda kind, tools: Breaks(tools, bench.world)) as scene:
        asked = await scene.order()
        assert observed(await scene.look(asked)).unseen == "a fault"
        assert observed(await scene.look(asked)).unseen == "a fault"


async def test_a_single_look_needs_no_order_and_leaves_none(scene: Scene) -> None:
    body = protocol.body(Look(target=scene.target))
    result, answer = await scene.answer(scene.task(Verb.HEALTH_CHECK, body), body)
    assert result.code is Code.DONE
    assert protocol.read_body(Observation, answer.body).target == scene.target.id
    assert scene.agent.hello().orders == {}
