"""The script driver: hosts on which somebody's own commands do the work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import ClassVar, Final

import anyio

from desired_state.model import Target
from drivers import sequence
from drivers.contract import Action, Against, Capabilities, Look, Receipt, Report, Tools, Unit, Verified
from drivers.errors import InvalidAction
from drivers.process import journey
from drivers.process.line import Acts, Doors, Line
from drivers.script import host
from drivers.script.connection import Connection
from drivers.script.hands import Hands
from drivers.script.sight import Sight
from drivers.script.windows import HeldScripts, Scripts, way
from drivers.windows.hosts import Hosts
from drivers.windows.line import Gaze, gripped
from stickers.names import TargetId
from stickers.observation import Observation

TOGETHER: Final = 16  # targets whose version commands run at once


class ScriptDriver:
    kind: ClassVar[str] = "script"
    capabilities: ClassVar[Capabilities] = Capabilities(unit=Unit.COMPONENT)
    verified: ClassVar[Verified] = Verified(
        against=Against.REAL, by="commands on Linux; over WinRM a server of its protocol, and no Windows"
    )

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self._doors, self._eyes = Doors("script"), host.Eyes()
        self._line = Line(host.Session(self._eyes), self._doors)
        self._sight = Sight(tools, self._line)
        self._hosts = Hosts(tools)

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        found: dict[TargetId, Observation] = {}
        limiter = anyio.CapacityLimiter(TOGETHER)

        async def observe(look: Look) -> None:
            async with limiter:
                found[look.target.id] = await self._sees(look.target).observe(look)

        async with anyio.create_task_group() as group:
            for look in looks:
                group.start_soon(observe, look)
        return found

    async def apply(self, action: Action, *, report: Report) -> Receipt:
        """Holds every placement of the action from the first look to the last step; `Busy` when another does, and while
        a command that was begun there has not ended."""

        async def once(again: Action) -> Receipt:
            async with self._acting(again.target) as line:
                hands = Hands(again, self._sees(again.target, line), line, report)
                for id in sorted({change.id for change in again.changes}):
                    await hands.hold(id)
                return await sequence.carry_out(again, hands, self.tools, report=report)

        return await journey.persist(action, once, report)

    async def aclose(self) -> None:
        await self._line.aclose()
        await self._hosts.aclose()

    # -- hosts -------------------------------------------------------------------------------------------------------

    def _sees(self, target: Target, line: Acts | None = None) -> Sight:
        """One whose connection says nothing that can be read is looked at here, which says so."""
        gaze = self._gaze(target)
        return self._sight if gaze is None else Sight(self.tools, line or Scripts(gaze), partial(way, gaze))

    def _gaze(self, target: Target) -> Gaze | None:
        """The Windows host behind the target; None for this machine."""
        try:
            connection = self._hosts.connection(target, Connection)
        except InvalidAction:
            return None
        return None if connection.winrm is None else Gaze(self._hosts.station(connection)[0])

    @asynccontextmanager
    async def _acting(self, target: Target) -> AsyncIterator[Acts]:
        gaze = self._gaze(target)
        if gaze is not None:
            async with gripped(gaze.station) as grip:
                yield HeldScripts(gaze, grip)
            return
        line = Line(host.Session(self._eyes), self._doors)
        try:
            yield line
        finally:
            with anyio.CancelScope(shield=True):
                await line.aclose()
