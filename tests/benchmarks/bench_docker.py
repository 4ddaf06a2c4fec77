"""A Docker engine held by a real daemon, beside docker-compose and bare engine calls on the same images in one run.

    python -m tests.benchmarks.bench_docker

Needs an engine of its own (root) and a registry; without them it says so. CPU is that of the measuring side: the daemon
for us, the whole command for docker-compose, this process for bare calls; the engine's own is the same for all.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from drivers.docker import render
from tests.benchmarks.table import Row, children_cpu, medians, process_cpu, show
from tests.drivers.docker.caller import ask
from tests.drivers.docker.yard import MINE, Yard
from tests.harness import engine as engines
from tests.harness import images
from tests.harness import registry as registries
from tests.harness.held import Held

ROUNDS: Final = 3
MANY: Final = 20
FIFTY: Final = 50
QUIET: Final = 20.0  # seconds a held fleet is watched for
HEALTH: Final = {"http": {"port": 8080, "path": "/"}, "interval": "100ms", "successes": 1, "deadline": "120s"}


class Bench:
    """An engine, the images on it, and a directory."""

    def __init__(self, yard: Yard, home: Path) -> None:
        self.yard, self.home, self.image, self._count = yard, home, str(yard.pulled(images.ONE)), 0
        self.next = str(yard.pulled(images.TWO))

    @contextmanager
    def held(self, count: int, components: dict[str, Any] | None = None, **target: Any) -> Iterator[Held]:
        """A fleet of so many targets on the one engine, declared and not deployed yet."""
        self._count += 1
        held = Held(self.home / str(self._count))
        held.release("1.0.0", {"api": self.yard.artifact(images.ONE)})
        held.release("2.0.0", {"api": self.yard.artifact(images.TWO)})
        connection = {"via": "local", "engine": self.yard.engine}
        own = {"driver": "docker", "connection": connection} | target
        held.targets({f"t-{number}": own for number in range(count)})
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
        for one in self.yard.client.containers(all=True, filters={"label": label}):
            self.yard.client.remove_container(one["Id"], v=True, force=True)


# -- a deploy ---------------------------------------------------------------------------------------------------------


def deploy(bench: Bench) -> None:
    rounds = [(*_by_us(bench), *_by_compose(bench), *_by_calls(bench)) for _ in range(ROUNDS)]
    ours, ours_cpu, compose, compose_cpu, again, again_cpu, calls, calls_cpu = medians(rounds)
    show(
        f"Deploy of {MANY} containers, images there, medians of {ROUNDS} (ours: proven, labelled and recorded)",
        [
            Row(work="wall, beside docker-compose v1 up -d", ours=ours, peer=compose),
            Row(work="wall, beside bare engine calls, 4 at once", ours=ours, peer=calls, limit="ratio 1.05"),
            Row(work="CPU, beside docker-compose v1 up -d", ours=ours_cpu, peer=compose_cpu),
            Row(work="CPU, beside bare engine calls", ours=ours_cpu, peer=calls_cpu),
        ],
    )
    show(
        f"docker-compose v1 up -d again, {MANY} containers, nothing to do: the peer of an unchanged turn",
        [Row(work="wall", ours=again), Row(work="CPU", ours=again_cpu)],
    )


def _by_us(bench: Bench) -> tuple[float, float]:
    """From the edit of the document until the job is completed: the daemon is up, and holds nothing yet."""
    with bench.held(0) as held:
        held.start()
        held.wait("the daemon", held.listens)
        assert held.process is not None
        cpu, began = process_cpu(held.process.pid), time.time()
        own = {"driver": "docker", "connection": {"via": "local", "engine": bench.yard.engine}}
        held.targets({f"t-{number}": own for number in range(MANY)})
        held.wait("the deploy", lambda: any(job["ok"] for job in held.jobs()))
        ended = max(datetime.fromisoformat(job["ended_at"]).timestamp() for job in held.jobs())
        return ended - began, process_cpu(held.process.pid) - cpu


def _by_compose(bench: Bench) -> tuple[float, float, float, float]:
    """Wall and CPU of the first `up -d`, and of a second one that finds nothing to do."""
    home = bench.home / "compose"
    home.mkdir(exist_ok=True)
    services = {f"s{number}": {"image": bench.image, "network_mode": "bridge"} for number in range(MANY)}
    (home / "docker-compose.yml").write_text(json.dumps({"version": "3", "services": services}))
    environment = os.environ | {"DOCKER_HOST": bench.yard.engine}
    command = ["docker-compose", "-p", f"bench{bench.yard.mark}"]
    cpu, began = children_cpu(), time.monotonic()
    subprocess.run([*command, "up", "-d"], cwd=home, env=environment, check=True, capture_output=True)
    up, up_cpu = time.monotonic() - began, children_cpu() - cpu
    subprocess.run([*command, "up", "-d"], cwd=home, env=environment, check=True, capture_output=True)
    again, again_cpu = time.monotonic() - began - up, children_cpu() - cpu - up_cpu
    bench.remove(f"com.docker.compose.project=bench{bench.yard.mark}")
    return up, up_cpu, again, again_cpu


def _by_calls(bench: Bench) -> tuple[float, float]:
    """Create and start, from four threads."""
    body = {"Image": bench.image, "Labels": {MINE: bench.yard.mark}, "HostConfig": {"Init": True}}
    left = list(range(MANY))

    def work() -> None:
        with suppress(IndexError):
            while True:
                left.pop()
                bench.yard.client.start(bench.yard.make(body))

    cpu, began = time.process_time(), time.monotonic()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = time.monotonic() - began, time.process_time() - cpu
    bench.remove(f"{MINE}={bench.yard.mark}")
    return found


# -- nothing to do, and a hand ----------------------------------------------------------------------------------------


def quiet(bench: Bench) -> None:
    """A fleet of fifty that nobody touches, then one of them killed by hand."""
    with bench.held(FIFTY) as held:
        held.start()
        held.wait("fifty in sync", lambda: held.in_sync("1.0.0", FIFTY))
        time.sleep(5)
        assert held.process is not None
        turns, cpu = _turns(held), process_cpu(held.process.pid)
        time.sleep(QUIET)
        turned, used = _turns(held) - turns, process_cpu(held.process.pid) - cpu
        one_list = _median_of(9, lambda: bench.yard.client.containers(all=True))
        rows = [
            Row(work="CPU of the daemon a turn", ours=1000 * used / max(turned, 1), unit="ms", limit="3 ms"),
            Row(work="turns in that time", ours=turned, unit=""),
            Row(work="one list call of the engine, wall", ours=1000 * one_list, unit="ms"),
        ]
        show(
            f"{FIFTY} containers in which nothing changes, {QUIET:g} s of a held fleet, everything the daemon does",
            rows,
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


def _median_of(rounds: int, work: Callable[[], object]) -> float:
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        found.append((time.perf_counter() - began,))
    return medians(found)[0]


# -- one with a fixed port is replaced --------------------------------------------------------------------------------


class Load:
    """Two clients that ask a port of the host without pause; `lost` counts requests that were not answered well."""

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
    rounds = [(*_replaced_by_us(bench), *_replaced_by_calls(bench)) for _ in range(ROUNDS)]
    lost, gap, lost_bare, gap_bare = medians(rounds)
    show(
        f"One container with a fixed host port is replaced, one client at 200 requests/s, medians of {ROUNDS}",
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
                for part in (deploy, quiet, replaced):
                    part(bench)
            finally:
                yard.clear()
                shutil.rmtree(home)
    except (engines.NoEngine, registries.NoRegistry) as reason:
        print(f"\nDocker is not measured: {reason}")


if __name__ == "__main__":
    main()
