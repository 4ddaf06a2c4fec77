"""The process driver: plain hosts, looked at all at once and changed one placement at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

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
from drivers.process import examine, host, journey, render
from drivers.process.connection import Connection
from drivers.process.hands import Hands
from drivers.process.line import Asks, Doors, Line
from drivers.process.sight import Sight
from drivers.rendered import env_files
from drivers.ssh.connection import Ssh
from stickers.names import PlacementId, TargetId
from stickers.observation import Observation

if TYPE_CHECKING:
    from drivers.process.wired import Station
    from drivers.ssh.pool import Pool

PULSE: Final = 0.2  # seconds between two looks for events, and longer where many targets make one costly
FAR_PULSE: Final = 0.5  # the same for another machine, which does the looking
FAR_WATCH: Final = 60.0  # seconds after which another machine answers although nothing has happened
FOLLOW: Final = 0.2  # seconds between two looks for new lines of a log


class Host:
    """How one host is spoken to: its eyes, and a line for whoever acts."""

    def __init__(self, sight: Sight, line: Callable[[], Asks], station: Station | None = None) -> None:
        self.sight, self.line, self.station = sight, line, station

    @asynccontextmanager
    async def acting(self) -> AsyncIterator[Asks]:
        line = self.line()
        try:
            yield line
        finally:
            with anyio.CancelScope(shield=True):
                await line.aclose()


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
        doors, eyes = Doors(self.kind), self._new_eyes()
        self._looking = Line(self._new_session(eyes), doors)
        sight = Sight(tools, self._looking, model=self.model)
        self._here = Host(sight, lambda: Line(self._new_session(eyes), doors))
        self._far: dict[tuple[Ssh, str], Host] = {}
        self._ways: dict[TargetId, tuple[Mapping[str, Any], Host]] = {}  # as each connection was last read
        self._pool: Pool | None = None

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        together: dict[Host, list[Look]] = {}
        for look in looks:
            together.setdefault(self._host(look.target), []).append(look)
        if len(together) <= 1:
            return await next(iter(together), self._here).sight.observe(looks)
        found: dict[TargetId, Observation] = {}

        async def observe(where: Host, of: Sequence[Look]) -> None:
            found.update(await where.sight.observe(of))

        async with anyio.create_task_group() as group:
            for where, of in together.items():
                group.start_soon(observe, where, of)
        return found

    async def apply(self, action: Action, *, report: Report) -> Receipt:
        """Holds every placement of the action from the first look to the last step; `Busy` when another does."""
        self._refuse_unsupported(action)
        connection = self._here.sight.connection(action.target)
        where = self._host(action.target)
        if where.station is None:
            return await self._carry_out(action, where, connection, report)

        async def once(again: Action) -> Receipt:
            return await self._carry_out(again, where, connection, report)

        return await journey.persist(action, once, report)

    async def _carry_out(self, action: Action, where: Host, connection: Connection, report: Report) -> Receipt:
        async with where.acting() as line:
            hands = Hands(action, connection, where.sight, line, report)
            for id in sorted({change.id for change in action.changes}):
                await hands.hold(id)
            return await sequence.carry_out(action, hands, self.tools, report=report)

    async def aclose(self) -> None:
        await self._looking.aclose()
        far, self._far = list(self._far.values()), {}
        self._ways.clear()
        for where in far:
            assert where.station is not None
            await where.station.aclose()
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.leave()

    async def watch(self, targets: Sequence[Target]) -> AsyncGenerator[TargetId, None]:
        """Here, looks for changes a few times a second, with at most a fiftieth of the time spent on it; another
        machine does so for us, and answers when it has found one."""
        watched = [target for target in targets if self._is_reached(target)]
        asks = [self._where(target) for target in watched]
        where = self._host(watched[0]) if watched else self._here
        before: list[Any] | None = None
        while True:
            began = anyio.current_time()
            beats = await self._beats(where, asks, before)
            for target, was, is_now in zip(watched, before or beats, beats, strict=True):
                if was != is_now:
                    yield target.id
            before = beats
            if where.station is None:
                await anyio.sleep(max(PULSE, 50 * (anyio.current_time() - began)))

    async def _beats(self, where: Host, asks: list[dict[str, str]], before: list[Any] | None) -> list[Any]:
        line = where.sight.line
        if where.station is None or before is None:
            return list((await line.see("pulse", {}, targets=asks))["targets"])
        answer = await line.wait("stirred", {}, targets=asks, known=before, every=FAR_PULSE, timeout=FAR_WATCH)
        return list(answer["targets"])

    async def logs(self, target: Target, id: PlacementId, *, tail: int, follow: bool) -> AsyncGenerator[str, None]:
        where = render.place(id, self.tools.installation, self._here.sight.connection(target).root)
        line_to = self._host(target).sight.line
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
        sight = self._host(look.target).sight
        connection = sight.connection(look.target)
        return (*await examine.examine(sight.line, connection, look, self.tools), *declared)

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

    def _host(self, target: Target) -> Host:
        """Whose targets are looked at together. One whose connection says nothing that can be read is looked at here,
        which says so."""
        told, known = self._ways.get(target.id, (None, self._here))
        if told is not target.connection:
            known = self._found(target)
            self._ways[target.id] = target.connection, known
        return known

    def _found(self, target: Target) -> Host:
        try:
            connection = self._here.sight.connection(target)
        except InvalidAction:
            return self._here
        if connection.ssh is None:
            return self._here
        known = self._far.get((connection.ssh, connection.python))
        if known is None:
            known = self._far[connection.ssh, connection.python] = self._reached(connection.ssh, connection.python)
        assert known.station is not None
        known.station.knows(connection.root)
        return known

    def _reached(self, ssh: Ssh, python: str) -> Host:
        from drivers.process.wired import FarLine, Station  # asyncssh, only where a host is reached over it
        from drivers.ssh.pool import shared
        from drivers.ssh.transport import Host as Way

        if self._pool is None:
            self._pool = shared(self.tools)
        kept = self._pool[ssh]
        station = Station(kept, python, self._program())
        sight = Sight(self.tools, FarLine(station), Way(kept).connected, self.model)
        return Host(sight, lambda: FarLine(station), station)

    def _is_reached(self, target: Target) -> bool:
        try:
            self._here.sight.connection(target)
        except InvalidAction:
            return False
        return True

    def _where(self, target: Target) -> dict[str, str]:
        root = self._here.sight.connection(target).root
        return {"root": root, "installation": str(self.tools.installation), "target": str(target.id)}

    def _refuse_unsupported(self, action: Action) -> None:
        """Before anything is touched: what would be declared and not enforced is not done at all."""
        for change in action.changes:
            if not isinstance(change, Remove):
                for sentence in self._unsupported(change.placement):
                    raise InvalidAction(f"{change.id}: {sentence}")
