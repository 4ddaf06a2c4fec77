"""Finding what a person named, or saying what there is instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from api.commands.given import Given
from api.house import House
from api.people.principal import Verb
from api.problem import Problem
from desired_state.model import DesiredState, Target
from reconciler.store import environments
from reconciler.store.records import EnvironmentRow
from stickers.names import ComponentName, EnvironmentId, TargetId, split_id


async def environment(house: House, id: EnvironmentId) -> tuple[EnvironmentRow, DesiredState]:
    row = await house.store.read(lambda c: environments.load(c, id))
    desired = await house.store.read(lambda c: environments.desired(c, id)) if row else None
    if row is None or desired is None:
        everything = await house.store.read(environments.all)
        raise Problem("NO_ENVIRONMENT", f"there is no environment {id}{_instead(id, (each.id for each in everything))}")
    return row, desired


async def every_environment(house: House, given: Given) -> list[tuple[EnvironmentRow, DesiredState]]:
    """Those that whoever asks may see."""
    rows = await house.store.read(environments.all)
    return [await environment(house, row.id) for row in rows if given.sees(row.id)]


async def visible(house: House, given: Given) -> frozenset[EnvironmentId] | None:
    """The environments that whoever asks may see; None: all there are and will be."""
    if given.principal.may(Verb.READ):
        return None
    return frozenset(row.id for row in await house.store.read(environments.all) if given.sees(row.id))


async def target(house: House, id: TargetId, given: Given) -> tuple[EnvironmentRow, Target]:
    """The target as declared, or as it was last known, among those that whoever asks may see."""
    known: list[TargetId] = []
    for row, desired in await every_environment(house, given):
        targets = await _targets(house, row.id, desired)
        if id in targets:
            return row, targets[id]
        known.extend(targets)
    raise Problem("NO_TARGET", f"there is no target {id}{_instead(id, known)}")


async def _targets(house: House, id: EnvironmentId, desired: DesiredState) -> dict[TargetId, Target]:
    known = await house.store.read(lambda c: environments.known_targets(c, id))
    return {each.id: each for each in known} | dict(desired.target_of)


async def placement_target(
    house: House, id: TargetId, component: ComponentName, given: Given
) -> tuple[EnvironmentRow, Target]:
    row, found = await target(house, id, given)
    _, desired = await environment(house, row.id)
    components = sorted({each.id.component for each in desired.placements if each.id.target == id})
    if component not in components:
        raise Problem(
            "NO_COMPONENT", f"{id} has no component {component[:60]!r}; it has {', '.join(components) or 'none'}"
        )
    return row, found


def _instead(wanted: str, known: Iterable[str]) -> str:
    there = sorted(set(known))
    near = difflib.get_close_matches(split_id(wanted)[1], [split_id(each)[1] for each in there], n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(there[:10])}" if there else "; nothing is declared yet"
