"""What people wait for while the loop is at work: the fleet page, the fleet and the drift report, asked one after the
other while one turn after the other looks at every target of the same process.

    python -m tests.benchmarks.bench_load [targets] [history rows]

One environment of so many targets, all as declared but every fiftieth, which drifts and is reported; the store is
SQLite in a file, with closed intervals before those that are open. Who asks is a process of its own. `HELD=1` prints
what kept the event loop for more than 20 ms of CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from statistics import quantiles
from typing import Any, ClassVar, Final

import anyio
import httpx2
from sqlalchemy import Connection, insert

from api import thrift
from api.cli.daemon import SWITCH
from api.house import House
from api.http.app import application
from api.http.serving import on_port
from api.pages.routes import router
from api.settings import Settings
from desired_state.model import DesiredState, Placement, Policy, Sync
from drivers.contract import Action, Capabilities, Look, Receipt, Report, Unit, claim_of
from reconciler.store import environments, history, leases, memories
from reconciler.store.store import Store
from reconciler.store.tables import standing as table
from stickers import codec
from stickers.names import ActionKey, EvidenceId, JobId, TargetId
from stickers.observation import Health, HealthState, Observation, Standing, Workload, WorkloadState, Worn
from stickers.redaction import Redactor
from stickers.signature import Statement
from stickers.sticker import Phase, Sticker
from tests.api.pages.stand import Doorkeeper
from tests.benchmarks.bench_api import _row
from tests.benchmarks.bench_turn import utc
from tests.benchmarks.table import Row, resident, show
from tests.reconciler import rig
from tests.reconciler.store.builders import keep_good

DRIFTS: Final = 50  # every so many
ASKED: Final = 200
BATCH: Final = 20_000
STEP: Final = 32  # hosts whose answers come together
LONG: Final = 0.02  # seconds of CPU
AIM: Final = "0.1 s"
ASKS: Final = {
    "fleet page": "/",
    "fleet": "/api/v1/environments",
    "drift report": "/api/v1/drift",
    "why of one target": "/api/v1/targets/default/prod-7/why",
}


def main(targets: int, rows: int) -> None:
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as place:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.bench_load", "--serve", place, str(targets), str(rows)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            url = _line(server, "url ")
            with httpx2.Client(base_url=url, trust_env=False, timeout=60) as client:
                asked = list(_measured(client))
            out, _ = server.communicate("\n", timeout=60)
        finally:
            server.kill()
            server.wait()
    turns, took, longest, mib = (float(word) for word in out.splitlines()[-1].split())
    show(
        f"API while turns over {targets:,} targets follow each other, {rows:,} rows of history, {ASKED} requests each",
        [
            *asked,
            Row(work="turns meanwhile", ours=turns, unit=""),
            Row(work="one turn, wall, mean", ours=took),
            Row(work="CPU of the event loop between two chances for others, most", ours=longest),
            Row(work="resident memory of the server", ours=mib, unit="MiB"),
        ],
    )
    print("\n".join(line for line in out.splitlines()[:-1]))


def _line(server: subprocess.Popen[str], begins: str) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith(begins):
            return line.removeprefix(begins).strip()
    raise SystemExit("the server did not begin")


def _measured(client: httpx2.Client) -> Iterator[Row]:
    for name, path in ASKS.items():
        client.get(path).raise_for_status()
        took = []
        for _ in range(ASKED):
            began = time.perf_counter()
            client.get(path)
            took.append(time.perf_counter() - began)
        cuts = quantiles(took, n=100)
        yield Row(work=f"{name}, p50", ours=cuts[49])
        yield Row(work=f"{name}, p99", ours=cuts[98], limit=AIM if name.startswith("fleet") else "")


# -- the fleet --------------------------------------------------------------------------------------------------------


class StillDriver:
    """Targets that always stand as they do; each look makes its observations anew, as whoever asks a host does."""

    kind: ClassVar[str] = "memory"
    capabilities: ClassVar[Capabilities] = Capabilities(unit=Unit.COMPONENT)

    def __init__(self, desired: DesiredState) -> None:
        self._stands = {each.id.target: _stands(each, number) for number, each in enumerate(desired.placements)}

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        found, now = {}, utc()
        for look in looks:
            if len(found) % STEP == 0:
                await anyio.sleep(0.0005)  # as long as it takes until the next answers are there
            found[look.target.id] = self._seen(look.target.id, now)
        return found

    def _seen(self, id: TargetId, now: Any) -> Observation:
        stands = self._stands[id]
        return Observation(target=id, at=now, standings=(replace(stands, workload=replace(stands.workload)),))  # type: ignore[type-var]

    async def apply(self, action: Action, *, report: Report) -> Receipt:
        raise AssertionError("nothing is to be done")

    async def aclose(self) -> None:
        pass


def _stands(placement: Placement, number: int) -> Standing:
    sticker = Sticker(
        claim=claim_of(placement, rig.HERE),
        phase=Phase.PROVEN,
        job=JobId("default/prod:1"),
        key=ActionKey("0" * 64),
        fence=1,
        sequence=2,
        previous=None,
        revision="r",
        evidence=EvidenceId(f"sha256:{number:064x}"),
        written_at=utc(),
    )
    return Standing(
        component=placement.id.component,
        slot=placement.id.slot,
        worn=Worn(envelope=str(rig.tools().sign(Statement.STICKER, placement.environment, codec.payload(sticker)))),
        workload=Workload(
            instance=f"instance-{number}",
            artifact=placement.artifact.digest,
            configuration=placement.configuration_digest,
            state=WorkloadState.STOPPED if number % DRIFTS == 0 else WorkloadState.RUNNING,
            health=Health(state=HealthState.HEALTHY),
            started_at=utc(),
        ),
        fence=1,
    )


# -- the server -------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Turns:
    """A sink that counts turns."""

    took: list[float] = field(default_factory=list)

    def __call__(self, event: object) -> None:
        if type(event).__name__ == "Looked":
            self.took.append(event.took)  # type: ignore[attr-defined]


class Beat:
    """How much the event loop's thread did between two chances for others, in seconds of its CPU; and what it did."""

    def __init__(self) -> None:
        self.clock = time.pthread_getcpuclockid(threading.get_ident())
        self.kept: Counter[str] = Counter()
        self.over = False
        self.begin()

    def begin(self) -> None:
        self.at, self.longest = time.clock_gettime(self.clock), 0.0

    async def run(self) -> None:
        while True:
            await anyio.sleep(0.001)
            now = time.clock_gettime(self.clock)
            self.longest, self.at = max(self.longest, now - self.at), now

    def watch(self, thread: int) -> None:
        while not self.over:
            time.sleep(0.005)
            if time.clock_gettime(self.clock) - self.at > LONG:
                frames = traceback.extract_stack(sys._current_frames()[thread])
                ours = [f"{Path(each.filename).name}:{each.lineno} {each.name}" for each in frames[-9:]]
                self.kept[" < ".join(reversed(ours[-6:]))] += 1


@contextmanager
def _watched(beat: Beat) -> Iterator[None]:
    if not os.environ.get("HELD"):
        yield
        return
    thread = threading.Thread(target=beat.watch, args=(threading.get_ident(),))
    thread.start()
    try:
        yield
    finally:
        beat.over = True
        thread.join()
        for where, times in beat.kept.most_common(25):
            print(f"{times * 5:>6} ms  {where}")


async def _serve(place: str, targets: str, rows: str) -> None:
    thrift.begin()
    sys.setswitchinterval(SWITCH)
    thrifty, turns, beat = thrift.Thrift(calm=0.5), Turns(), Beat()
    sync = Sync(interval=timedelta(seconds=1), mode=Policy.REPORT, heal=Policy.REPORT)
    desired = rig.declared("1.0.0", targets=int(targets), sync=sync)
    store = await Store.open(f"sqlite:///{Path(place) / 'holdfast.db'}", now=utc)
    await _past(store, desired, int(rows))

    def sink(event: Any) -> None:
        thrifty(event)
        turns(event)

    async with anyio.create_task_group() as group, _at_work(store, desired, sink) as (url, made):
        await made.until(lambda: len(turns.took) > 1, within=120)
        group.start_soon(thrifty.run)
        await anyio.sleep(3)
        turns.took.clear()
        with _watched(beat):
            beat.begin()
            group.start_soon(beat.run)
            print(f"url {url}", flush=True)
            await anyio.to_thread.run_sync(sys.stdin.readline)
        print(len(turns.took), sum(turns.took) / max(1, len(turns.took)), beat.longest, resident() * 1e6 / 2**20)
        group.cancel_scope.cancel()
    await store.aclose()


@asynccontextmanager
async def _at_work(store: Store, desired: DesiredState, sink: Any) -> AsyncIterator[tuple[str, rig.Rig]]:
    parts: dict[str, Any] = {
        "tools": replace(rig.tools(), now=utc),
        "drivers": {"memory": StillDriver(desired)},
        "sink": sink,
        "ttl": timedelta(hours=1),
    }
    async with rig.around(rig.World(now=utc), store, rig.Shelf(desired), **parts) as made:
        house = House(
            settings=Settings(),
            installation=rig.HERE,
            store=store,
            reconciler=made.reconciler,
            drivers=parts["drivers"],
            keyring=rig.keyring(),
            redactor=Redactor(),
            now=utc,
        )
        server = on_port(application(house, Doorkeeper(), more=(router,)), "127.0.0.1", 0)
        async with anyio.create_task_group() as group:
            yield f"http://127.0.0.1:{await group.start(server.run_until_stopped)}", made
            server.should_exit = True
            server.force_exit = True


async def _past(store: Store, desired: DesiredState, rows: int) -> None:
    """Every placement was proven once; and closed intervals, each an hour long."""

    def begun(c: Connection) -> str:
        environments.accept(c, desired, now=utc())
        lease = leases.acquire(c, desired.environment.id, "generator", now=utc(), ttl=timedelta(seconds=1))
        assert lease is not None
        memories.good(c, keep_good(c, desired), lease, utc())
        return "{}"

    body = json.dumps({"declared": None, "wanted": None, "differences": [], "standing": None, "sticker": None})
    await store.write(begun)
    await anyio.sleep(1.1)
    for start in range(0, rows, BATCH):
        batch = [_row(desired, number, body) for number in range(start, min(rows, start + BATCH))]
        await store.write(lambda c, batch=batch: c.execute(insert(table), batch))  # type: ignore[misc]
    assert not await store.read(lambda c: history.standing_now(c, desired.environment.id))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        anyio.run(_serve, *sys.argv[2:], backend_options={"use_uvloop": True})
    else:
        given = [int(word) for word in sys.argv[1:]]
        main(*(given or [10_000, 1_000_000]))
