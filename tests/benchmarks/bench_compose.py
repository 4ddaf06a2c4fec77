"""A compose project of five services, deployed and looked at again, beside the bare compose program on the same file.

    python -m tests.benchmarks.bench_compose

Needs an engine of its own (root), a registry and a compose program; without them it says so. CPU is that of the asking
side, ours and the program's together; the engine's own is the same for all. Ours is more: pulled by digest, marked,
proven, labelled, and each service's sticker written and synced.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import anyio

from drivers.compose.driver import ComposeDriver
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Receipt, Result
from tests.benchmarks.table import Row, children_cpu, medians, show
from tests.drivers.compose.bench import ComposeBench
from tests.drivers.compose.yard import Yard
from tests.harness import compose, images
from tests.harness import engine as engines
from tests.harness import registry as registries

ROUNDS: Final = 5
SERVICES: Final = tuple(f"service-{number}" for number in range(5))

Spent = tuple[float, float]  # seconds of wall and of CPU


async def spent(work: Callable[[], Awaitable[object]]) -> Spent:
    cpu, began = time.process_time() + children_cpu(), time.monotonic()
    await work()
    return time.monotonic() - began, time.process_time() + children_cpu() - cpu


async def by_us(yard: Yard) -> tuple[Spent, Spent, Spent]:
    """A deploy, an action that finds nothing to do, and a look alone, which is what an unchanged turn costs."""
    stage = Stage(ComposeBench(yard))
    try:
        await stage.observe()  # the connection is kept, and so is what was found out of the program
        assert isinstance(stage.driver, ComposeDriver)
        await stage.driver._program(yard.program)

        async def apply(expected: Result) -> Spent:
            changes = [await stage.deploy(Wish(component=service)) for service in SERVICES]
            plain = [replace(one, placement=replace(one.placement, health=None)) for one in changes]
            receipts: list[Receipt] = []

            async def act() -> None:
                receipts.append(await stage.apply(stage.action(*plain)))

            found = await spent(act)
            assert all(outcome.result is expected for outcome in receipts[0].outcomes), receipts
            return found

        return await apply(Result.CHANGED), await apply(Result.UNCHANGED), await spent(stage.observe)
    finally:
        await stage.aclose()


async def by_the_program(yard: Yard, lock: bytes) -> tuple[Spent, Spent]:
    """`up -d` on the lock we would write, under another project's name."""
    place = Path(tempfile.mkdtemp(prefix="hf-bench-"))
    (place / "lock.yaml").write_bytes(lock)
    command = [yard.program, "-p", f"bench-{yard.mark}", "-f", "lock.yaml"]
    environment = os.environ | {"DOCKER_HOST": yard.engine}

    async def up(*words: str) -> None:
        await anyio.run_process([*command, *words], cwd=place, env=environment)

    try:
        return await spent(lambda: up("up", "-d")), await spent(lambda: up("up", "-d"))
    finally:
        await up("down")
        shutil.rmtree(place)


async def one_round(yard: Yard) -> tuple[float, ...]:
    deploy, again, look = await by_us(yard)
    lock = yard.folder.lock.read_bytes()
    clear(yard)
    bare, bare_again = await by_the_program(yard, lock)
    return (*deploy, *again, *look, *bare, *bare_again)


def clear(yard: Yard) -> None:
    for one in yard.workloads():
        yard.client.remove_container(one["Id"], v=True, force=True)
    shutil.rmtree(yard.root)


async def measured(name: str, yard: Yard) -> None:
    yard.template = {"services": {service: {} for service in SERVICES}}
    yard.pulled(images.ONE)
    rounds = [await one_round(yard) for _ in range(ROUNDS)]
    wall, cpu, again, again_cpu, look, look_cpu, bare, bare_cpu, twice, twice_cpu = medians(rounds)
    show(
        f"{len(SERVICES)} services, beside bare {name} up -d on the same lock, medians of {ROUNDS}",
        [
            Row(work="deploy, wall (ours: proven and labelled)", ours=wall, peer=bare),
            Row(work="deploy, CPU", ours=cpu, peer=bare_cpu),
            Row(work="nothing to do, an action that finds so, wall", ours=again, peer=twice),
            Row(work="nothing to do, an action that finds so, CPU", ours=again_cpu, peer=twice_cpu),
            Row(work="nothing to do, a look, wall", ours=look, peer=twice),
            Row(work="nothing to do, a look, CPU", ours=look_cpu, peer=twice_cpu),
        ],
    )


def main() -> None:
    try:
        with engines.given_or_running() as engine, registries.given_or_running() as registry:
            for name, program in (("docker-compose 1", compose.first), ("compose 2", compose.second)):
                _measure(name, program, engine, registry)
    except (engines.NoEngine, registries.NoRegistry) as reason:
        print(f"\nCompose is not measured: {reason}")


def _measure(name: str, program: Callable[[], str], engine: str, registry: str) -> None:
    home = Path(tempfile.mkdtemp(prefix="hf-bench-"))
    try:
        yard = Yard(engine, registry, home / "projects", program())
        try:
            anyio.run(measured, name, yard)
        finally:
            yard.clear()
    except compose.NoCompose as reason:
        print(f"\n{name} is not measured: {reason}")
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
