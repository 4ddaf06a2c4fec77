"""A Docker engine held by a real daemon, beside docker-compose and bare engine calls on the same images in one run.

    python -m tests.benchmarks.bench_docker

Needs an engine of its own (root) and a registry; without them it says so. CPU is that of the measuring side: the daemon
for us, the whole command for Compose, this process for bare calls; the engine's own is not counted. On few cores the
engine's own work, some hundred milliseconds of CPU a start, is nearly all of the wall time of a deploy.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import anyio

from desired_state.model import Configuration, DesiredState, Strategy, StrategyKind
from drivers.docker import render, transport
from drivers.docker.driver import DockerDriver
from drivers.memory import World
from reconciler import reconcile
from reconciler.store.store import Store
from stickers.names import InstallationId
from tests.benchmarks import compose
from tests.benchmarks.bench_turn import utc
from tests.benchmarks.table import Row, children_cpu, medians, process_cpu, show, timed
from tests.drivers.docker.caller import ask
from tests.drivers.docker.yard import MINE, Yard
from tests.harness import engine as engines
from tests.harness import images
from tests.harness import registry as registries
from tests.harness.held import Held
from tests.reconciler import rig

ROUNDS: Final = 3
MANY: Final = 20
FIFTY: Final = 50
AT_ONCE: Final = 4  # bare calls; more or fewer take as long, for the engine is bound by its CPU
TURNS: Final = 30
LONGEST: Final = 50.0  # seconds for all rounds of one part
QUIET: Final = 10.0  # seconds a held fleet is watched for
HEALTH: Final = {"http": {"port": 8080, "path": "/"}, "interval": "100ms", "successes": 1, "deadline": "120s"}


Figures = tuple[float, float]  # wall and CPU seconds


class Bench:
    """An engine, the images on it, and a directory."""

    def __init__(self, yard: Yard, home: Path) -> None:
        self.yard, self.home, self.image, self._count = yard, home, str(yard.pulled(images.ONE)), 0
        self.next = str(yard.pulled(images.TWO))

    @property
    def place(self) -> dict[str, Any]:
        """What is said of each target."""
        return {"driver": "docker", "connection": {"via": "local", "engine": self.yard.engine}}

    @contextmanager
    def held(self, count: int, components: dict[str, Any] | None = None) -> Iterator[Held]:
        """A fleet of so many targets on the one engine, declared and not deployed yet."""
        self._count += 1
        held = Held(self.home / str(self._count))
        held.release("1.0.0", {"api": self.yard.artifact(images.ONE)})
        held.release("2.0.0", {"api": self.yard.artifact(images.TWO)})
        held.targets(dict.fromkeys(_names(count), self.place))
        self.declare(held, "1.0.0", components)
        try:
            yield held
        finally:
            held.kill()
            self.remove(f"{render.INSTALLATION}={held.installation}")

    def declare(self, held: Held, version: str, components: dict[str, Any] | None = None) -> None:
        words = {"sync": {"interval": "2s"}, "strategy": {"kind": "all-at-once", "max_failures": 0}}
        held.environment(version, {"api": {"stop_grace": "1s"} | (components or {})}, **words)

    def remove(self, label: str) -> None:
        found = [one["Id"] for one in self.yard.client.containers(all=True, filters={"label": label})]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(lambda one: self.yard.client.remove_container(one, v=True, force=True), found))


def _rounds() -> Iterator[int]:
    """As many as there are to be, fewer on a machine that is busy with something else."""
    began = time.monotonic()
    for number in range(ROUNDS):
        if number and (time.monotonic() - began) * (number + 1) / number > LONGEST:
            print(f"\n{number} of {ROUNDS} rounds, the machine is busy")
            return
        yield number


def _names(count: int) -> list[str]:
    return [f"t-{number}" for number in range(count)]


# -- a deploy ---------------------------------------------------------------------------------------------------------


def deploy(bench: Bench) -> None:
    """No health check is declared, as the peers have none: ours is proven by one look that finds it running."""
    peers = compose.found(bench.home)
    rounds = [_once(bench, peers) for _ in _rounds()]
    ours, calls, *composed = [medians(figures) for figures in zip(*rounds, strict=True)]
    named = list(zip(peers, composed[::2], composed[1::2], strict=True))
    beside = [(f"bare engine calls, {AT_ONCE} at once", calls), *((f"{name} up -d", up) for name, up, _ in named)]
    show(
        f"Deploy of {MANY} containers, images there, medians of {len(rounds)} (ours: proven, labelled and recorded)",
        [
            *(Row(work=f"wall, beside {name}", ours=ours[0], peer=peer[0]) for name, peer in beside),
            *(Row(work=f"CPU, beside {name}", ours=ours[1], peer=peer[1]) for name, peer in beside),
        ],
    )
    for name, _, again in named:
        rows = [Row(work="wall", ours=1000 * again[0], unit="ms"), Row(work="CPU", ours=1000 * again[1], unit="ms")]
        show(f"{name} up -d again, {MANY} containers, nothing to do: a peer of an unchanged turn", rows)


def _once(bench: Bench, peers: dict[str, compose.Command]) -> list[Figures]:
    """Ours, bare calls, and for each peer the first and the second time."""
    found = [_by_us(bench), _by_calls(bench)]
    for command in peers.values():
        found += _by_compose(bench, command)
    return found


def _by_us(bench: Bench) -> Figures:
    """From the edit of the document until the job is completed, by a daemon that is up and holds one container."""
    with bench.held(1) as held:
        held.start()
        held.wait("the first", lambda: held.in_sync("1.0.0", 1))
        assert held.process is not None
        cpu, began = process_cpu(held.process.pid), time.time()
        held.targets(dict.fromkeys(_names(MANY + 1), bench.place))
        while not (ended := _ended(held, began)):
            time.sleep(0.25)  # asking costs the daemon CPU too
        return ended - began, process_cpu(held.process.pid) - cpu


def _ended(held: Held, since: float) -> float | None:
    """When the job made since then was completed."""
    done = [job for job in held.jobs() if job["ok"] and datetime.fromisoformat(job["created_at"]).timestamp() > since]
    return datetime.fromisoformat(done[0]["ended_at"]).timestamp() if done else None


def _by_compose(bench: Bench, command: compose.Command) -> tuple[Figures, Figures]:
    """The first `up -d`, and a second one that finds nothing to do."""
    home, project = bench.home / "compose", f"bench{bench.yard.mark}"
    home.mkdir(exist_ok=True)
    one = {"image": bench.image, "network_mode": "bridge", "init": True}
    services = {f"s{number}": one for number in range(MANY)}
    (home / "docker-compose.yml").write_text(json.dumps({"version": "3.7", "services": services}))

    def up() -> Figures:
        cpu, began = children_cpu(), time.monotonic()
        environment = os.environ | {"DOCKER_HOST": bench.yard.engine}
        subprocess.run(
            [*command, "-p", project, "up", "-d"], cwd=home, env=environment, check=True, capture_output=True
        )
        return time.monotonic() - began, children_cpu() - cpu

    try:
        return up(), up()
    finally:
        bench.remove(f"com.docker.compose.project={project}")


def _by_calls(bench: Bench) -> Figures:
    """Create and start, from so many threads."""
    body = {"Image": bench.image, "Labels": {MINE: bench.yard.mark}, "HostConfig": {"Init": True}}
    cpu, began = time.process_time(), time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(lambda _: bench.yard.client.start(bench.yard.make(body)), range(MANY)))
    found = time.monotonic() - began, time.process_time() - cpu
    bench.remove(f"{MINE}={bench.yard.mark}")
    return found


# -- nothing to do, and a hand ----------------------------------------------------------------------------------------


def turn(bench: Bench) -> None:
    """One turn by itself, in this process: look, decide, record; real containers and the real store in a file."""
    anyio.run(_turn, bench, backend_options={"use_uvloop": True})


async def _turn(bench: Bench) -> None:
    tools = replace(rig.tools(), now=utc, installation=InstallationId(f"bench-{bench.yard.mark}"))
    store = await Store.open(f"sqlite:///{bench.home / 'turn.db'}", now=utc)
    driver, lines = DockerDriver(tools), transport.Lines(bench.yard.engine.removeprefix("unix://"))
    parts: dict[str, Any] = {"tools": tools, "drivers": {"docker": driver}, "sink": lambda event: None}
    listing = transport.Request(method="GET", target="/v1.41/containers/json?all=1", timeout=10)

    async def listed() -> None:
        lines.ask(listing)

    async def done() -> bool:
        job = await made.job()
        return job is not None and job.ended_at is not None

    try:
        async with rig.around(World(now=utc), store, rig.Shelf(_fleet(bench)), **parts) as made:
            await made.until(done)
            made.reconciler.stop()
        means = made.reconciler._means
        await reconcile.turn(means, rig.PROD)
        wall, cpu = await timed(TURNS, lambda: reconcile.turn(means, rig.PROD))
        one_list, _ = await timed(TURNS, listed)
    finally:
        await driver.aclose()
        await store.aclose()
        lines.close()
        bench.remove(f"{render.INSTALLATION}={tools.installation}")
    show(
        f"Turn in which nothing has changed, {FIFTY} containers, all-in, medians of {TURNS}",
        [
            Row(work="wall", ours=1000 * wall, unit="ms", limit="8 ms"),
            Row(work="CPU", ours=1000 * cpu, unit="ms", limit="3 ms"),
            Row(work="of it one list call of the engine, wall", ours=1000 * one_list, unit="ms"),
        ],
    )


def _fleet(bench: Bench) -> DesiredState:
    """Without health checks: each answer asked for is one request more, and the workload's own affair."""
    state = rig.declared("1.0.0", targets=FIFTY, strategy=Strategy(kind=StrategyKind.ALL_AT_ONCE))
    artifact = bench.yard.artifact(images.ONE)
    return replace(
        state,
        targets=tuple(replace(one, driver="docker", connection=bench.place["connection"]) for one in state.targets),
        placements=tuple(
            replace(one, artifact=artifact, health=None, configuration=Configuration()) for one in state.placements
        ),
    )


def quiet(bench: Bench) -> None:
    """A fleet of fifty that nobody touches, then one of them killed by hand."""
    with bench.held(FIFTY) as held:
        held.start()
        held.wait("fifty in sync", lambda: held.in_sync("1.0.0", FIFTY))
        time.sleep(3)
        assert held.process is not None
        turns, cpu = _turns(held), process_cpu(held.process.pid)
        time.sleep(QUIET)
        turned, used = _turns(held) - turns, process_cpu(held.process.pid) - cpu
        show(
            f"{FIFTY} containers in which nothing changes, {QUIET:g} s of a held fleet, everything the daemon does",
            [
                Row(work="CPU of the whole daemon a turn", ours=1000 * used / max(turned, 1), unit="ms"),
                Row(work="turns in that time", ours=turned, unit=""),
            ],
        )
        hands = medians([_by_hand(bench, held, number) for number in range(ROUNDS)])
        show(
            f"A container killed by hand (docker kill), fleet of {FIFTY}, medians of {ROUNDS}",
            [
                Row(work="until it is detected", ours=hands[0], limit="1 s"),
                Row(work="until it is healed: restarted, proven, labelled", ours=hands[1], limit="2 s"),
            ],
        )


def _turns(held: Held) -> int:
    """How many decisions were recorded."""
    return int(held.ask("history", environment="fleet")["entries"][0]["count"])


def _by_hand(bench: Bench, held: Held, number: int) -> tuple[float, float]:
    label = f"{render.TARGET}=default/t-{number}"
    filters = {"label": [f"{render.INSTALLATION}={held.installation}", label]}
    (victim,) = bench.yard.client.containers(filters=filters)
    before = max(cell["number"] for cell in _standings(held, number))
    killed = time.time()
    bench.yard.client.kill(victim["Id"])
    held.wait("the heal", lambda: _healed(held, number, before))
    after = [cell for cell in _standings(held, number) if cell["number"] > before]
    broken = min(_moment(cell) for cell in after if cell["verdict"] != "in sync")
    healed = max(_moment(cell) for cell in after if cell["verdict"] == "in sync")
    return broken - killed, healed - killed


def _healed(held: Held, number: int, before: int) -> bool:
    newest = max(_standings(held, number), key=lambda cell: int(cell["number"]))
    return bool(newest["number"] > before and newest["verdict"] == "in sync")


def _standings(held: Held, number: int) -> list[dict[str, Any]]:
    answer = held.ask("history", environment="fleet", target=f"t-{number}")
    return [cell for cell in answer["placements"] if cell["component"] == "api"]


def _moment(cell: dict[str, Any]) -> float:
    return datetime.fromisoformat(cell["since"]).timestamp()


# -- one with a fixed port is replaced --------------------------------------------------------------------------------


class Load:
    """A client that asks a port of the host all the while; `lost` counts requests that were not answered well."""

    def __init__(self, port: int) -> None:
        self.port, self.lost, self.gap, self._stopped = port, 0, 0.0, threading.Event()
        self._answered = time.monotonic()

    def __enter__(self) -> Load:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        time.sleep(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(0.5)
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(0.005):
            try:
                ask("127.0.0.1", self.port, "/")
            except OSError:
                self.lost += 1
                continue
            now = time.monotonic()
            self.gap, self._answered = max(self.gap, now - self._answered), now


def replaced(bench: Bench) -> None:
    rounds = [(*_replaced_by_us(bench), *_replaced_by_calls(bench)) for _ in _rounds()]
    lost, gap, lost_bare, gap_bare = medians(rounds)
    show(
        f"One container with a fixed host port is replaced, one client at 200 requests/s, medians of {len(rounds)}",
        [
            Row(work="requests lost, beside bare stop and start", ours=lost, unit="", peer=lost_bare),
            Row(
                work="longest time without an answer", ours=1000 * gap, unit="ms", peer=1000 * gap_bare, limit="ratio 1"
            ),
        ],
    )


def _replaced_by_us(bench: Bench) -> tuple[float, float]:
    port = bench.yard.free_port()
    own = {"ports": [f"127.0.0.1:{port}:8080"], "health": HEALTH}
    with bench.held(1, own) as held:
        held.start()
        held.wait("the first", lambda: held.in_sync("1.0.0", 1))
        with Load(port) as load:
            bench.declare(held, "2.0.0", own)
            held.wait("the second", lambda: held.in_sync("2.0.0", 1))
        return load.lost, load.gap


def _replaced_by_calls(bench: Bench) -> tuple[float, float]:
    """The next is created before the old one is stopped, and started at once."""
    client, port = bench.yard.client, bench.yard.free_port()
    host = {"PortBindings": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]}, "Init": True}
    body = {"Labels": {MINE: bench.yard.mark}, "ExposedPorts": {"8080/tcp": {}}, "HostConfig": host}
    old = bench.yard.make(body | {"Image": bench.image})
    client.start(old)
    time.sleep(1)
    with Load(port) as load:
        new = bench.yard.make(body | {"Image": bench.next})
        client.stop(old, timeout=1)
        client.start(new)
        time.sleep(1)
    bench.remove(f"{MINE}={bench.yard.mark}")
    return load.lost, load.gap


def main() -> None:
    try:
        with engines.given_or_running() as engine, registries.given_or_running() as registry:
            home, yard = Path(tempfile.mkdtemp(prefix="hf-bench-")), Yard(engine, registry)
            try:
                bench = Bench(yard, home)
                for part in (deploy, turn, quiet, replaced):
                    part(bench)
            finally:
                yard.clear()
                shutil.rmtree(home)
    except (engines.NoEngine, registries.NoRegistry) as reason:
        print(f"\nDocker is not measured: {reason}")


if __name__ == "__main__":
    main()
