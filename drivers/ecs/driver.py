"""The ECS driver: services, looked at ten to a call and changed one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from drivers import sequence
from drivers.active import Active
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
from drivers.ecs import doctor, render
from drivers.ecs.hands import EcsHands
from drivers.ecs.sight import Sight, placed
from drivers.errors import InvalidAction
from stickers.names import TargetId
from stickers.observation import Observation


class EcsDriver:
    """One service is one target; its containers change together."""

    kind: ClassVar[str] = "ecs"
    capabilities: ClassVar[Capabilities] = Capabilities(unit=Unit.TARGET)
    verified: ClassVar[Verified] = Verified(against=Against.CONTRACT, by="moto, and a fake of rollouts of our own")

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self._sight = Sight(tools)
        self._active = Active()

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        return await self._sight.observe(looks)

    async def apply(self, action: Action, *, report: Report) -> Receipt:
        """All changes in step, and one rollout for what they deploy."""
        place = self._sight.place(action.target)
        for change in action.changes:
            placed(place, change.id)
            if not isinstance(change, Remove):
                for sentence in render.unsupported(change.placement):
                    raise InvalidAction(f"{change.id}: {sentence}")
        with self._active.at({action.target.id}):
            hands = EcsHands(action, place, self._sight, report)
            return await sequence.carry_out(action, hands, self.tools, report=report, unit=Unit.TARGET)

    async def examine(self, look: Look) -> tuple[Diagnosis, ...]:
        return tuple([found async for found in doctor.examine(self._sight, look)])

    async def aclose(self) -> None:
        await self._sight.aclose()
