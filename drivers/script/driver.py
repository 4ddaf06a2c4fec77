"""The script driver: hosts on which somebody's own commands do the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import anyio

from drivers import sequence
from drivers.contract import Action, Against, Capabilities, Diagnosis, Look, Receipt, Report, Tools, Unit, Verified
from drivers.errors import InvalidAction
from drivers.process.journey import RETURNS_WITHIN
from drivers.process.line import Asks
from drivers.process.parcel import parcel
from drivers.process.ways import Way, Ways
from drivers.script import examine, host
from drivers.script.connection import Connection
from drivers.script.hands import Hands
from drivers.script.sight import Sight, connection_of
from stickers.names import TargetId
from stickers.observation import Observation

TOGETHER: Final = 16  # targets whose version commands run at once


class ScriptDriver:
    kind: ClassVar[str] = "script"
    capabilities: ClassVar[Capabilities] = Capabilities(unit=Unit.COMPONENT)
    verified: ClassVar[Verified] = Verified(
        against=Against.REAL, by="commands on Linux, also under Python 3.8 and behind OpenSSH"
    )

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        eyes = host.Eyes()
        self._ways = Ways("script", tools, lambda: host.Session(eyes), lambda: parcel("process.host", "script.host"))
        self._sights: dict[Way, Sight] = {}

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        found: dict[TargetId, Observation] = {}
        limiter = anyio.CapacityLimiter(TOGETHER)

        async def observe(look: Look) -> None:
            async with limiter:
                found[look.target.id] = await self._observe(look)

        async with anyio.create_task_group() as group:
            for look in looks:
                group.start_soon(observe, look)
        return found

    async def _observe(self, look: Look) -> Observation:
        at = self.tools.now()
        try:
            sight = self._sight(self._way(connection_of(look.target)))
        except InvalidAction as error:
            return Observation(target=look.target.id, at=at, unseen=str(error))
        return await sight.observe(look)

    async def apply(self, action: Action, *, report: Report) -> Receipt:
        """Holds every placement of the action from the first look to the last step; `Busy` when another does, and while
        a command that was begun there has not ended. Cut off, it comes back for as long as that command may take."""
        connection = connection_of(action.target)
        way = self._way(connection)

        async def once(action: Action, line: Asks) -> Receipt:
            hands = Hands(action, self._sight(way), line, report)
            for id in sorted({change.id for change in action.changes}):
                await hands.hold(id)
            return await sequence.carry_out(action, hands, self.tools, report=report)

        return await way.carry(action, once, report, returns_within=connection.seconds + RETURNS_WITHIN)

    async def examine(self, look: Look) -> tuple[Diagnosis, ...]:
        connection = connection_of(look.target)
        return await examine.examine(self._way(connection).looking, connection, look.target, self.tools)

    async def aclose(self) -> None:
        self._sights.clear()
        await self._ways.aclose()

    def _way(self, connection: Connection) -> Way:
        return self._ways.to(connection.ssh, connection.python, connection.root)

    def _sight(self, way: Way) -> Sight:
        if way not in self._sights:
            self._sights[way] = Sight(self.tools, way.looking, way.connected)
        return self._sights[way]
