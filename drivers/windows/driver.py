"""The windows driver: Windows hosts over WinRM or SSH, whose workloads are services of Windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

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
from drivers.process import journey
from drivers.windows import examine, render
from drivers.windows.connection import Connection
from drivers.windows.hands import Hands
from drivers.windows.hosts import Hosts
from drivers.windows.line import Gaze, gripped
from drivers.windows.sight import WindowsSight
from stickers.names import TargetId
from stickers.observation import Observation

if TYPE_CHECKING:
    from drivers.windows.wire import Station


class WindowsDriver:
    """Workloads on Windows hosts, each release a service of its own."""

    kind: ClassVar[str] = "windows"
    capabilities: ClassVar[Capabilities] = Capabilities(unit=Unit.COMPONENT)
    verified: ClassVar[Verified] = Verified(
        against=Against.CONTRACT,
        by="a server of WS-Management and of the helper's protocol, by NTLM, certificate, and Kerberos with MIT's KDC; "
        "its PowerShell was not run on Windows",
    )

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self._hosts = Hosts(tools)
        self._sights: dict[Station, WindowsSight] = {}

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        found: dict[TargetId, Observation] = {}
        together: dict[WindowsSight, list[Look]] = {}
        for look in looks:
            try:
                together.setdefault(self._sight(look.target), []).append(look)
            except InvalidAction as error:
                unseen = Observation(target=look.target.id, at=self.tools.now(), unseen=str(error))
                found[look.target.id] = unseen

        async def observe(sight: WindowsSight, of: Sequence[Look]) -> None:
            found.update(await sight.observe(of))

        async with anyio.create_task_group() as group:
            for sight, of in together.items():
                group.start_soon(observe, sight, of)
        return found

    async def apply(self, action: Action, *, report: Report) -> Receipt:
        """Holds every placement of the action from the first look to the last step; `Busy` when another does."""
        self._refuse_unsupported(action)
        connection, sight = self._hosts.connection(action.target, Connection), self._sight(action.target)

        async def once(again: Action) -> Receipt:
            async with gripped(sight.gaze.station) as grip:
                hands = Hands(again, connection, sight, grip)
                for id in sorted({change.id for change in again.changes}):
                    await hands.hold(id)
                return await sequence.carry_out(again, hands, self.tools, report=report)

        return await journey.persist(action, once, report)

    async def examine(self, look: Look) -> tuple[Diagnosis, ...]:
        declared = [
            missing("declared", f"{placement.id.component}: {sentence}")
            for placement in look.placements
            for sentence in self._unsupported(placement)
        ]
        connection = self._hosts.connection(look.target, Connection)
        return (*await examine.examine(self._sight(look.target).gaze, connection, look, self.tools), *declared)

    async def aclose(self) -> None:
        self._sights.clear()
        await self._hosts.aclose()

    def _sight(self, target: Target) -> WindowsSight:
        station, connected = self._hosts.station(self._hosts.connection(target, Connection))
        if station not in self._sights:
            self._sights[station] = WindowsSight(self.tools, Gaze(station), connected)
        return self._sights[station]

    def _unsupported(self, placement: Placement) -> tuple[str, ...]:
        return render.unsupported(placement)

    def _refuse_unsupported(self, action: Action) -> None:
        """Before anything is touched: what would be declared and not enforced is not done at all."""
        for change in action.changes:
            if not isinstance(change, Remove):
                for sentence in self._unsupported(change.placement):
                    raise InvalidAction(f"{change.id}: {sentence}")
