"""Equal parts of records, held once: the placements of a fleet differ in little but the target they are on.

Decoding makes every record anew, down to each text in it. What is held for long, one for each of thousands of targets,
is put together again here from parts that are shared.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, Final, TypeVar

from desired_state.model import DesiredState, Placement, Target
from drivers.contract import Change, Deploy, Remove, Restart
from reconciler.core.intent import Intent
from stickers.names import ComponentName, EnvironmentId, PlacementId, ReleaseName, SlotName, TargetId

T = TypeVar("T")

PARTS: Final = 10_000  # different ones that are known at a time

_parts: dict[Any, Any] = {}


def of_desired(desired: DesiredState) -> DesiredState:
    return replace(
        desired,
        targets=tuple(map(of_target, desired.targets)),
        placements=tuple(map(of_placement, desired.placements)),
    )


def of_placement(placement: Placement) -> Placement:
    return replace(
        placement,
        id=of_id(placement.id),
        environment=EnvironmentId(sys.intern(placement.environment)),
        release=ReleaseName(sys.intern(placement.release)),
        artifact=_one(placement.artifact),
        configuration=_one(placement.configuration),
        health=_one(placement.health),
        hooks=_one(placement.hooks),
        proxy=_one(placement.proxy),
    )


def of_intent(intent: Intent) -> Intent:
    return replace(intent, changes=tuple(map(_of_change, intent.changes)))


def _of_change(change: Change) -> Change:
    match change:
        case Deploy(predecessor=before):
            return replace(
                change,
                placement=of_placement(change.placement),
                predecessor=None if before is None else of_placement(before),
            )
        case Restart():
            return replace(change, placement=of_placement(change.placement))
        case Remove():
            return change


def of_target(target: Target) -> Target:
    return replace(
        target,
        id=TargetId(sys.intern(target.id)),
        environment=EnvironmentId(sys.intern(target.environment)),
        driver=sys.intern(target.driver),
    )


def of_id(id: PlacementId) -> PlacementId:
    return PlacementId(
        TargetId(sys.intern(id.target)), ComponentName(sys.intern(id.component)), SlotName(sys.intern(id.slot))
    )


def _one(part: T) -> T:
    """The first that was equal to it. Several threads may ask: at worst a part is held twice."""
    found: T | None = _parts.get(part)
    if found is None:
        if len(_parts) >= PARTS:
            _parts.clear()
        found = _parts.setdefault(part, part)
    return found
