"""Drift: the judged distance of each placement between what is declared, what its target wears and what runs there.

Two ordered tables, first match wins, each row with its sentence: `TRUST` for the sticker, `VERDICTS` for the placement.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from desired_state.model import DesiredState, Placement
from stickers.names import Digest, PlacementId, TargetId
from stickers.observation import Observation, Standing
from stickers.sticker import Sticker


class Trust(StrEnum):
    """How far the sticker is believed. Anything but `valid` counts as no sticker."""

    VALID = "valid"
    NONE = "none"  # none is worn
    UNSIGNED = "unsigned"
    UNREADABLE = "unreadable"
    FORGED = "forged"  # signature or subject wrong
    REPLAYED = "replayed"  # older than one already seen


class Verdict(StrEnum):
    UNKNOWN = "unknown"
    IN_TRANSIT = "in transit"
    MISSING = "missing"
    LYING = "lying"
    BEHIND = "behind"
    AHEAD = "ahead"
    WRONG_ARTIFACT = "wrong artifact"  # neither later nor earlier of the same line
    WRONG_CONFIGURATION = "wrong configuration"
    STOPPED = "stopped"
    UNHEALTHY = "unhealthy"
    UNLABELLED = "unlabelled"
    FOREIGN = "foreign"  # ours, and declared by nobody any more
    UNMANAGED = "unmanaged"  # not ours
    IN_SYNC = "in sync"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A sticker as judged before the diff: what it says, how far it is believed, and why. `sticker` is there only when
    its signature is valid (a replayed one is shown, never believed)."""

    trust: Trust
    sticker: Sticker | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What is remembered of one placement. `sequence` is the highest ever seen or written; `attempts` counts heals
    that did not hold, `not_before` is when the next one may be tried."""

    last_good: Placement | None = None
    sequence: int = 0
    attempts: int = 0
    not_before: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Known:
    """Everything that is remembered of one environment and that a diff needs.

    `refused` maps a trial (`Placement.trial`) to the sentence why it was refused. `circuits` maps a target to when it
    may be acted upon again. `active_keys` are the action keys of an active job.
    """

    memories: dict[PlacementId, Memory] = field(default_factory=dict)
    refused: dict[Digest, str] = field(default_factory=dict)
    circuits: dict[TargetId, datetime] = field(default_factory=dict)
    active_keys: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One target as looked at: the observation, and its stickers as read."""

    observation: Observation
    readings: dict[PlacementId, Reading] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Drift:
    """One placement, judged. `wanted` is the effective desire (declared, or last good where the declared is refused);
    None for what nobody declares. `rule` is the sentence of the row that fired, `reason` the particulars."""

    id: PlacementId
    verdict: Verdict
    trust: Trust
    wanted: Placement | None
    declared: Placement | None
    standing: Standing | None
    sticker: Sticker | None
    rule: str
    reason: str = ""
    heal: bool = False  # what is wanted has already run here in health: restoring it is no advance
    differences: tuple[str, ...] = ()

    @property
    def drifted(self) -> bool:
        return self.verdict is not Verdict.IN_SYNC
