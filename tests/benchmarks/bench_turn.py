"""A turn in which nothing has changed, all-in: look, decide, record. Memory targets, the real store in a file.

    python -m tests.benchmarks.bench_turn [targets …]

The fleet is deployed by the real loop first; each size runs in a process of its own. Resident memory is what that
process has grown by since it imported everything, the simulated fleet itself included.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import anyio

from desired_state.health import Health, TcpCheck
from desired_state.model import DesiredState, Strategy, StrategyKind
from drivers.memory import MemoryDriver, World
from reconciler import reconcile
from reconciler.store.store import Store
from tests.benchmarks.table import Row, resident, show, timed
from tests.reconciler import rig

ROUNDS: Final = 7
SIZES: Final = (1_000, 10_000)
CHECK: Final = Health(
    check=TcpCheck(port=8080), interval=timedelta(milliseconds=1), successes=1, deadline=timedelta(seconds=60)
)
ALL: Final = Strategy(kind=StrategyKind.ALL_AT_ONCE)


def utc() -> datetime:
    return datetime.now(UTC)


def fleet(targets: int) -> DesiredState:
    state = rig.declared("1.0.0", targets=targets, strategy=ALL)
    return replace(state, placements=tuple(replace(placement, health=CHECK) for placement in state.placements))


async def measure(targets: int) -> None:
    before, tools = resident(), replace(rig.tools(), now=utc)
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as home:
        store, world = await Store.open(f"sqlite:///{Path(home) / 'holdfast.db'}", now=utc), World(now=utc)
        driver = MemoryDriver(tools, world)
        parts: dict[str, Any] = {"tools": tools, "drivers": {"memory": driver}, "sink": lambda event: None}
        async with rig.around(world, store, rig.Shelf(fleet(targets)), **parts) as made:
            await made.until(lambda: _done(made), within=900)
            made.reconciler.stop()
        means = made.reconciler._means

        async def turn() -> None:
            await reconcile.turn(means, rig.PROD)

        await turn()
        gc.collect()
        wall, cpu = await timed(ROUNDS, turn)
        grown = resident() - before
        await store.aclose()
    share = targets / 1000
    show(
        f"Turn in which nothing has changed, {targets:,} memory targets, all-in",
        [
            Row(work="wall", ours=wall * 1000, unit="ms"),
            Row(work="CPU", ours=cpu * 1000, unit="ms", limit="300 ms at 10,000"),
            Row(work="targets per second of CPU", ours=targets / cpu, unit="/s"),
            Row(work="resident memory per 1,000 targets, fleet included", ours=grown / share, unit="MB"),
        ],
    )


async def _done(made: rig.Rig) -> bool:
    job = await made.job()
    return job is not None and job.ended_at is not None


def main(sizes: list[int]) -> None:
    for size in sizes:
        subprocess.run([sys.executable, "-m", "tests.benchmarks.bench_turn", "--alone", str(size)], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        anyio.run(measure, int(sys.argv[2]))
    else:
        main([int(text) for text in sys.argv[1:]] or [*SIZES])
