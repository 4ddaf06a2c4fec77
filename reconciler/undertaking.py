"""A job on its way under a lease, with all that its actions need."""

from __future__ import annotations

from dataclasses import dataclass

from desired_state.model import DesiredState, Target
from reconciler.core.known import NOTHING_REMEMBERED, Known, Memory
from reconciler.store.records import Job, Lease, Task
from stickers.names import PlacementId, TargetId


@dataclass(frozen=True, kw_only=True)
class Undertaking:
    """A job on its way under a lease, with what its actions need. `targets` are those declared and those that once
    were."""

    job: Job
    lease: Lease
    desired: DesiredState
    known: Known
    tasks: tuple[Task, ...]

    def target(self, id: TargetId) -> Target | None:
        return self.desired.target_of.get(id) or self.known.targets.get(id)

    def memory(self, id: PlacementId) -> Memory:
        return self.known.memories.get(id, NOTHING_REMEMBERED)
