"""The script driver: hosts on which somebody's own commands do the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar, Final

import anyio

from drivers import sequence
from drivers.contract import Action, Against, Capabilities, Diagnosis, Look, Receipt, Report, Tools, Unit, Verified
from drivers.errors import InvalidAction
from drivers.process import journey
from drivers.process.line import Acts
from drivers.process.parcel import parcel
from drivers.process.ways import Ways
from drivers.script import examine, host, windows
from drivers.script.connection import Connection
from drivers.script.hands import Hands
from drivers.script.sight import Sight, connection_of
from drivers.script.windows import HeldScripts, Scripts
from drivers.windows.hosts import Hosts
from drivers.windows.line import Gaze, gripped
from stickers.names import TargetId
from stickers.observation import Observation

TOGETHER: Final = 16  # targets whose version commands run at once


class ScriptDriver:
    kind: ClassVar[str] = "script"
    capabilities: ClassVar[Capabilities] = Capabilities(unit=Unit.COMPONENT)
    verified: ClassVar[Verified] = Verified(
        against=Against.REAL,
        by="commands on Linux, also under Python 3.8 and behind OpenSSH; over WinRM a server of its protocol",
    )

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        eyes = host.Eyes()
        self._ways = Ways("script", tools, lambda: host.Session(eyes), lambda: parcel("process.host", "script.host"))
        self._windows = Hosts(tools)

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
            sight = self._sight(connection_of(look.target))
        except InvalidAction as error:
            return Observation(target=look.target.id, at=at, unseen=str(error))
        return await sight.observe(look)

    async def apply(self, action: Action, *, report: Report) -> Receipt:
        """Holds every placement of the action from the first look to the last step; `Busy` when another does, and while
        a command that was begun there has not ended. Cut off, it comes back for as long as that command may take."""
        connection = connection_of(action.target)
        patience = connection.seconds + journey.RETURNS_WITHIN

        async def once(again: Action, line: Acts) -> Receipt:
            hands = Hands(again, self._sight(connection, line), line, report)
            for id in sorted({change.id for change in again.changes}):
                await hands.hold(id)
            return await sequence.carry_out(again, hands, self.tools, report=report)

        if connection.winrm is None:
            way = self._ways.to(connection.ssh, connection.python, connection.root)
            return await way.carry(action, once, report, returns_within=patience)
        gaze = self._gaze(connection)

        async def there(again: Action) -> Receipt:
            async with gripped(gaze.station) as grip:
                return await once(again, HeldScripts(gaze, grip))

        return await journey.persist(action, there, report, returns_within=patience)

    async def examine(self, look: Look) -> tuple[Diagnosis, ...]:
        connection = connection_of(look.target)
        if connection.winrm is not None:
            return await examine.examine_windows(self._gaze(connection), connection, look.target, self.tools)
        line = self._ways.to(connection.ssh, connection.python, connection.root).looking
        return await examine.examine(line, connection, look.target, self.tools)

    async def aclose(self) -> None:
        await self._ways.aclose()
        await self._windows.aclose()

    # -- hosts -------------------------------------------------------------------------------------------------------

    def _gaze(self, connection: Connection) -> Gaze:
        return Gaze(self._windows.station(connection)[0])

    def _sight(self, connection: Connection, line: Acts | None = None) -> Sight:
        if connection.winrm is not None:
            gaze = self._gaze(connection)
            return Sight(self.tools, line or Scripts(gaze), partial(windows.way, gaze))
        way = self._ways.to(connection.ssh, connection.python, connection.root)
        connected = way.connected
        return Sight(self.tools, way.looking, None if connected is None else lambda _: connected)
