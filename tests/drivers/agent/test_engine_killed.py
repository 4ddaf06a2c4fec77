"""The engine is killed in the middle of a deploy, alone or with the agent that works on it, with what holds its
containers or without: within seconds of their being there again the old or the new version serves, the task is
answered, and in the end the new one stands once, under a proven sticker.

With HOLDFAST_KIT=all at each changing call, before it and into it; that takes half an hour.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from ipaddress import IPv4Network
from typing import Any

import anyio
import anyio.to_thread
import pytest

from desired_state.model import Placement, Port, RestartPolicy
from drivers.agent import protocol
from drivers.agent.protocol import Code, Failure
from drivers.contract import Action, Receipt, Result
from drivers.docker import render
from drivers.errors import Busy, OutcomeUnknown, Retryable, Unreachable
from stickers.sticker import Phase
from tests.drivers.agent.prober import Prober
from tests.drivers.agent.server import Server
from tests.drivers.agent.striking import Strike
from tests.drivers.docker.daemon import Daemon, health
from tests.drivers.docker.yard import Yard, stock
from tests.harness import images
from tests.harness.containerd import Containerd, NoContainerd, running_containerd
from tests.harness.engine import Engine, NoEngine, running_engine

ALL = bool(os.environ.get("HOLDFAST_KIT"))
PROMISED = 10.0  # seconds from when they are started again until the old or the new serves
MARGIN = 1 if ALL else 3  # other tests load the machine
MOST = 40  # changing calls in one action; more would be a loop
Place = tuple[str, int]  # where a version may serve
RETRIED = {error.code for error in (Busy, OutcomeUnknown, Retryable, Unreachable)}
GRACE = timedelta(seconds=1)


@pytest.fixture(scope="module")
def containerd() -> Iterator[Containerd]:
    try:
        with running_containerd() as containerd:
            yield containerd
    except NoContainerd as reason:
        pytest.skip(f"no containerd: {reason}")


@pytest.fixture(scope="module")
def own(containerd: Containerd, registry: str) -> Iterator[Engine]:
    try:
        with running_engine(f"--containerd={containerd.address}") as engine:
            stock(engine.address, registry)
            yield engine
    except NoEngine as reason:
        pytest.skip(f"no Docker engine: {reason}")


@dataclass(frozen=True, kw_only=True)
class Case:
    """When who is killed. Beside the engine's own process: the agent (`both`), containerd, and with `everything` the
    shims and containers too. With `live` the engine finds its containers running (`live-restore`), otherwise it stops
    them and starts them again."""

    step: str = ""
    call: int = -1
    into: float = 0.0
    both: bool = False
    containerd: bool = False
    everything: bool = False
    live: bool = False

    def __str__(self) -> str:
        """What is not as by itself."""
        said = asdict(self).items() - asdict(Case()).items()
        return " ".join(f"{name}={value}" for name, value in sorted(said))

    def strike(self, engine: int) -> dict[str, str]:
        strike = Strike(engine=engine, itself=self.both, step=self.step, call=self.call, into=self.into)
        return strike.environment()


class Host:
    """What stands on one host, and dies there: an engine, its containerd, and an agent."""

    def __init__(self, own: Engine, containerd: Containerd, server: Server, daemon: Daemon) -> None:
        self.own, self.containerd, self.server, self.daemon = own, containerd, server, daemon
        self.yard = daemon.yard
        self.back_at = 0.0  # when whoever was killed was last started
        self.lost_ports = 0

    async def first(self, placement: Placement) -> None:
        await self.server.started()
        await self.server.answered(await self.server.send(await self.action(placement, None)))

    async def action(self, wanted: Placement, stands: Placement | None) -> Action:
        far = replace(self.yard.target, connection={**self.yard.target.connection, "via": "agent"})
        return replace(self.daemon.action(await self.daemon.change(wanted, stands)), target=far)

    async def struck(self, case: Case, action: Action) -> str | None:
        """The task, once somebody has been killed in the middle of it; None when it was done before that."""
        self.server.kill()
        await self.server.started(more=case.strike(self.own.pid))
        id = await self.server.send(action)
        await self.server.until(lambda: not self.own.runs or id in self.server.answers, 60)
        if id in self.server.answers and await self.server.code(id) is Code.DONE:
            self.server.kill()  # and with it a strike that is still to come
            if not self.own.runs:
                self.own.restart()
            return None
        self.own.crash()
        if case.both:
            assert self.server.process is not None
            await anyio.to_thread.run_sync(self.server.process.wait)
        if case.containerd or case.everything:
            self.containerd.crash(everything=case.everything)
        return id

    async def again(self, case: Case) -> None:
        """Whoever was killed is started, all at once, as a service manager would."""
        self.back_at = time.monotonic()
        if case.both:
            self.server.start()
        self.containerd.start()
        self.own.configure({"live-restore": case.live})
        self.own.start()
        if case.both:
            await self.server.until(lambda: self.server.hello, 30)

    async def answered(self, action: Action, id: str) -> Receipt:
        """Where the engine was away it has failed and is sent again, as a server would; where the engine has come back
        with a port that it gives to nobody, somebody does what the answer says."""
        ends = time.monotonic() + 50
        while (await self.server.code(id, 60)) is Code.FAILED and time.monotonic() < ends:
            failure = protocol.read_body(Failure, self.server.answers[id].body)
            assert failure.error in RETRIED, failure
            if "restart the engine" in failure.sentence:
                self.back_at, self.lost_ports = time.monotonic(), self.lost_ports + 1
                self.own.restart()
            await anyio.sleep(0.2)
            id = await self.server.send(action)
        return await self.server.answered(id)

    async def must_be_whole(self, wanted: Placement, action: Action) -> None:
        assert [one["Config"]["Image"] for one in self.yard.running(wanted.id)] == [str(wanted.artifact)]
        made = [one["Config"]["Labels"][render.KEY] for one in self.yard.workloads(wanted.id)]
        assert len(made) == len(set(made)), "two containers of one key"
        assert len(self.yard.holders(wanted.id)) <= 2  # the higher is read; the other goes when the next is written
        worn = await self.daemon.worn()
        assert worn is not None
        assert (worn.phase, worn.key, worn.claim.content) == (Phase.PROVEN, action.key, wanted.content)
        seen = await self.daemon.workload(wanted)
        assert seen.configuration == wanted.configuration_digest, seen.differences


def both(daemon: Daemon, **configuration: Any) -> list[Placement]:
    """Two versions, which are given less time to become healthy than the task is to come to an end."""
    made = (daemon.placement(app, **configuration) for app in (images.ONE, images.TWO))
    return [replace(one, health=health(seconds=15)) for one in made]


async def survives(
    host: Host, case: Case, wanted: Placement, stands: Placement, places: Sequence[Place]
) -> Placement | None:
    """What stands when all that is promised has held; None where nobody was killed.

    What stood stands again where the engine was killed in the middle of the start: with `live-restore` it may take a
    container for running that never came to run; or it has started the old one first, and that has the port.
    """
    action = await host.action(wanted, stands)
    with Prober(places) as prober:
        before, lost = time.monotonic(), host.lost_ports
        id = await host.struck(case, action)
        if id is None:
            return None
        killed = time.monotonic()
        await host.again(case)
        receipt = await host.answered(action, id)
        answered = time.monotonic() - host.back_at
        (outcome,) = receipt.outcomes
        assert outcome.as_wanted or outcome.result is Result.REVERTED, (case, outcome)
        serves = wanted if outcome.as_wanted else stands
        await anyio.to_thread.run_sync(_hears, prober, serves)
    silence = prober.silence(host.back_at)
    again = ", which had lost a port and was restarted once more" * (host.lost_ports - lost)
    gone = prober.silence(killed)
    print(
        f"silent {silence:.2f} s after the restart, {gone:.2f} s after the kill, done {answered:.2f} s: {case}{again}: "
        f"{outcome.result}"
    )
    assert prober.versions(before) <= {"one", "two"}
    assert silence < PROMISED * MARGIN, case
    await host.must_be_whole(serves, action)
    return serves


def _hears(prober: Prober, wanted: Placement) -> None:
    """Until the new one has answered, and nobody else does."""
    version, ends = wanted.release.partition("@")[2], time.monotonic() + PROMISED * MARGIN
    while prober.versions(time.monotonic() - 0.3) != {version}:
        assert time.monotonic() < ends, f"{version} is not heard, but {prober.versions(time.monotonic() - 0.3)}"
        time.sleep(0.05)


def each_moment() -> Iterator[Case]:
    """Every step, and every call, before it and into it, whoever is killed by turns."""
    for step in ("step_look", "step_prepare", "step_prove", "step_settle", "step_sticker"):
        yield from (Case(step=step, both=both) for both in (False, True))
    for call in range(MOST):
        for into in (0.0, 0.01, 0.1):
            yield Case(call=call, into=into, both=bool(call % 2), everything=call % 3 == 2)
            yield Case(call=call, into=into, both=not call % 2, containerd=call % 3 == 1)
            yield Case(call=call, into=into, both=not call % 2, containerd=call % 3 == 2, live=True)


EACH = [
    pytest.param(
        "each",
        marks=pytest.mark.skipif(not ALL, reason="HOLDFAST_KIT=all kills the engine at each call, for half an hour"),
    )
]
IN_PLACE = (
    Case(step="step_prove", live=True),
    Case(call=4, into=0.05),
    Case(call=5, both=True),
    Case(call=5, into=0.1, both=True, everything=True),
)
BESIDE = (
    Case(call=2, into=0.05, both=True),
    Case(call=5, containerd=True),
    Case(call=6, into=0.05, live=True),
    Case(step="step_sticker", both=True, everything=True),
)


@pytest.mark.parametrize("moments", ["some", *EACH])
async def test_with_a_fixed_port_the_old_or_the_new_serves_soon_after_the_engine_was_killed(
    own: Engine, containerd: Containerd, yard: Yard, server: Server, moments: str
) -> None:
    async with Daemon(yard) as daemon:
        port = yard.free_port()
        where: dict[str, Any] = {"ports": (Port(container=8080, host=port),), "stop_grace": GRACE}
        versions = both(daemon, **where)
        host = Host(own, containerd, server, daemon)
        await host.first(versions[0])
        await _killed(host, IN_PLACE if moments == "some" else each_moment(), versions, [("127.0.0.1", port)])


@pytest.mark.parametrize("moments", ["some", *EACH])
async def test_beside_the_old_one_the_old_or_the_new_serves_soon_after_the_engine_was_killed(
    own: Engine, containerd: Containerd, yard: Yard, server: Server, moments: str
) -> None:
    async with Daemon(yard) as daemon:
        versions = both(daemon, stop_grace=GRACE, restart=RestartPolicy.ALWAYS)
        host = Host(own, containerd, server, daemon)
        await host.first(versions[0])
        (network,) = yard.client.networks(names=[yard.network])
        _, *rest = IPv4Network(network["IPAM"]["Config"][0]["Subnet"]).hosts()
        places = [(str(address), 8080) for address in rest[:4]]
        await _killed(host, BESIDE if moments == "some" else each_moment(), versions, places)


async def _killed(host: Host, cases: Iterable[Case], versions: list[Placement], places: Sequence[Place]) -> None:
    """At each of these moments, until a deploy is done without coming to one; what was named must be come to."""
    here, there = versions
    for case in cases:
        serves = await survives(host, case, there, here, places)
        if serves is None:
            assert not isinstance(cases, tuple), f"{case} is never come to"
            assert case.call > 5 or case.into
        if serves is not here:
            here, there = there, here
        if serves is None and not case.into:
            return
