"""Where this process speaks with agents: the listener, the switchboard behind it, the way to the signer, and what the
house asks of them beside deployments."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

import anyio
import structlog
from anyio.abc import TaskStatus
from sqlalchemy import Connection

from api.agents.authority import Authority
from api.agents.door import Door
from api.agents.enrolled import Enrolled
from api.agents.enrolment import Desk, Enrolment
from api.agents.signing import Signing
from api.agents.switchboard import Switchboard
from api.agents.tls import Tls
from api.agents.witnessed import Witnessed
from api.http.address import is_loopback, split
from api.problem import Problem
from api.settings import Settings
from desired_state.model import Placement, Target
from drivers.agent import protocol
from drivers.agent.asking import Asking, Wanted
from drivers.agent.driver import over_agents
from drivers.agent.protocol import READS, Answer, Hold, Result, Verb
from drivers.contract import Driver, Look, Tools
from drivers.registry import DriverClass
from reconciler.events import Sink
from reconciler.store import environments, evidence, leases
from reconciler.store.records import EvidenceRow
from reconciler.store.store import Store
from stickers import digest
from stickers.names import EvidenceId, TargetId
from stickers.observation import Observation
from stickers.signature import Statement, unverified_payload

WITHIN: Final = timedelta(minutes=10)  # for what a person asks of an agent

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where agents are listened for, how they reach it, and where their tasks are signed."""

    host: str
    port: int
    url: str
    signer: Path


def where(settings: Settings) -> Where | None:
    """None where nobody listens for agents. Raises `BAD_SETTING` for what cannot be meant."""
    if not settings.agents_listen:
        return None
    host, port = split("agents_listen", settings.agents_listen)
    parts = urlsplit(settings.agents_url)
    if parts.scheme != "https" or not parts.hostname:
        said = f"HOLDFAST_AGENTS_URL is {settings.agents_url[:80]!r}; expected https://HOST:PORT, as agents reach it"
        raise Problem("BAD_SETTING", said)
    if settings.signer is None:
        said = "HOLDFAST_AGENTS_LISTEN is set and HOLDFAST_SIGNER is not: agents do nothing that no signer has signed"
        raise Problem("BAD_SETTING", said)
    return Where(host=host, port=port, url=settings.agents_url, signer=settings.signer)


@dataclass(frozen=True, kw_only=True)
class Means:
    """What the station is handed by the house."""

    store: Store
    authority: Authority
    roll: Enrolled
    signers: Callable[[], Sequence[str]]
    sink: Sink
    now: Callable[[], datetime]


class Station:
    """Built with the house, and run while it is open."""

    def __init__(self, at: Where, means: Means) -> None:
        self.at, self._means = at, means
        self.switchboard = Switchboard(means.roll, self._keep)
        self.signing = Signing(at.signer)
        self._link = Witnessed(self.switchboard, means.sink, means.now)
        self._asking = Asking(self._link, self.signing)
        means.roll.revised = self.switchboard.revised

    def driver(self, inner: DriverClass, tools: Tools) -> Driver:
        """Of targets with this runtime that agents reach."""
        made: Driver = over_agents(inner)(tools, self._link, self.signing)
        return made

    async def run(self, *, task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Tells its port once it listens."""
        door = Door(self.switchboard, self._enrolment(), self._tls())
        async with anyio.create_task_group() as group:
            await group.start(self.switchboard.run)
            try:
                port = await group.start(door.serve, self.at.host, self.at.port)
            except OSError as error:
                raise Problem("LISTEN_FAILED", f"agents cannot be listened for at {self.at.host}: {error}") from None
            task_status.started(port)

    async def aclose(self) -> None:
        self.switchboard.close()
        await self.signing.aclose()

    # -- what is asked of an agent -----------------------------------------------------------------------------------

    async def hold(self, target: TargetId, span: timedelta) -> str:
        """For so long its agent holds the target while no server can be reached; who that is."""
        await self.ask(target, Verb.HOLD, Hold(seconds=int(span.total_seconds())), object)
        return self.switchboard.serving(target).agent

    async def inspect(self, target: TargetId) -> Observation:
        """The target as its agent sees it now, health asked as it is declared."""
        known = await self._means.store.read(lambda c: _known(c, target))
        look = Look(target=known.target, placements=known.placements)
        return await self._ask(known, Verb.HEALTH_CHECK, look, Observation)

    async def ask(self, target: TargetId, verb: Verb, body: object, answer: type[T]) -> T:
        return await self._ask(await self._means.store.read(lambda c: _known(c, target)), verb, body, answer)

    async def _ask(self, known: _Known, verb: Verb, body: object, answer: type[T]) -> T:
        """What changes something comes under the fence of whoever holds the target's environment."""
        wanted = Wanted(
            target=known.target,
            verb=verb,
            body=protocol.body(body),
            fence=0 if verb in READS else known.fence,
            began_within=WITHIN,
            within=WITHIN,
        )
        return await self._asking.ask(wanted, answer)

    # -- parts -------------------------------------------------------------------------------------------------------

    async def _keep(self, result: Result, answer: Answer) -> None:
        """What an agent has signed of what it did is evidence; the agent may forget it when this returns."""
        if result.verb in READS:
            return
        row = EvidenceRow(
            id=EvidenceId(digest.of_bytes(unverified_payload(answer.envelope))),
            kind=Statement.RESULT,
            environment=result.environment,
            target=result.target,
            component=None,
            envelope=answer.envelope,
            at=self._means.now(),
        )

        def keep(c: Connection) -> bool:
            if environments.load(c, row.environment) is None:
                return False
            evidence.keep(c, [row])
            return True

        if not await self._means.store.write(keep):
            structlog.get_logger().warning("result_of_unknown_environment", environment=row.environment, id=row.id)

    def _enrolment(self) -> Enrolment:
        means = self._means
        desk = Desk(
            store=means.store,
            authority=means.authority,
            signers=means.signers,
            servers=lambda: means.roll.servers,
            sink=means.sink,
            told=means.roll.refresh,
            now=means.now,
        )
        return Enrolment(desk)

    def _tls(self) -> Callable[[], ssl.SSLContext]:
        host = urlsplit(self.at.url).hostname or ""
        names = dict.fromkeys([host, *([self.at.host] if is_loopback(self.at.host) else [])])
        return Tls(self._means.authority, list(names), self._means.now, lambda: self._means.roll.retired)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A target as it was last declared, what is declared there now, and the fence of its environment."""

    target: Target
    placements: tuple[Placement, ...]
    fence: int


def _known(c: Connection, target: TargetId) -> _Known:
    for row in environments.all(c):
        desired = environments.desired(c, row.id)
        declared = desired.target_of.get(target) if desired else None
        found = declared or next((one for one in environments.known_targets(c, row.id) if one.id == target), None)
        if found is not None:
            lease = leases.load(c, row.id)
            placements = desired.by_target.get(target, ()) if desired else ()
            return _Known(target=found, placements=placements, fence=lease.token if lease else 0)
    raise Problem("NO_TARGET", f"there is no target {target}")
