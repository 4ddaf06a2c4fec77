"""Looks that the tasks of a job share."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from desired_state.model import Placement
from drivers.contract import Look, Remove
from reconciler.core import drift
from reconciler.core.known import Seen
from reconciler.means import Means
from reconciler.store.records import Task
from reconciler.undertaking import Undertaking
from stickers.names import PlacementId, TargetId


class Looks:
    """Looks at targets on which a job acts, shared by its tasks: a look that began after it was asked for serves
    everybody who asked before it began."""

    def __init__(self, means: Means, undertaking: Undertaking, batch: Sequence[Task]) -> None:
        self._means, self._undertaking = means, undertaking
        self._wanted = _wanted(undertaking, batch)
        self._locks: dict[TargetId, anyio.Lock] = {}
        self._asked: dict[TargetId, int] = {}
        self._last: dict[TargetId, tuple[int, Seen]] = {}

    async def after_now(self, target: TargetId) -> Seen | None:
        """The target as seen by a look that begins from now on; None for a target that is not known any more."""
        ticket = self._asked[target] = self._asked.get(target, 0) + 1
        async with self._locks.setdefault(target, anyio.Lock()):
            served, seen = self._last.get(target, (0, None))
            if served >= ticket:
                return seen
            serves = self._asked[target]
            fresh = await self._look(target)
            if fresh is not None:
                self._last[target] = serves, fresh
            return fresh

    async def _look(self, target: TargetId) -> Seen | None:
        record = self._undertaking.target(target)
        if record is None:
            return None
        look = Look(target=record, placements=self._wanted.get(target, ()))
        return (await self._means.eyes.look(self._undertaking.job.environment, [look]))[target]


def _wanted(undertaking: Undertaking, batch: Sequence[Task]) -> dict[TargetId, tuple[Placement, ...]]:
    """What health is asked by, on each target: by what the job brings there, else by what is held there."""
    targets = {task.target for task in batch}
    found: dict[PlacementId, Placement] = {
        id: placement
        for id, placement in drift.effective(undertaking.desired, undertaking.known).items()
        if placement is not None and id.target in targets
    }
    for task in batch:
        for change in task.intent.changes:
            if not isinstance(change, Remove):
                found[change.id] = change.placement
    by_target: dict[TargetId, list[Placement]] = {}
    for id, placement in found.items():
        by_target.setdefault(id.target, []).append(placement)
    return {target: tuple(placements) for target, placements in by_target.items()}
