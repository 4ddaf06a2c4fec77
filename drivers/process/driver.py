"""The process driver: plain hosts, looked at all at once and changed one placement at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from drivers.process.line import Doors, Line
from drivers.process.sight import Sight
from stickers.names import PlacementId, TargetId
from stickers.observation import Observation

PULSE: Final = 0.2  # seconds between two looks for events, and longer where many targets make one costly
FOLLOW: Final = 0.2  # seconds between two looks for new lines of a log


class ProcessDriver:
    """Workloads on plain hosts, each under a supervisor that survives us."""

    kind: ClassVar[str] = "process"
    capabilities: ClassVar[Capabilities] = Capabilities(unit=Unit.COMPONENT, events=True, logs=True)
    verified: ClassVar[Verified] = Verified(against=Against.REAL, by="Linux processes, also under Python 3.8")
    model: ClassVar[type[Connection]] = Connection

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self._doors = Doors(self.kind)
        self._eyes = self._new_eyes()
        self._line = Line(self._new_session(), self._doors)
        self._sight = Sight(tools, self._line, self.model)

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        return await self._sight.observe(looks)

    async def apply(self, action: Action, *, report: Report) -> Receipt:
        """Holds every placement of the action from the first look to the last step; `Busy` when another does."""
        self._refuse_unsupported(action)
        connection = self._sight.connection(action.target)
        with self._session() as line:
            hands = Hands(action, connection, self._sight, line, report)
            for id in sorted({change.id for change in action.changes}):
                await hands.hold(id)
            return await sequence.carry_out(action, hands, self.tools, report=report)

    async def aclose(self) -> None:
        self._line.close()

    async def watch(self, targets: Sequence[Target]) -> AsyncGenerator[TargetId, None]:
        """Looks for changes a few times a second, with at most a fiftieth of the time spent on it."""
        watched = [target for target in targets if self._is_reached(target)]
        asks = [self._where(target) for target in watched]
        before: list[Any] | None = None
        while True:
            began = anyio.current_time()
            beats = (await self._line.see("pulse", {}, targets=asks))["targets"]
            for target, was, is_now in zip(watched, before or beats, beats, strict=True):
                if was != is_now:
                    yield target.id
            before = beats
            await anyio.sleep(max(PULSE, 50 * (anyio.current_time() - began)))

    async def logs(self, target: Target, id: PlacementId, *, tail: int, follow: bool) -> AsyncGenerator[str, None]:
        where = render.place(id, self.tools.installation, self._sight.connection(target).root)
        answer = await self._line.see("log", where, tail=tail)
        for line in answer["lines"]:
            yield line
        rest = ""
        while follow:
            await anyio.sleep(FOLLOW)
            answer = await self._line.see("log", where, position=answer["position"])
            *lines, rest = (rest + answer["text"]).split("\n")
            for line in lines:
                yield line

    async def examine(self, look: Look) -> tuple[Diagnosis, ...]:
        declared = [
            missing("declared", f"{placement.id.component}: {sentence}")
            for placement in look.placements
            for sentence in self._unsupported(placement)
        ]
        connection = self._sight.connection(look.target)
        return (*await examine.examine(self._line, connection, look, self.tools), *declared)

    # -- what another keeper of workloads brings instead -------------------------------------------------------------

    def _new_eyes(self) -> host.Eyes:
        return host.Eyes()

    def _new_session(self) -> host.Session:
        return host.Session(self._eyes)

    def _unsupported(self, placement: Placement) -> tuple[str, ...]:
        return render.unsupported(placement)

    # ----------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _session(self) -> Iterator[Line]:
        line = Line(self._new_session(), self._doors)
        try:
            yield line
        finally:
            line.close()

    def _is_reached(self, target: Target) -> bool:
        try:
            self._sight.connection(target)
        except InvalidAction:
            return False
        return True

    def _where(self, target: Target) -> dict[str, str]:
        root = self._sight.connection(target).root
        return {"root": root, "installation": str(self.tools.installation), "target": str(target.id)}

    def _refuse_unsupported(self, action: Action) -> None:
        """Before anything is touched: what would be declared and not enforced is not done at all."""
        for change in action.changes:
            if not isinstance(change, Remove):
                for sentence in self._unsupported(change.placement):
                    raise InvalidAction(f"{change.id}: {sentence}")
