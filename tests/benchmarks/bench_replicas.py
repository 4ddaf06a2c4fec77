"""Replicas on PostgreSQL: how soon the next takes over, what one and three write, and what a large fleet costs one.

    python -m tests.benchmarks.bench_replicas [takeover writes fleet]

`takeover`: a replica process that holds environments is ended by `kill -9`; until the other holds them all. `writes`:
observations of placements that all differ from the last ones, recorded by one replica process and by three, each for
environments of its own; the server shares the machine. `fleet`: a turn over memory targets in which nothing has
changed, all-in, in one process with a store on PostgreSQL, and what that process has grown by, fleet included. The
fleet is deployed on SQLite, which has no round trips, and its store is moved to PostgreSQL as a backup is restored.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import anyio
import psycopg
from anyio import to_thread

from desired_state.model import DesiredState, Strategy, StrategyKind
from drivers.memory import MemoryDriver, World
from reconciler import reconcile
from reconciler.core.drift import Drift
from reconciler.core.judge import Verdict
from reconciler.store import backup, environments, history, installations, leases
from reconciler.store.records import Lease
from reconciler.store.store import Store
from stickers.names import EnvironmentId
from tests.benchmarks.table import Row, resident, show, timed
from tests.harness.postgres import NoPostgres, database, given_postgres
from tests.reconciler import rig
from tests.reconciler.core.builders import NOW
from tests.reconciler.store.builders import judged
from tests.replicas.crew import QUICK, Crew, declared, until

ENVIRONMENTS: Final = 12
TTL: Final = timedelta(seconds=6)
ROUNDS: Final = 3
PLACEMENTS: Final = 1_000
SECONDS: Final = 8.0
TARGETS: Final = 10_000


def utc() -> datetime:
    return datetime.now(UTC)


# -- taking over ------------------------------------------------------------------------------------------------------


def takeover(address: str) -> None:
    taken = sorted(_taken_over(address) for _ in range(ROUNDS))
    limit = f"{TTL.total_seconds() + 1:g} s: the lease and a second"
    half, seconds = ENVIRONMENTS // 2, TTL.total_seconds()
    show(
        f"Taking over {half} environments from a replica that was killed, leases of {seconds:g} s",
        [
            Row(work="until the other holds them, median", ours=taken[len(taken) // 2], limit=limit),
            Row(work="until the other holds them, longest", ours=taken[-1], limit=limit),
        ],
    )


def _taken_over(address: str) -> float:
    first, second = (_started(address, "replica", name) for name in ("a", "b"))
    try:
        with psycopg.connect(address, autocommit=True) as c:
            _await(lambda: _holders(c) == [ENVIRONMENTS // 2] * 2)
            first.send_signal(signal.SIGKILL)
            began = time.perf_counter()
            _await(lambda: _holders(c) == [ENVIRONMENTS])
            return time.perf_counter() - began
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
        time.sleep(TTL.total_seconds())


def _holders(c: psycopg.Connection[Any]) -> list[int]:
    held = "select count(*) from lease where until > clock_timestamp() and environment like 'default/%' group by holder"
    try:
        return sorted(count for (count,) in c.execute(held))
    except psycopg.errors.UndefinedTable:
        return []


def _await(ready: Any) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit("it did not come")
        time.sleep(0.01)


def _started(address: str, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.benchmarks.bench_replicas", "--alone", address, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


async def _replica(address: str, name: str) -> None:
    states = [
        declared("1.0.0", targets=1, environment=EnvironmentId(f"default/env{number:02}"))
        for number in range(ENVIRONMENTS)
    ]
    made = Crew.of(address, *states)
    made.ttl = TTL
    async with made.replica(name):
        await anyio.sleep_forever()


# -- writing ----------------------------------------------------------------------------------------------------------


def writes(address: str) -> None:
    alone, together = _written(address, 1), _written(address, 3)
    show(
        f"Observations recorded, all of them changed, {PLACEMENTS:,} to a transaction",
        [
            Row(work="one replica", ours=alone, unit="/s"),
            Row(work="three replicas on the same two cores, with the server", ours=together, unit="/s"),
        ],
    )


def _written(address: str, many: int) -> float:
    started = [_started(address, "writer", str(number)) for number in range(many)]
    return sum(float(process.communicate()[0].split()[-1]) for process in started)


async def _writer(address: str, number: str) -> None:
    store = await Store.open(address)
    id = EnvironmentId(f"default/w{number}")
    desired = rig.declared("1.0.0", targets=PLACEMENTS, environment=id)

    def settle(c: Any) -> Lease:
        environments.accept(c, desired, now=NOW)
        lease = leases.acquire(c, id, f"writer {number} {time.time_ns()}", now=NOW, ttl=timedelta(hours=1))
        assert lease is not None
        return lease

    await store.write(lambda c: leases.free_all(c, f"writer {number} "))
    lease = await store.write(settle)
    before = [judged(each) for each in desired.placements]
    done, began = 0, time.perf_counter()
    while time.perf_counter() < began + SECONDS:
        drifts = [_moved(each, done) for each in before]
        now = NOW + timedelta(seconds=1 + done)
        await store.write(lambda c, drifts=drifts, now=now: history.standings(c, id, drifts, [], lease, now))  # type: ignore[misc]
        done += len(drifts)
    print(done / (time.perf_counter() - began))
    await store.aclose()


def _moved(drift: Drift, number: int) -> Drift:
    assert drift.standing is not None
    assert drift.standing.workload is not None
    moved = replace(drift.standing.workload, instance=f"instance-{number}")
    return replace(drift, standing=replace(drift.standing, workload=moved))


# -- a large fleet ----------------------------------------------------------------------------------------------------


def _fleet_state(targets: int) -> DesiredState:
    state = rig.declared("1.0.0", targets=targets, strategy=Strategy(kind=StrategyKind.ALL_AT_ONCE))
    return replace(state, placements=tuple(replace(placement, health=QUICK) for placement in state.placements))


async def _fleet(address: str, targets: str) -> None:
    before, tools, world = resident(), replace(rig.tools(), now=utc), World(now=utc)
    shelf = rig.Shelf(_fleet_state(int(targets)))
    parts: dict[str, Any] = {
        "tools": tools,
        "drivers": {"memory": MemoryDriver(tools, world)},
        "sink": lambda event: None,
        "ttl": timedelta(hours=1),
    }
    with tempfile.TemporaryDirectory() as directory:
        deploying = await _deployed(Path(directory), world, shelf, parts)
        await to_thread.run_sync(backup.restore, address, Path(directory) / "backup")
    store = await Store.open(address, now=utc, patience=60.0)
    async with rig.around(world, store, shelf, running=False, **parts) as made:
        await made.reconciler.begin_alone()
        for _ in range(2):
            await reconcile.turn(made.reconciler._means, rig.PROD)
        gc.collect()
        wall, cpu = await timed(5, lambda: reconcile.turn(made.reconciler._means, rig.PROD))
        assert all(each.verdict is Verdict.IN_SYNC for each in (await made.standings()).values())
    grown = resident() - before
    await store.aclose()
    show(
        f"Turn in which nothing has changed, {int(targets):,} memory targets, one replica on PostgreSQL, all-in",
        [
            Row(work="wall", ours=wall * 1000, unit="ms"),
            Row(work="CPU", ours=cpu * 1000, unit="ms", limit="2,000 ms"),
            Row(work="resident memory, fleet and its deployment included", ours=grown, unit="MB", limit="256 MiB"),
            Row(work="CPU of the first deployment, on SQLite", ours=deploying, unit="s"),
        ],
    )


async def _deployed(directory: Path, world: World, shelf: rig.Shelf, parts: dict[str, Any]) -> float:
    """The seconds of CPU that it took; its store is in `backup`."""
    store, began = await Store.open(f"sqlite:///{directory / 'store'}", now=utc), time.process_time()
    async with rig.around(world, store, shelf, **parts) as made:
        await until("the deployment", lambda: _done(made), within=1200)
        took = time.process_time() - began
        made.reconciler.stop()
    await store.write(lambda c: installations.settle(c, rig.HERE, utc()))
    await store.read(lambda c: backup.write(c, directory / "backup", utc()))
    await store.aclose()
    return took


async def _done(made: rig.Rig) -> bool:
    job = await made.job()
    return job is not None and job.ended_at is not None


def fleet(address: str) -> None:
    process = _started(address, "fleet", os.environ.get("TARGETS", str(TARGETS)))
    try:
        out, _ = process.communicate(timeout=1300)
        print(out.decode(), end="")
    finally:
        with suppress(ProcessLookupError):
            process.kill()


ALONE: Final = {"replica": _replica, "writer": _writer, "fleet": _fleet}
PARTS: Final = {"takeover": takeover, "writes": writes, "fleet": fleet}


def main(names: list[str]) -> None:
    try:
        with given_postgres() as server:
            for name in names or PARTS:
                with database(server) as address:
                    PARTS[name](address)
    except NoPostgres as reason:
        print(f"not measured: {reason}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        anyio.run(ALONE[sys.argv[3]], sys.argv[2], *sys.argv[4:])
    else:
        main(sys.argv[1:])
