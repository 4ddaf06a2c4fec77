"""What a diff is made from, beside what is declared: sights of targets, and what is remembered of an environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from desired_state.model import Placement, Suspension, Target
from stickers.names import Digest, PlacementId, TargetId
from stickers.observation import Observation
from stickers.sticker import Sticker


class Trust(StrEnum):
    """How far the sticker is believed. Anything but `valid` counts as no sticker."""

    VALID = "valid"
    NONE = "none"  # none is worn
    UNSIGNED = "unsigned"
    UNREADABLE = "unreadable"
    FORGED = "forged"  # signature or subject wrong
    REPLAYED = "replayed"  # older than one already seen


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
    """Everything that is remembered of one environment and that a diff or a plan needs.

    `refused` maps a trial (`Placement.trial`) to the sentence why it was refused. `circuits` maps a target to when it
    may be acted upon again. `active_keys` are the action keys of an active job. `suspended` is a suspension by hand,
    beside the documents' own. `targets` are those that ever had a last good, declared or not.
    """

    memories: dict[PlacementId, Memory] = field(default_factory=dict)
    refused: dict[Digest, str] = field(default_factory=dict)
    circuits: dict[TargetId, datetime] = field(default_factory=dict)
    active_keys: frozenset[str] = frozenset()
    suspended: Suspension | None = None
    targets: dict[TargetId, Target] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One target as looked at: the observation, and its stickers as read."""

    observation: Observation
    readings: dict[PlacementId, Reading] = field(default_factory=dict)


NOTHING_REMEMBERED: Final = Memory()
NO_READING: Final = Reading(trust=Trust.NONE, reason="no sticker is worn")
