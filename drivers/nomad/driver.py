"""The nomad driver: looks at jobs, changes them, listens to their events and shows logs."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final

import anyio
from pydantic import ValidationError

from desired_state.model import Target
from drivers import sequence
from drivers.active import Active
from drivers.contract import (
    Action,
    Against,
    Capabilities,
    Diagnosis,
    Grade,
    Look,
    Receipt,
    Report,
    Tools,
    Unit,
    Verified,
)
from drivers.errors import DriverError, Refused
from drivers.feed import Feed, Hold
from drivers.nomad import doctor, render
from drivers.nomad import look as looking
from drivers.nomad.cluster import Cluster
from drivers.nomad.connection import Access, Connection
from drivers.nomad.eyes import Eyes
from drivers.nomad.hands import NomadHands
from stickers.names import PlacementId, TargetId
from stickers.observation import Observation

WITHIN: Final = 20.0  # seconds for one look at one job
AT_ONCE: Final = 8  # jobs of one cluster that are looked at
LINE: Final = 200  # bytes that a line is taken to have, where the end of a log is asked for
LEAST: Final = 64 << 10  # bytes
MOST: Final = 8 << 20


class NomadDriver:
    """One target is one job; each placement has its sticker in a Variable."""

    kind: ClassVar[str] = "nomad"
    capabilities: ClassVar[Capabilities] = Capabilities(unit=Unit.TARGET, events=True, logs=True)
    verified: ClassVar[Verified] = Verified(
        against=Against.CONTRACT,
        by="a server written from Nomad's published HTTP API; a real agent where NOMAD_ADDR says",
    )

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._eyes: dict[Access, Eyes] = {}
        self._active = Active()

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        observations: dict[TargetId, Observation] = {}
        limits: dict[Eyes, anyio.CapacityLimiter] = {}
        async with anyio.create_task_group() as tasks:
            for one in looks:
                connection = _connection(one.target)
                eyes = self._eyes_at(connection)
                limit = limits.setdefault(eyes, anyio.CapacityLimiter(AT_ONCE))
                tasks.start_soon(self._observe, eyes, connection, one, limit, observations)
        return observations

    async def _observe(
        self,
        eyes: Eyes,
        connection: Connection,
        one: Look,
        limit: anyio.CapacityLimiter,
        into: dict[TargetId, Observation],
    ) -> None:
        reason = f"Nomad did not answer within {WITHIN:g} s"
        async with limit:
            with anyio.move_on_after(WITHIN):
                try:
                    into[one.target.id] = await eyes.look(one, connection)
                    return
                except DriverError as error:
                    reason = str(error)
        into[one.target.id] = Observation(target=one.target.id, at=self._tools.now(), unseen=reason)

    async def apply(self, action: Action, *, report: Report) -> Receipt:
        connection = _connection(action.target)
        with self._active.at({action.target.id}):
            hands = NomadHands(self._eyes_at(connection), connection, action, self._tools)
            return await sequence.carry_out(action, hands, self._tools, report=report, unit=Unit.TARGET)

    async def watch(self, targets: Sequence[Target]) -> AsyncIterator[TargetId]:
        jobs: dict[Cluster, dict[str, TargetId]] = {}
        for target in targets:
            connection = _connection(target)
            jobs.setdefault(self._eyes_at(connection).cluster, {})[connection.job] = target.id
        for cluster in jobs:
            await cluster.ready()
        async with Feed(*(partial(_events_of, cluster, of) for cluster, of in jobs.items())) as feed:
            async for target_id in feed:
                yield target_id

    async def logs(self, target: Target, id: PlacementId, *, tail: int, follow: bool) -> AsyncIterator[str]:
        connection = _connection(target)
        eyes = self._eyes_at(connection)
        scene = await eyes.scene(connection.job)
        part = render.parts(scene.job, self._tools.installation, id.target).get(id.component)
        newest = max(
            looking.members(scene, self._tools.installation, id), key=lambda one: int(one["CreateIndex"]), default=None
        )
        if part is None or newest is None:
            raise Refused(f"no allocation stands for {id}")
        read = partial(eyes.cluster.logs, newest["ID"], part.task["Name"])
        lines = _followed(read, tail) if follow else _last_lines(read, tail)
        async for line in lines:
            yield line

    async def examine(self, look: Look) -> tuple[Diagnosis, ...]:
        try:
            connection = Connection.model_validate(dict(look.target.connection))
        except ValidationError as error:
            said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            return (Diagnosis(about="connection", grade=Grade.MISSING, sentence=said, remedy="correct the document"),)
        eyes = self._eyes_at(connection)
        return tuple([found async for found in doctor.examine(eyes, connection, look, self._tools.installation)])

    async def aclose(self) -> None:
        for eyes in self._eyes.values():
            await eyes.cluster.aclose()
        self._eyes.clear()

    def _eyes_at(self, connection: Connection) -> Eyes:
        access = connection.access
        if access not in self._eyes:
            cluster = Cluster(access, self._tools.secret)
            self._eyes[access] = Eyes(cluster, self._tools.installation, self._tools.now)
        return self._eyes[access]


def _connection(target: Target) -> Connection:
    return Connection.model_validate(dict(target.connection))


async def _last_lines(read: Any, tail: int) -> AsyncIterator[str]:
    lines: deque[str] = deque(maxlen=max(tail, 0))
    async with Feed(lambda hold: read(tail=_reach(tail), follow=False, hold=hold)) as feed:
        async for piece in feed:
            lines.append(piece.decode(errors="replace"))
    for line in lines:
        yield line


async def _followed(read: Any, tail: int) -> AsyncIterator[str]:
    """From somewhat further back than asked for: a log is counted from its end in bytes, and no line may be lost."""
    async with Feed(lambda hold: read(tail=_reach(tail) if tail > 0 else 0, follow=True, hold=hold)) as feed:
        async for piece in feed:
            yield piece.decode(errors="replace")


def _reach(tail: int) -> int:
    return min(max(tail * LINE, LEAST), MOST)


def _events_of(cluster: Cluster, targets: Mapping[str, TargetId], hold: Hold) -> Iterator[TargetId]:
    for event in cluster.events(sorted(targets), hold):
        for name in (event.get("Key"), *(event.get("FilterKeys") or ())):
            if name in targets:
                yield targets[name]
                break
