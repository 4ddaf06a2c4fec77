"""Targets behind agents are held like all others, by the driver of agents and by nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random

import anyio

from api.runtimes import Drivers
from desired_state.model import DesiredState, Target
from drivers.agent.driver import over_agents
from drivers.agent.protocol import Verb
from drivers.memory import Fault, MemoryDriver, Trouble, World
from drivers.registry import load
from reconciler.core.judge import Verdict
from reconciler.core.machine import JobState
from reconciler.store.store import Store
from reconciler.triggers import Ask, Runtimes
from stickers.names import TargetId
from stickers.signature import Keyring
from tests.drivers.agent.fake_agent import FakeAgent, FakeSigner
from tests.harness import virtual_time
from tests.reconciler import rig
from tests.reconciler.rig import Rig, place

anyio_backend = virtual_time.backend()


@dataclass(frozen=True, kw_only=True)
class Held:
    rig: Rig
    agent: FakeAgent
    signer: FakeSigner


def declared(version: str, **more: object) -> DesiredState:
    state = rig.declared(version, **more)  # type: ignore[arg-type]
    targets = tuple(replace(target, connection={"via": "agent"}) for target in state.targets)
    return replace(state, targets=targets)


@asynccontextmanager
async def held(*states: DesiredState) -> AsyncIterator[Held]:
    """One agent serves them all; there is no driver that would reach them from here."""
    world, store, signer = (
        World(now=virtual_time.now),
        await Store.open("sqlite://", now=virtual_time.now),
        FakeSigner(),
    )
    agent = FakeAgent(MemoryDriver(rig.tools(), world), Keyring([signer.signer.key]))
    drivers = {"memory@agent": over_agents(load("memory"))(rig.tools(), agent, signer)}
    async with rig.around(world, store, rig.Shelf(*states), drivers=drivers) as made:
        yield Held(rig=made, agent=agent, signer=signer)
    await store.aclose()


async def test_they_are_deployed_to_through_their_agent() -> None:
    async with held(declared("1.0.0")) as made:
        await made.rig.rested("1.0.0")
        made.rig.shelf.put(declared("2.0.0"))
        await made.rig.rested("2.0.0")
        assert {task.target for task in made.signer.asked} == {place(number).target for number in range(3)}


async def test_what_was_stopped_by_hand_is_healed() -> None:
    async with held(declared("1.0.0")) as made:
        await made.rig.rested("1.0.0")
        made.rig.world.host(place(1).target).kill(place(1))
        await made.rig.until(lambda: made.rig.runs("1.0.0") == 3)


async def test_a_release_that_fails_on_the_last_target_is_taken_back_from_the_others_as_a_rollback() -> None:
    async with held(declared("1.0.0")) as made:
        await made.rig.rested("1.0.0")
        refused = Fault(trouble=Trouble.REFUSED, step="prepare", times=None)
        made.rig.world.host(place(2).target).faults.append(refused)
        made.rig.shelf.put(declared("2.0.0"))
        job = await made.rig.ended(2)
        assert job.state is JobState.ROLLED_BACK
        assert made.rig.runs("1.0.0") == 3
        back = {task.target for task in made.signer.asked if task.verb is Verb.ROLLBACK}
        assert back == {place(0).target, place(1).target}


async def test_a_target_whose_agent_is_away_is_unknown_with_since_when() -> None:
    async with held(declared("1.0.0")) as made:
        await made.rig.rested("1.0.0")
        made.agent.away.add(place(1).target)

        async def unknown() -> bool:
            return (await made.rig.standings())[place(1)].verdict is Verdict.UNKNOWN

        await made.rig.until(unknown)
        standings = await made.rig.standings()
        assert "agent a1 was last heard of 2 min ago" in standings[place(1)].reason
        assert standings[place(0)].verdict is Verdict.IN_SYNC
        made.agent.away.clear()
        await made.rig.rested("1.0.0")


async def test_without_a_listener_for_agents_nothing_is_done_on_this_machine_instead() -> None:
    async with rig.rig(declared("1.0.0"), drivers=Drivers(rig.tools())) as made:

        async def unknown() -> bool:
            return {one.verdict for one in (await made.standings()).values()} == {Verdict.UNKNOWN}

        await made.until(unknown)
        assert all("HOLDFAST_AGENTS_LISTEN" in one.reason for one in (await made.standings()).values())
        assert not await made.jobs()


async def test_each_agent_is_watched_apart_from_the_others() -> None:
    watched: list[list[TargetId]] = []

    class Watching:
        kind, capabilities = "memory", replace(load("memory").capabilities, events=True)

        async def watch(self, targets: Sequence[Target]) -> AsyncIterator[TargetId]:
            watched.append([target.id for target in targets])
            await anyio.sleep_forever()
            yield targets[0].id

    ask = Ask(environment=lambda environment, seconds: None, sink=lambda event: None, random=Random(1))
    runtimes = Runtimes({"memory@agent": Watching()}, ask)  # type: ignore[dict-item]
    runtimes.watch(declared("1.0.0").targets)
    async with anyio.create_task_group() as group:
        group.start_soon(runtimes.run)
        await anyio.sleep(1)
        group.cancel_scope.cancel()
    assert watched == [[place(number).target] for number in range(3)]
