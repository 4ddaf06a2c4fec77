"""What the API costs people who wait: the fleet, the drift report and their neighbours, asked over TCP.

    python -m tests.benchmarks.bench_api [targets] [history rows]

The store is SQLite in a file: environments of 1,000 targets, every fiftieth of which drifts, with closed intervals of
history before them. The server runs on a thread of this process, so its clients' own time is in the figures.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from statistics import quantiles
from threading import Event, Thread
from typing import Any, Final

import anyio
import httpx2
from sqlalchemy import Connection, insert

from api.http.app import gated
from api.http.caps import Caps
from api.http.serving import on_port
from desired_state.model import DesiredState
from drivers.memory import World
from reconciler.core.judge import Verdict
from reconciler.store import environments, history, leases
from reconciler.store.records import Decision
from reconciler.store.store import Store
from reconciler.store.tables import standing as table
from stickers.names import EnvironmentId
from tests.api.http.doors import opened
from tests.benchmarks.table import Row, machine, resident, show
from tests.harness import virtual_time
from tests.reconciler.core.builders import NOW
from tests.reconciler.rig import Shelf, around, declared
from tests.reconciler.store.builders import judged

EACH: Final = 1_000  # targets of an environment
DRIFTS: Final = 50  # every so many
ASKED: Final = 100
BATCH: Final = 20_000
TTL: Final = timedelta(hours=1)
AIM: Final = "0.1 s"
ASKS: Final = {
    "fleet, all environments": "/api/v1/environments",
    "drift report, all environments": "/api/v1/drift",
    "drift report as CSV": "/api/v1/drift?format=csv",
    "one environment whole, 1,000 placements": "/api/v1/environments/default/env-0",
    "targets of one environment, a page of 100": "/api/v1/environments/default/env-0/targets",
    "history of one environment": "/api/v1/environments/default/env-0/history",
    "history of one target": "/api/v1/environments/default/env-0/history?target=default/env-0-7",
    "what was known at a moment": "/api/v1/environments/default/env-0/history?at=2026-01-01T00:00:00%2B00:00",
    "why of one target": "/api/v1/targets/default/env-0-7/why",
}


def main(targets: int, rows: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        address, began = f"sqlite:///{Path(place) / 'holdfast.db'}", time.perf_counter()
        anyio.run(generate, address, targets, rows)
        print(f"{targets} targets and {rows} rows of history made in {time.perf_counter() - began:.0f} s; {machine()}")
        with Served(address) as url, httpx2.Client(base_url=url, headers={"Authorization": "Bearer owner"}) as client:
            show(f"API over TCP, {ASKED} requests each, one after the other", measured(client))
        print(f"\n  resident with its clients: {resident():.0f} MB")


def measured(client: httpx2.Client) -> Iterator[Row]:
    for name, path in ASKS.items():
        client.get(path).raise_for_status()
        took = []
        for _ in range(ASKED):
            began = time.perf_counter()
            client.get(path)
            took.append(time.perf_counter() - began)
        cuts = quantiles(took, n=100)
        yield Row(work=f"{name}, p50", ours=cuts[49], limit=AIM if "all" in name else "")
        yield Row(work=f"{name}, p99", ours=cuts[98])


# -- the store --------------------------------------------------------------------------------------------------------


async def generate(address: str, targets: int, rows: int) -> None:
    store = await Store.open(address)
    try:
        count = max(1, targets // EACH)
        for number in range(count):
            id = EnvironmentId(f"default/env-{number}")
            desired = declared("1.0.0", targets=min(targets, EACH), environment=id)
            await store.write(lambda c, desired=desired: _stands(c, desired))  # type: ignore[misc]
            await _past(store, desired, rows // count)
    finally:
        await store.aclose()


def _stands(c: Connection, desired: DesiredState) -> None:
    environment = desired.environment.id
    environments.accept(c, desired, now=NOW)
    lease = leases.acquire(c, environment, "generator", now=NOW, ttl=TTL)
    assert lease is not None
    drifts = [
        replace(judged(each, Verdict.UNHEALTHY if number % DRIFTS == 0 else Verdict.IN_SYNC))
        for number, each in enumerate(desired.placements)
    ]
    history.standings(c, environment, drifts, [], lease, NOW)
    history.decide(c, environment, Decision(rule="what differs is blocked", content={"blocked": []}), lease, NOW)


async def _past(store: Store, desired: DesiredState, rows: int) -> None:
    """Closed intervals, each an hour long, back from now; with the particulars of what stands."""
    environment = desired.environment.id
    stood = await store.read(lambda c: history.standing_now(c, environment))
    body = json.dumps(dict(stood[0].content), separators=(",", ":"))

    def made(start: int) -> list[dict[str, Any]]:
        return [_row(desired, number, body) for number in range(start, min(rows, start + BATCH))]

    for start in range(0, rows, BATCH):
        batch = made(start)
        await store.write(lambda c, batch=batch: c.execute(insert(table), batch))  # type: ignore[misc]


def _row(desired: DesiredState, number: int, body: str) -> dict[str, Any]:
    placement = desired.placements[number % len(desired.placements)].id
    until = NOW - timedelta(hours=number // len(desired.placements))
    return {
        "environment": desired.environment.id,
        "target": placement.target,
        "component": placement.component,
        "slot": placement.slot,
        "since": until - timedelta(hours=1),
        "until": until,
        "verdict": Verdict.IN_SYNC,
        "trust": "valid",
        "rule": "as declared",
        "reason": "",
        "heal": 0,
        "digest": "sha256:" + f"{number:064x}",
        "content": body,
    }


# -- the server -------------------------------------------------------------------------------------------------------


class Served:
    """The application at a port of its own, on a thread of its own."""

    def __init__(self, address: str) -> None:
        self._address, self._url = address, ""
        self._listens, self._stop = Event(), Event()
        self._thread = Thread(target=lambda: anyio.run(self._serve, backend_options={"use_uvloop": True}))

    def __enter__(self) -> str:
        self._thread.start()
        self._listens.wait()
        return self._url

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _serve(self) -> None:
        store, world = await Store.open(self._address), World(now=virtual_time.now)
        async with around(world, store, Shelf(), running=False) as made, opened(made, Caps(), now=lambda: NOW) as door:
            server = on_port(gated(door.app, Caps()), "127.0.0.1", 0)
            async with anyio.create_task_group() as group:
                self._url = f"http://127.0.0.1:{await group.start(server.run_until_stopped)}"
                self._listens.set()
                await anyio.to_thread.run_sync(self._stop.wait)
                server.should_exit = True
        await store.aclose()


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    main(*(given or [10_000, 1_000_000]))
