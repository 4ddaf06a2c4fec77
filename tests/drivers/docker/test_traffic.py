"""Who answers while a container is replaced: without a fixed port always somebody, with one nobody only in the gap."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anyio.to_thread
import pytest

from desired_state.health import CommandCheck
from desired_state.model import Port
from drivers.contract import Result, Step
from drivers.docker.connection import Connection
from drivers.docker.engine import Engine
from tests.drivers.docker.daemon import Daemon, health
from tests.drivers.docker.yard import Yard
from tests.harness import images
from tests.harness.images import App

PAUSE = 4.5  # seconds; the engine makes a name known a moment before it is reached, and a host knocks again after one
# second and then after two more: on a loaded machine the moment may be longer than the first


@pytest.fixture
async def daemon(yard: Yard) -> AsyncIterator[Daemon]:
    async with Daemon(yard) as daemon:
        yield daemon


@pytest.mark.parametrize("path", ["/", "/cgi-bin/slow"], ids=["short", "in_flight"])
async def test_no_request_by_name_is_lost_while_the_container_is_replaced(
    daemon: Daemon, yard: Yard, path: str
) -> None:
    one = await daemon.deployed(daemon.placement(images.ONE))
    caller = await anyio.to_thread.run_sync(yard.caller)
    two = daemon.placement(images.TWO)
    await anyio.to_thread.run_sync(yard.pulled, images.TWO)
    with caller.load("api", path) as seen:
        await anyio.sleep(0.5)
        await daemon.deployed(two, one)
        await anyio.sleep(0.5)
    print(f"asked {sum(seen['seen'].values())} times, lost {len(seen['lost'])}, longest {seen['longest']:.2f} s")
    assert seen["lost"] == []
    assert set(seen["seen"]) == {"one", "two"}
    assert seen["longest"] < PAUSE
    assert await anyio.to_thread.run_sync(caller.ask, "api") == "two"


async def test_no_request_is_lost_on_the_way_back(daemon: Daemon, yard: Yard) -> None:
    """The new one turns bad when it gets the name: the old one gets it back, and nobody was left without an answer."""
    one = await daemon.deployed(daemon.placement(images.ONE))
    caller = await anyio.to_thread.run_sync(yard.caller)
    cards = "/bin/busybox cat /sys/class/net/eth*/ifindex"  # another when it is taken off the network and on again
    moody = App(version="moody", before=f"{cards} > /first")
    same = CommandCheck(argv=("/bin/busybox", "sh", "-c", f'[ "$(/bin/busybox cat /first)" = "$({cards})" ]'))
    well_once = replace(health(same, seconds=3), successes=1)  # each answer costs the engine a process
    two = replace(daemon.placement(moody), health=well_once)
    await anyio.to_thread.run_sync(yard.pulled, moody)
    with caller.load("api") as seen:
        await anyio.sleep(0.3)
        outcome = await daemon.deploy(two, one)
        await anyio.sleep(0.3)
    assert outcome.result is Result.REVERTED, outcome
    assert Step.SWITCH in {progress.step for progress in daemon.said}
    assert seen["lost"] == []
    assert await anyio.to_thread.run_sync(caller.ask, "api") == "one"


class Noting(Engine):
    """An engine that notes which changing calls were made, in order."""

    def __init__(self, connection: Connection, notes: list[str]) -> None:
        super().__init__(connection)
        self._notes = notes

    async def start(self, id: str) -> None:
        self._notes.append("start")
        await super().start(id)

    async def stop(self, id: str) -> None:
        self._notes.append("stop")
        await super().stop(id)

    async def _read(self, call: Any) -> Any:
        self._notes.append("read")
        return await super()._read(call)

    async def create(self, body: Any) -> str:
        self._notes.append("create")
        return await super().create(body)


async def test_nothing_comes_between_the_end_of_the_old_and_the_start_of_the_new(yard: Yard) -> None:
    notes: list[str] = []
    async with Daemon(yard, engines=lambda connection: Noting(connection, notes)) as daemon:
        ports = (Port(container=8080, host=yard.free_port()),)
        one = await daemon.deployed(daemon.placement(images.ONE, ports=ports))
        notes.clear()
        await daemon.deployed(daemon.placement(images.TWO, ports=ports), one)
    assert notes[notes.index("stop") + 1] == "start"
    assert "create" in notes[: notes.index("stop")]


async def test_with_a_fixed_port_nobody_answers_only_in_the_gap(
    daemon: Daemon, yard: Yard, without_traffic: None
) -> None:
    """And the gap is what the engine needs to stop one container and start another, as measured beside it."""
    port = yard.free_port()
    one = await daemon.deployed(daemon.placement(images.ONE, ports=(Port(container=8080, host=port),)))
    two = daemon.placement(images.TWO, ports=one.configuration.ports)
    await anyio.to_thread.run_sync(yard.pulled, images.TWO)
    with Knocking(port) as ours:
        await daemon.deployed(two, one)
        await anyio.to_thread.run_sync(ours.wait_for, "two")
    bare = await anyio.to_thread.run_sync(_bare_gap, yard, port)
    print(f"gap {ours.gap:.2f} s, bare engine calls {bare:.2f} s")
    assert ours.answers[0] == "one"
    assert ours.answers[-1] == "two"
    assert ours.gap < 3 * bare + 1


def _bare_gap(yard: Yard, port: int) -> float:
    """The same hand-over by two engine calls and nothing else."""
    (running,) = yard.running()
    stopped = next(one for one in yard.workloads() if not one["State"]["Running"])
    with Knocking(port) as bare:
        yard.client.stop(running["Id"], timeout=2)
        yard.client.start(stopped["Id"])
        bare.wait_for("one")
    return bare.gap


class Knocking:
    """Asks the host's port every few milliseconds; `gap` is the longest time without an answer."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.answers: list[str] = []
        self.gap, self._last = 0.0, time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Knocking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for(self, answer: str) -> None:
        deadline = time.monotonic() + 10
        while self.answers[-1:] != [answer] and time.monotonic() < deadline:
            time.sleep(0.01)

    def _run(self) -> None:
        while not self._stop.is_set():
            if answer := self._asked():
                self.gap = max(self.gap, time.monotonic() - self._last)
                self._last = time.monotonic()
                self.answers.append(answer)
            time.sleep(0.005)

    def _asked(self) -> str | None:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=0.5) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                received = b""
                while piece := connection.recv(4096):
                    received += piece
        except OSError:
            return None
        return received.rpartition(b"\n\n")[2].strip().decode().splitlines()[-1] if received else None
