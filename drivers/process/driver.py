"""The process driver: plain hosts, looked at all at once and changed one placement at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import anyio

from desired_state.model import Placement, Target
from drivers import sequence
from drivers.contract import (
    Action,
    Against,
    Capabilities,
    Diagnosis,
    Look,
    Receipt,
    Remove,
    Rendered,
    RenderedKind,
    Report,
    Tools,
    Unit,
    Verified,
)
from drivers.diagnosis import missing
from drivers.errors import InvalidAction
from drivers.process import examine, host, render
from drivers.process.connection import Connection
from drivers.process.hands import Hands
from drivers.process.line import Asks
from drivers.process.sight import Connections, Sight
from drivers.process.ways import Way, Ways
from drivers.rendered import env_files
from stickers.names import PlacementId, TargetId
from stickers.observation import Observation

PULSE: Final = 0.2  # seconds between two looks for events, and longer where many targets make one costly
FAR_PULSE: Final = 0.5  # the same for another machine, which does the looking
FAR_WATCH: Final = 60.0  # seconds after which another machine answers although nothing has happened
FOLLOW: Final = 0.2  # seconds between two looks for new lines of a log


class ProcessDriver:
    """Workloads on plain hosts, each under a supervisor that survives us."""

    kind: ClassVar[str] = "process"
    capabilities: ClassVar[Capabilities] = Capabilities(unit=Unit.COMPONENT, events=True, logs=True)
    model: ClassVar[type[Connection]] = Connection
    verified: ClassVar[Verified] = Verified(
        against=Against.REAL, by="Linux processes, also under Python 3.8 and behind OpenSSH"
    )

    deploys: ClassVar[frozenset[RenderedKind]] = frozenset()  # a release that is kept on the host has its own files

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        eyes = self._new_eyes()
        self._ways = Ways(self.kind, tools, lambda: self._new_session(eyes), self._program)
        self._sights: dict[Way, Sight] = {}
        self._connections: Connections = {}  # read once, for whoever asks
        self._found: dict[TargetId, tuple[Mapping[str, Any], Way]] = {}  # as each connection was last read

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        together: dict[Way, list[Look]] = {}
        for look in looks:
            together.setdefault(self._way(look.target), []).append(look)
        if len(together) <= 1:
            return await self._sight(next(iter(together), self._ways.here)).observe(looks)
        found: dict[TargetId, Observation] = {}

        async def observe(way: Way, of: Sequence[Look]) -> None:
            found.update(await self._sight(way).observe(of))

        async with asyncio.TaskGroup() as group:  # a task of anyio's costs five times as much, of a tenth of a look
            for way, of in together.items():
                group.create_task(observe(way, of))
        return found

    async def apply(self, action: Action, *, report: Report) -> Receipt:
        """Holds every placement of the action from the first look to the last step; `Busy` when another does."""
        self._refuse_unsupported(action)
        connection, way = self._connection(action.target), self._way(action.target)

        async def once(action: Action, line: Asks) -> Receipt:
            hands = Hands(action, connection, self._sight(way), line, report)
            for id in sorted({change.id for change in action.changes}):
                await hands.hold(id)
            return await sequence.carry_out(action, hands, self.tools, report=report)

        return await way.carry(action, once, report)

    async def aclose(self) -> None:
        self._found.clear()
        self._sights.clear()
        self._connections.clear()
        await self._ways.aclose()

    async def watch(self, targets: Sequence[Target]) -> AsyncGenerator[TargetId, None]:
        """Here, looks for changes a few times a second, with at most a fiftieth of the time spent on it; another
        machine does so for us, and answers when it has found one."""
        watched = [target for target in targets if self._is_reached(target)]
        asks = [self._where(target) for target in watched]
        way = self._way(watched[0]) if watched else self._ways.here
        before: list[Any] | None = None
        while True:
            began = anyio.current_time()
            beats = await self._beats(way, asks, before)
            for target, was, is_now in zip(watched, before or beats, beats, strict=True):
                if was != is_now:
                    yield target.id
            before = beats
            if way.station is None:
                await anyio.sleep(max(PULSE, 50 * (anyio.current_time() - began)))

    async def _beats(self, way: Way, asks: list[dict[str, str]], before: list[Any] | None) -> list[Any]:
        line = way.looking
        if way.station is None or before is None:
            return list((await line.see("pulse", {}, targets=asks))["targets"])
        answer = await line.wait("stirred", {}, targets=asks, known=before, every=FAR_PULSE, timeout=FAR_WATCH)
        return list(answer["targets"])

    async def logs(self, target: Target, id: PlacementId, *, tail: int, follow: bool) -> AsyncGenerator[str, None]:
        where = render.place(id, self.tools.installation, self._connection(target).root)
        line_to = self._way(target).looking
        answer = await line_to.see("log", where, tail=tail)
        for line in answer["lines"]:
            yield line
        rest = ""
        while follow:
            await anyio.sleep(FOLLOW)
            answer = await line_to.see("log", where, position=answer["position"])
            *lines, rest = (rest + answer["text"]).split("\n")
            for line in lines:
                yield line

    async def examine(self, look: Look) -> tuple[Diagnosis, ...]:
        declared = [
            missing("declared", f"{placement.id.component}: {sentence}")
            for placement in look.placements
            for sentence in self._unsupported(placement)
        ]
        line, connection = self._way(look.target).looking, self._connection(look.target)
        return (*await examine.examine(line, connection, look, self.tools), *declared)

    def rendered(
        self, target: Target, placements: Sequence[Placement], kept: Sequence[Rendered]
    ) -> tuple[Rendered, ...]:
        return env_files(placements)

    # -- what another keeper of workloads brings instead -------------------------------------------------------------

    def _new_eyes(self) -> host.Eyes:
        return host.Eyes()

    def _new_session(self, eyes: host.Eyes) -> host.Session:
        return host.Session(eyes)

    def _program(self) -> bytes:
        """The host's side as one file, to be brought to another machine."""
        return Path(host.__file__).read_bytes()

    def _unsupported(self, placement: Placement) -> tuple[str, ...]:
        return render.unsupported(placement)

    # -- hosts -------------------------------------------------------------------------------------------------------

    def _way(self, target: Target) -> Way:
        """Whose targets are looked at together. One whose connection says nothing that can be read is looked at here,
        which says so."""
        told, known = self._found.get(target.id, (None, self._ways.here))
        if told is not target.connection:
            known = self._read(target)
            self._found[target.id] = target.connection, known
        return known

    def _read(self, target: Target) -> Way:
        try:
            connection = self._connection(target)
        except InvalidAction:
            return self._ways.here
        return self._ways.to(connection.ssh, connection.python, connection.root)

    def _sight(self, way: Way) -> Sight:
        if way not in self._sights:
            self._sights[way] = Sight(self.tools, way.looking, way.connected, self.model, self._connections)
        return self._sights[way]

    def _connection(self, target: Target) -> Connection:
        return self._sight(self._ways.here).connection(target)

    def _is_reached(self, target: Target) -> bool:
        try:
            self._connection(target)
        except InvalidAction:
            return False
        return True

    def _where(self, target: Target) -> dict[str, str]:
        root = self._connection(target).root
        return {"root": root, "installation": str(self.tools.installation), "target": str(target.id)}

    def _refuse_unsupported(self, action: Action) -> None:
        """Before anything is touched: what would be declared and not enforced is not done at all."""
        for change in action.changes:
            if not isinstance(change, Remove):
                for sentence in self._unsupported(change.placement):
                    raise InvalidAction(f"{change.id}: {sentence}")
