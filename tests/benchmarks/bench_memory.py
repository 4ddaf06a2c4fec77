"""What a replica that holds a large fleet takes of memory, with all its writes; the fleet is in another process.

    python -m tests.benchmarks.bench_memory [targets]

One process deploys the fleet for the first time, rests a while, and then finds nothing changed a few times; a second
one is started on the same store and finds nothing changed either, and a third on PostgreSQL, to which the store is
moved as a backup is restored. Resident is all that the kernel says the process has, interpreter and imports included.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import anyio

from api import thrift
from drivers.memory import World
from reconciler import reconcile
from reconciler.core.judge import Verdict
from reconciler.store import backup, history, installations
from reconciler.store.store import Store
from tests.benchmarks.bench_turn import fleet, utc
from tests.benchmarks.far_fleet import far_fleet, reached
from tests.benchmarks.table import Row, resident, show, timed
from tests.harness.postgres import NoPostgres, database, given_postgres
from tests.reconciler import rig

TARGETS: Final = 10_000
TURNS: Final = 5
CALM: Final = float(os.environ.get("CALM", "130"))  # seconds: what was of the deployment alone is forgotten then
AIM: Final = "256 MiB"
MIB: Final = 1e6 / 2**20


def main(targets: int) -> None:
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as name, far_fleet(Path(name)) as fleet:
        place, address = Path(name), f"sqlite:///{name}/holdfast.db"
        first = _figures("first", address, fleet, targets)
        show(f"Memory of one replica that deploys {targets:,} targets on SQLite, the fleet elsewhere", _deployed(first))
        again = _figures("again", address, fleet, targets)
        show("Begun again", _steady(again))
        anyio.run(_kept, address, place / "backup")
        try:
            with given_postgres() as server, database(server) as other:
                backup.restore(other, place / "backup")
                show("The same on PostgreSQL", _steady(_figures("again", other, fleet, targets)))
        except NoPostgres as reason:
            print(f"PostgreSQL is not measured: {reason}")


def _deployed(figures: list[float]) -> list[Row]:
    return [
        Row(work="it has begun and holds nothing", ours=figures[0], unit="MiB"),
        Row(work="the most while it deploys for the first time", ours=figures[3], unit="MiB"),
        Row(work="right after that deployment", ours=figures[1], unit="MiB"),
        Row(work="after turns without a change", ours=figures[2], unit="MiB", limit=AIM),
    ]


def _steady(figures: list[float]) -> list[Row]:
    return [
        Row(work="after turns without a change", ours=figures[2], unit="MiB", limit=AIM),
        Row(work="the most", ours=figures[3], unit="MiB", limit=AIM),
        Row(work="CPU of such a turn, the answers of the fleet included", ours=figures[4] * 1000, unit="ms"),
    ]


async def _kept(address: str, place: Path) -> None:
    store = await Store.open(address, now=utc)
    await store.write(lambda c: installations.settle(c, rig.HERE, utc()))
    await store.read(lambda c: backup.write(c, place, utc()))
    await store.aclose()


def _figures(name: str, address: str, fleet: Path, targets: int) -> list[float]:
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.bench_memory",
        "--alone",
        name,
        address,
        str(fleet),
        str(targets),
    ]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=1_500).stdout
    return [float(word) for word in out.splitlines()[-1].split()]


async def _alone(name: str, address: str, path: str, targets: str) -> None:
    thrift.begin()
    tools, thrifty = replace(rig.tools(), now=utc), thrift.Thrift(calm=1.0)
    store, shelf = await Store.open(address, now=utc, patience=60.0), rig.Shelf(fleet(int(targets)))
    began = resident() * MIB
    async with reached(Path(path)) as driver:
        parts: dict[str, Any] = {
            "tools": tools,
            "drivers": {"memory": driver},
            "sink": thrifty,
            "ttl": timedelta(hours=1),
        }
        async with anyio.create_task_group() as group, rig.around(World(now=utc), store, shelf, **parts) as made:
            group.start_soon(thrifty.run)
            await made.until(lambda: _in_sync(made), within=1_200)
            deployed = resident() * MIB
            await anyio.sleep(CALM if name == "first" else 3)
            _, cpu = await timed(TURNS, lambda: reconcile.turn(made.reconciler._means, rig.PROD))
            steady = resident() * MIB
            group.cancel_scope.cancel()
    await store.aclose()
    print(began, deployed, steady, _most(), cpu)


async def _in_sync(made: rig.Rig) -> bool:
    """The first job has ended, and a turn since has recorded that all is as wanted."""
    job = await made.job()
    if job is None or job.ended_at is None:
        return False
    counts = await made.store.read(lambda c: history.counts_now(c, rig.PROD))
    return set(counts.get(rig.PROD, {})) == {Verdict.IN_SYNC.value} and not made.reconciler._means.note(rig.PROD).busy


def _most() -> float:
    """The highest that resident memory ever was, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        anyio.run(_alone, *sys.argv[2:])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else TARGETS)
