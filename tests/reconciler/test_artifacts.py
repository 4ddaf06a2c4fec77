"""A job keeps its files before it changes anything, and what goes back is what was kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from desired_state.model import Placement, Target
from drivers.contract import Action, Receipt, Rendered, RenderedKind, Report
from drivers.errors import InvalidAction
from drivers.memory import MemoryDriver, World, scripts
from reconciler.core.machine import JobState
from reconciler.store import artifacts
from reconciler.store.records import Direction, Job, KeptFile
from tests.harness import virtual_time
from tests.reconciler.rig import Rig, Shelf, around, artifact, declared, rig, tools
from tests.reconciler.stores import fresh_store

anyio_backend = virtual_time.backend()

LOCK = RenderedKind.COMPOSE_LOCK


class Renders(MemoryDriver):
    """A runtime that deploys what was rendered. `says` is what this version of it has to say."""

    deploys: ClassVar[frozenset[RenderedKind]] = frozenset({LOCK})

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.says, self.handed = "first", list[Action]()

    def rendered(
        self, target: Target, placements: Sequence[Placement], kept: Sequence[Rendered]
    ) -> tuple[Rendered, ...]:
        if self.says == "refused":
            raise InvalidAction("it would be refused")
        former = {id: file.text for file in kept for id in file.of}
        lines = [former.get(each.id, f"{self.says} {each.artifact.digest}\n") for each in placements]
        of = tuple(each.id for each in placements)
        return (Rendered(kind=LOCK, name="lock", media_type="text/plain", text="".join(lines), of=of),)

    async def apply(self, action: Action, *, report: Report) -> Receipt:
        self.handed.append(action)
        return await super().apply(action, report=report)


async def files(made: Rig, job: Job) -> tuple[KeptFile, ...]:
    return await made.store.read(lambda c: artifacts.of_job(c, job.id))


async def said(made: Rig, file: KeptFile) -> str:
    return (await made.store.read(lambda c: artifacts.texts(c, [file])))[file.digest]


def line(word: str, version: str) -> str:
    return f"{word} {artifact('api', version).digest}\n"


async def test_every_job_keeps_a_manifest_of_what_it_deploys_where() -> None:
    async with rig(declared("1.0.0", targets=2)) as made:
        job = await made.rested("1.0.0", 2)
        [file] = await files(made, job)
        assert (file.kind, file.target) == (RenderedKind.MANIFEST, None)
        found = json.loads(await said(made, file))
        assert [change["target"] for change in found["changes"]] == ["default/prod-0", "default/prod-1"]
        assert {change["artifact"] for change in found["changes"]} == {str(artifact("api", "1.0.0"))}


@pytest.fixture
def driver(world: World) -> Renders:
    return Renders(tools(), world)


@pytest.fixture
def world() -> World:
    return World(now=virtual_time.now)


async def test_what_was_kept_is_handed_to_whoever_deploys_it(world: World, driver: Renders) -> None:
    store = fresh_store(virtual_time.now)
    async with around(world, store, Shelf(declared("1.0.0", targets=1)), drivers={"memory": driver}) as made:
        job = await made.rested("1.0.0", 1)
        [_, lock] = await files(made, job)
        assert await said(made, lock) == line("first", "1.0.0")
        [action] = driver.handed
        assert [file.digest for file in action.rendered] == [lock.digest]
    await store.aclose()


async def test_a_way_back_deploys_the_file_that_was_proven_and_no_other(world: World, driver: Renders) -> None:
    store = fresh_store(virtual_time.now)
    world.scripts[artifact("api", "2.0.0").digest] = scripts.NEVER
    async with around(world, store, Shelf(declared("1.0.0", targets=2)), drivers={"memory": driver}) as made:
        await made.rested("1.0.0", 2)
        driver.says = "second"
        made.shelf.put(declared("2.0.0", targets=2))
        job = await made.ended(2)
        assert job.state is JobState.ROLLED_BACK
        texts = {(file.direction, file.kind): await said(made, file) for file in await files(made, job)}
        assert texts[Direction.FORWARD, LOCK] == line("second", "2.0.0")
        back = [file for file in await files(made, job) if file.direction is Direction.BACK and file.kind is LOCK]
        assert all([await said(made, file) == line("first", "1.0.0") for file in back])
    await store.aclose()


async def test_a_rollback_that_is_asked_for_deploys_the_file_that_was_proven(world: World, driver: Renders) -> None:
    store = fresh_store(virtual_time.now)
    async with around(world, store, Shelf(declared("1.0.0", targets=1)), drivers={"memory": driver}) as made:
        await made.rested("1.0.0", 1)
        driver.says = "second"
        made.shelf.put(declared("2.0.0", targets=1))
        await made.ended(2)
        driver.says, driver.handed = "third", []
        await made.reconciler.rollback(declared("2.0.0").environment.id, reason="slow", actor="a person")
        job = await made.ended(3)
        assert job.state is JobState.COMPLETED
        assert made.runs("1.0.0") == 1
        assert [file.text for action in driver.handed for file in action.rendered] == [line("first", "1.0.0")]
    await store.aclose()


async def test_a_heal_deploys_the_file_that_was_proven(world: World, driver: Renders) -> None:
    store = fresh_store(virtual_time.now)
    async with around(world, store, Shelf(declared("1.0.0", targets=1)), drivers={"memory": driver}) as made:
        await made.rested("1.0.0", 1)
        driver.says, driver.handed = "second", []
        [(id, _)] = [(id, place) for host in world.hosts.values() for id, place in host.places.items()]
        world.hosts[id.target].remove(id)
        await made.ended(2)
        assert [file.text for action in driver.handed for file in action.rendered] == [line("first", "1.0.0")]
    await store.aclose()


async def test_what_a_runtime_would_refuse_fails_the_action_and_not_the_preparation(
    world: World, driver: Renders
) -> None:
    store = fresh_store(virtual_time.now)
    driver.says = "refused"
    async with around(world, store, Shelf(declared("1.0.0", targets=1)), drivers={"memory": driver}) as made:
        job = await made.rested("1.0.0", 1)
        assert [file.kind for file in await files(made, job)] == [RenderedKind.MANIFEST]
    await store.aclose()
