"""The files of a job, rendered when it is prepared: of each target what its runtime says, and the manifest of it all.

What is last good is not rendered anew: its files are those that were kept when it was proven, so that a rollback and a
heal deploy these and no others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from desired_state.model import Placement, Target
from drivers import nginx
from drivers.contract import Remove, Rendered, RenderedKind, Rendering
from drivers.errors import DriverError
from reconciler.core.intent import JobKind, Wave
from reconciler.core.manifest import Subject, manifest
from reconciler.means import Means
from reconciler.store import artifacts
from reconciler.store.artifacts import Batch
from reconciler.store.records import Direction
from reconciler.undertaking import Undertaking
from stickers.names import PlacementId, TargetId


async def prepared(means: Means, undertaking: Undertaking, waves: Sequence[Wave], direction: Direction) -> list[Batch]:
    """Everything that is to be kept for one direction of the job."""
    standing = _standing(undertaking, waves)
    targets = {id: target for id in standing if (target := undertaking.target(id)) is not None}
    good = [one for placed in standing.values() for one in placed.values() if _is_good(undertaking, direction, one)]
    kept = await _kept(means, undertaking, good, targets)
    batches = [_of_target(means, target, standing[id], kept.get(id, ())) for id, target in targets.items()]
    job = undertaking.job
    subject = Subject(
        job=job.id,
        direction=direction,
        environment=job.environment,
        desired=job.desired,
        revision=undertaking.desired.revision,
        plan=job.plan_hash,
    )
    files = {batch.target: batch.files for batch in batches if batch.target is not None}
    return [*batches, Batch(target=None, files=(manifest(subject, waves, files),), placements={})]


def _standing(undertaking: Undertaking, waves: Sequence[Wave]) -> dict[TargetId, dict[PlacementId, Placement]]:
    """What is to stand on each target that the job changes: what it brings, beside what was proven there and stays."""
    changes = {change.id: change for wave in waves for intent in wave.intents for change in intent.changes}
    found: dict[TargetId, dict[PlacementId, Placement]] = {id.target: {} for id in changes}
    for id, memory in undertaking.known.memories.items():
        if id.target in found and id not in changes and memory.last_good is not None:
            found[id.target][id] = memory.last_good
    for id, change in changes.items():
        if not isinstance(change, Remove):
            found[id.target][id] = change.placement
    return {target: dict(sorted(placements.items())) for target, placements in sorted(found.items())}


async def _kept(
    means: Means, undertaking: Undertaking, good: Sequence[Placement], targets: Mapping[TargetId, Target]
) -> dict[TargetId, list[Rendered]]:
    """The files of what is last good, where the runtime deploys files as they were kept."""
    drivers = {id: _driver(means, target) for id, target in targets.items()}
    kinds = {id: driver.deploys for id, driver in drivers.items() if driver is not None and driver.deploys}
    asked = [one for one in good if one.id.target in kinds]
    if not asked:
        return {}
    every = frozenset[RenderedKind]().union(*kinds.values())
    files = await means.store.read(lambda c: artifacts.latest(c, undertaking.job.environment, asked, every))
    found: dict[TargetId, list[Rendered]] = {}
    for file in files:
        found.setdefault(file.of[0].target, []).append(file)
    return found


def _is_good(undertaking: Undertaking, direction: Direction, placement: Placement) -> bool:
    """A way back leads to nothing else; whatever is remembered then may be what it leads away from."""
    if direction is Direction.BACK or undertaking.job.kind is JobKind.ROLLBACK:
        return True
    good = undertaking.memory(placement.id).last_good
    return good is not None and good.content == placement.content


def _of_target(
    means: Means, target: Target, placements: Mapping[PlacementId, Placement], kept: Sequence[Rendered]
) -> Batch:
    """What a runtime would refuse has no files: whoever carries the action out says why."""
    driver, placed = _driver(means, target), tuple(placements.values())
    files: tuple[Rendered, ...] = ()
    with contextlib.suppress(DriverError):
        own = driver.rendered(target, placed, kept) if driver is not None and placed else ()
        files = (*own, *nginx.configs(placed))
    return Batch(target=target.id, files=files, placements=placements)


def _driver(means: Means, target: Target) -> Rendering | None:
    try:
        found = means.drivers[target.hands]
    except Exception:  # whatever keeps a driver from being had, its action says
        return None
    return found if isinstance(found, Rendering) else None
