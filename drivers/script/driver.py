"""The script driver: hosts on which somebody's own commands do the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import anyio

from drivers import sequence
from drivers.contract import Action, Against, Capabilities, Look, Receipt, Report, Tools, Unit, Verified
from drivers.process.line import Doors, Line
from drivers.script import host
from drivers.script.hands import Hands
from drivers.script.sight import Sight
from stickers.names import TargetId
from stickers.observation import Observation

TOGETHER: Final = 16  # targets whose version commands run at once


class ScriptDriver:
    kind: ClassVar[str] = "script"
    capabilities: ClassVar[Capabilities] = Capabilities(unit=Unit.COMPONENT)
    verified: ClassVar[Verified] = Verified(against=Against.REAL, by="commands on Linux")

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self._doors, self._eyes = Doors("script"), host.Eyes()
        self._line = Line(host.Session(self._eyes), self._doors)
        self._sight = Sight(tools, self._line)

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        found: dict[TargetId, Observation] = {}
        limiter = anyio.CapacityLimiter(TOGETHER)

        async def observe(look: Look) -> None:
            async with limiter:
                found[look.target.id] = await self._sight.observe(look)

        async with anyio.create_task_group() as group:
            for look in looks:
                group.start_soon(observe, look)
        return found

    async def apply(self, action: Action, *, report: Report) -> Receipt:
        """Holds every placement of the action from the first look to the last step; `Busy` when another does, and while
        a command that was begun there has not ended."""
        line = Line(host.Session(self._eyes), self._doors)
        try:
            hands = Hands(action, self._sight, line, report)
            for id in sorted({change.id for change in action.changes}):
                await hands.hold(id)
            return await sequence.carry_out(action, hands, self.tools, report=report)
        finally:
            with anyio.CancelScope(shield=True):
                await line.aclose()

    async def aclose(self) -> None:
        await self._line.aclose()
