"""What one look at a target saw. Facts only: nothing here is judged, and nothing unseen is guessed.

Observations compare by what was seen; when it was seen is not part of the comparison, so an unchanged target
yields an equal observation and costs one comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from stickers.names import ActionKey, ComponentName, Digest, SlotName, TargetId


class WorkloadState(StrEnum):
    RUNNING = "running"
    STARTING = "starting"
    STOPPED = "stopped"
    RESTARTING = "restarting"


class HealthState(StrEnum):
    """`unchecked`: no check is declared, so only the runtime's own word is known. `unknown`: could not be asked."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNCHECKED = "unchecked"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """One answer of a workload's health check; `detail` is a stable sentence without times or durations."""

    state: HealthState
    detail: str = ""
    checked_at: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worn:
    """The sticker as it was found: the envelope's text, or why it could not be read. Trust is judged elsewhere."""

    envelope: str | None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What stands for one placement in the runtime.

    `artifact` is what the runtime itself says it runs, None when that cannot be told. `configuration` is the digest
    recorded beside the workload where the runtime agrees with that record, else None and `differences` says how.
    """

    instance: str
    artifact: Digest | None
    configuration: Digest | None
    state: WorkloadState
    health: Health
    key: ActionKey | None = None
    started_at: datetime | None = None
    restarts: int = 0
    exit_code: int | None = None
    differences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One placement as seen: the sticker it wears and the workload that serves. `kept` are the predecessors kept for
    a rollback, `debris` the names of what an interrupted action left."""

    component: ComponentName
    slot: SlotName
    worn: Worn | None
    workload: Workload | None
    kept: tuple[tuple[Digest, Digest], ...] = ()  # (artifact, configuration), newest first
    debris: tuple[str, ...] = ()
    fence: int = 0  # the highest recorded beside the workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmanaged:
    """Something that runs on the target and is not ours. `digests` are those its image is known by, for adoption."""

    name: str
    instance: str
    artifact: str  # as the runtime words it
    state: WorkloadState
    digests: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One target at one time. `unseen` is a sentence saying why nothing is known; then the rest is empty."""

    target: TargetId
    at: datetime = field(compare=False)
    standings: tuple[Standing, ...] = ()  # ordered by component and slot
    unmanaged: tuple[Unmanaged, ...] = ()
    unseen: str | None = None

    def standing(self, component: ComponentName, slot: SlotName) -> Standing | None:
        for standing in self.standings:
            if standing.component == component and standing.slot == slot:
                return standing
        return None
