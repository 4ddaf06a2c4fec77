"""What the core costs: medians of diff and plan over fleets of 1,000 to 100,000 placements, in milliseconds of CPU.

    python -m tests.benchmarks.bench_core [placements …]

Each fleet is one placement to a target. `first` judges everything anew; `same` hands in the objects of the turn before;
`equal` hands in other objects that say the same, as a driver does; in `1 % changed` so many targets have lost
their workload and known and desired are as before. `plan` is of what has drifted, hash included.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from statistics import median

from reconciler.core import drift, plan
from reconciler.core.drift import Diffed, Known, Seen
from stickers.names import TargetId
from stickers.observation import Health, Observation, Standing, Workload
from tests.reconciler.core import builders

ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Figures:
    placements: int
    first: float
    same: float
    equal: float
    changed: float
    plan: float


def measure(placements: int) -> Figures:
    desired = builders.fleet(placements)
    known = Known(memories=builders.proven(desired))
    seen = builders.all_as(desired)
    now = builders.NOW + timedelta(seconds=1)
    assert desired.digest  # once per desire, when it is accepted; not a turn's cost

    def turn(sight: Mapping[TargetId, Seen], before: Diffed | None = None) -> Diffed:
        return drift.rediff(desired, sight, known, now=now, before=before)

    settled = turn(seen)
    again = {target: _copied(each) for target, each in seen.items()}
    broken = _broken(seen, placements // 100)
    changed = turn(broken, settled)
    assert len(changed.drifted) == placements // 100
    return Figures(
        placements=placements,
        first=_median(lambda: turn(seen)),
        same=_median(lambda: turn(seen, settled)),
        equal=_median(lambda: turn(again, settled)),
        changed=_median(lambda: turn(broken, settled)),
        plan=_median(
            lambda: plan.plan(
                changed.drifted, desired, known, powers=builders.POWERS, installation=builders.HERE, now=now
            )
        ),
    )


def _median(work: Callable[[], object]) -> float:
    """Milliseconds of CPU; collection is left on, as in the daemon, and begins from the same state."""
    spent = []
    for _ in range(ROUNDS):
        gc.collect()
        began = time.process_time()
        work()
        spent.append((time.process_time() - began) * 1000)
    return median(spent)


def _copied(seen: Seen) -> Seen:
    """Another sight that says the same: fresh records down to the workload, with stickers read before."""
    observation = seen.observation
    standings = tuple(replace(one, workload=_another(one)) for one in observation.standings)
    fresh = Observation(target=observation.target, at=observation.at, standings=standings)
    return Seen(observation=fresh, readings=seen.readings)


def _another(standing: Standing) -> Workload | None:
    workload = standing.workload
    return replace(workload, health=Health(state=workload.health.state)) if workload else None


def _broken(seen: Mapping[TargetId, Seen], count: int) -> dict[TargetId, Seen]:
    broken = dict(seen)
    for target in list(seen)[:: max(1, len(seen) // count)][:count]:
        observation = seen[target].observation
        gone = tuple(replace(one, workload=None) for one in observation.standings)
        broken[target] = replace(seen[target], observation=replace(observation, standings=gone))
    return broken


def main(sizes: list[int]) -> None:
    print(f"{'placements':>10}  {'first':>8}  {'same':>8}  {'equal':>8}  {'1 % changed':>11}  {'plan':>8}   ms of CPU")
    for size in sizes:
        one = measure(size)
        print(
            f"{one.placements:>10,}  {one.first:>8.2f}  {one.same:>8.2f}  {one.equal:>8.2f}  "
            f"{one.changed:>11.2f}  {one.plan:>8.2f}"
        )


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [1_000, 10_000, 100_000])
