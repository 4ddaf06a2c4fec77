"""How far a sticker is believed: one ordered table, first match wins, each row with its sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from reconciler.core.known import Memory, Reading, Trust
from stickers.names import EnvironmentId, InstallationId, PlacementId
from stickers.observation import Worn
from stickers.sticker import Sticker


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A sticker taken from its envelope, and where it was found. `sticker` is there when its signature holds; `flaw`
    is what opening it met otherwise (`unsigned`, `unreadable` or `forged`) and `problem` the sentence."""

    worn: Worn | None
    id: PlacementId
    environment: EnvironmentId
    installation: InstallationId
    sticker: Sticker | None = None
    flaw: Trust | None = None
    problem: str = ""
    sequence: int = 0  # the highest already seen or written for the placement


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRow:
    condition: Callable[[Opened], bool]
    trust: Trust
    sentence: Callable[[Opened], str]


def _misplaced(opened: Opened) -> str:
    """What of the claim does not belong where it was found; empty when all of it does."""
    if opened.sticker is None:
        return ""
    claim = opened.sticker.claim
    checks = (
        ("installation", claim.installation, opened.installation),
        ("environment", claim.environment_id, opened.environment),
        ("placement", claim.placement, opened.id),
    )
    return ", ".join(f"{what} {found}, found at {here}" for what, found, here in checks if found != here)


TRUST: Final[tuple[TrustRow, ...]] = (
    TrustRow(
        condition=lambda it: it.worn is None,
        trust=Trust.NONE,
        sentence=lambda it: "no sticker is worn",
    ),
    TrustRow(
        condition=lambda it: it.worn is not None and it.worn.envelope is None,
        trust=Trust.UNREADABLE,
        sentence=lambda it: (it.worn and it.worn.problem) or "the sticker could not be read",
    ),
    TrustRow(
        condition=lambda it: it.flaw is Trust.UNSIGNED,
        trust=Trust.UNSIGNED,
        sentence=lambda it: it.problem or "the sticker carries no signature",
    ),
    TrustRow(
        condition=lambda it: it.flaw is Trust.FORGED,
        trust=Trust.FORGED,
        sentence=lambda it: it.problem or "the signature does not hold",
    ),
    TrustRow(
        condition=lambda it: it.flaw is not None or it.sticker is None,
        trust=Trust.UNREADABLE,
        sentence=lambda it: it.problem or "the sticker could not be read",
    ),
    TrustRow(
        condition=lambda it: bool(_misplaced(it)),
        trust=Trust.FORGED,
        sentence=lambda it: f"the sticker speaks of {_misplaced(it)}",
    ),
    TrustRow(
        condition=lambda it: it.sticker is not None and it.sticker.sequence < it.sequence,
        trust=Trust.REPLAYED,
        sentence=lambda it: _older(it.sticker, it.sequence),
    ),
    TrustRow(condition=lambda it: True, trust=Trust.VALID, sentence=lambda it: ""),
)


def _older(sticker: Sticker | None, sequence: int) -> str:
    found = sticker.sequence if sticker else 0
    return f"sequence {found} is worn, and {sequence} has been seen already"


def reading(opened: Opened) -> Reading:
    """How far the sticker is believed: the first row of `TRUST` that fits."""
    row = next(row for row in TRUST if row.condition(opened))
    sealed = row.trust in (Trust.VALID, Trust.REPLAYED) or (row.trust is Trust.FORGED and opened.flaw is None)
    return Reading(trust=row.trust, sticker=opened.sticker if sealed else None, reason=row.sentence(opened))


def judge_sequence(found: Reading, memory: Memory) -> Reading:
    """The reading, replayed when a later sticker is remembered."""
    sticker = found.sticker
    if found.trust is not Trust.VALID or sticker is None or sticker.sequence >= memory.sequence:
        return found
    return Reading(trust=Trust.REPLAYED, sticker=sticker, reason=_older(sticker, memory.sequence))
