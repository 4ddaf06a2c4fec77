"""Faults planted into the code under test: each must be found within its budget of seeds, or the simulation proves
nothing about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import pytest
from sqlalchemy import Connection, insert, literal, or_, true, update

from desired_state.model import DesiredState, Placement, Strategy
from drivers import sequence
from drivers.contract import Deploy
from drivers.errors import OutcomeUnknown
from drivers.memory import Host, MemoryHands
from drivers.proof import Disproven, Proven
from drivers.sequence import Started
from reconciler import accept
from reconciler.core import blocks, drift, judge, verdict
from reconciler.core import plan as planning
from reconciler.core.judge import Verdict
from reconciler.core.machine import TaskEvent
from reconciler.leases import Leases
from reconciler.store import audit, contents, environments, history, jobs, leases, tasks
from reconciler.store.contents import Kind
from reconciler.store.records import Direction
from reconciler.store.tables import job as job_table
from stickers import digest
from stickers.names import ActionKey
from tests.simulation import world
from tests.simulation.run import Outcome, simulate

Patch = pytest.MonkeyPatch


@dataclass(frozen=True, kw_only=True)
class Plant:
    """A fault, how it is planted, and the seeds within which it must be found; `likely` are tried first."""

    plant: Callable[[Patch], None]
    likely: tuple[int, ...] = ()
    budget: int = 60

    def seeds(self) -> Iterator[int]:
        yield from self.likely
        yield from (seed for seed in range(self.budget) if seed not in self.likely)


def found(name: str) -> Outcome | None:
    """The first outcome that finds the planted fault; None when the budget is used up."""
    with planted(name) as plant:
        for seed in plant.seeds():
            outcome = simulate(seed)
            if outcome.violation is not None:
                return outcome
    return None


@contextmanager
def planted(name: str) -> Iterator[Plant]:
    with Patch.context() as patch:
        PLANTS[name].plant(patch)
        yield PLANTS[name]


# -- the database -----------------------------------------------------------------------------------------------------


def _racy_active_job_check(patch: Patch) -> None:
    """The index is gone: whoever has looked and seen no active job may make one."""
    fresh = world.fresh_store

    def without_index(now: Any) -> Any:
        store = fresh(now)
        store._written(lambda c: c.exec_driver_sql("drop index one_active_job"))
        return store

    def create(c: Connection, new: Any, lease: Any, now: Any) -> Any:
        number = jobs._next_number(c, new.environment)
        [plan] = contents.keep(c, Kind.PLAN, [new.plan], now)
        row = c.execute(
            insert(job_table).values(jobs._row(new, number, plan, lease, now)).returning(*job_table.c)
        ).one()
        job = jobs._job(row)
        tasks.add(c, job, new.plan, Direction.FORWARD, lease, now)
        return job

    patch.setattr(world, "fresh_store", without_index)
    patch.setattr(jobs, "create", create)


def _no_fencing(patch: Patch) -> None:
    """Neither the database nor a target asks for the fence."""

    def guard(self: Host, id: Any, fence: int) -> Any:
        place = self.place(id)
        place.fence = 0
        return place

    patch.setattr(leases, "fence", lambda lease, environment: true())
    patch.setattr(leases, "FENCE", or_(literal(1) == literal(1), leases.FENCE))
    patch.setattr(history, "_EXTENDED", history._extending(leases.FENCE))
    patch.setattr(Leases, "insist", lambda self, lease: None)
    patch.setattr(tasks, "_update", tasks._update.__wrapped__)
    patch.setattr(leases, "hold", lambda c, lease, environment=None: None)
    patch.setattr(Host, "guard", guard)
    patch.setattr(sequence, "StaleFence", _Never)
    patch.setattr(sequence._Carrier, "_look", _look_without_fence)


class _Never(Exception):
    """Raised by nobody."""


async def _look_without_fence(self: Any) -> Any:
    fence = self.action.fence
    object.__setattr__(self.action, "fence", 10**9)
    try:
        return await _LOOK(self)
    finally:
        object.__setattr__(self.action, "fence", fence)


_LOOK: Final = sequence._Carrier._look


def _stale_save(patch: Patch) -> None:
    """Who asks something of a job saves it as a whole, as it was when they looked at it."""
    active, seen = jobs.active, dict[Any, Any]()

    def looked_at(c: Connection, environment: Any) -> Any:
        job = active(c, environment)
        if job is not None:
            seen[job.id] = job
        return job

    def request(c: Connection, id: Any, wish: Any, actor: str, now: Any) -> Any:
        job = seen[id]
        known = {field.name: getattr(job, field.name) for field in fields(job)}
        fresh = {**known, "wish": wish, "wished_by": actor, "wished_at": now, "version": job.version + 1}
        row = c.execute(update(job_table).where(job_table.c.id == id).values(fresh).returning(*job_table.c)).one()
        return jobs._job(row)

    patch.setattr(jobs, "active", looked_at)
    patch.setattr(jobs, "request", request)


# -- acting -----------------------------------------------------------------------------------------------------------


def _sticker_before_proof(patch: Patch) -> None:
    prove = sequence._Carrier._prove

    async def hasty(self: Any, placement: Placement, instance: str, *, answers: int | None = None) -> Any:
        workload = await self.hands.workload(placement.id, instance, placement.health)
        if workload is not None and answers is None:
            await self._label_proven(placement, Proven(workload=workload, answers=0))
        found: Proven | Disproven = await prove(self, placement, instance, answers=answers)
        return found

    patch.setattr(sequence._Carrier, "_prove", hasty)


def _stop_then_run(patch: Patch) -> None:
    patch.setattr(MemoryHands, "_fits_beside", lambda self, place, placement, new: False)


def _key_reused(patch: Patch) -> None:
    """The key does not name the job: a second heal of the same thing has the key of the first."""

    def key(environment: Any, number: int, intent: Any, direction: str) -> ActionKey:
        named = [environment, intent.target, direction, [str(change.id) for change in intent.changes]]
        return ActionKey(digest.of(named).removeprefix("sha256:"))

    patch.setattr(tasks, "action_key", key)


def _foreign_taken_for_ours(patch: Patch) -> None:
    """What runs the same repository is taken for the predecessor."""
    start = MemoryHands.start

    async def greedy(self: MemoryHands, deploy: Deploy) -> Started:
        for thing in self.host.foreign.values():
            if thing.artifact.repository == deploy.placement.artifact.repository:
                self.host.stop(thing, self.actor, "start")
        return await start(self, deploy)

    patch.setattr(MemoryHands, "start", greedy)


def _timeout_is_failure(patch: Patch) -> None:
    patch.setattr(verdict, "ERRORS", {**verdict.ERRORS, OutcomeUnknown.code: TaskEvent.FAIL})


# -- deciding ---------------------------------------------------------------------------------------------------------


def _two_versions_back(patch: Patch) -> None:
    """The way back leads to what stood before what stood before."""
    plan, before = planning.plan, planning._before
    older: dict[Any, Placement] = {}

    def remembering(*args: Any, **words: Any) -> Any:
        made = plan(*args, **words)
        for intent in made.intents:
            for change in intent.changes:
                if isinstance(change, Deploy) and change.predecessor is not None and _advances(change):
                    older[change.id, change.placement.content] = change.predecessor
        return made

    def further(change: Any) -> Any:
        found = before(change)
        if found is None or found.good is None:
            return found
        return replace(found, good=older.get((change.id, found.good.content), found.good))

    patch.setattr(planning, "plan", remembering)
    patch.setattr(planning, "_before", further)


def _advances(change: Deploy) -> bool:
    return change.predecessor is not None and change.predecessor.content != change.placement.content


def _unknown_is_in_sync(patch: Patch) -> None:
    rows = tuple(
        replace(row, verdict=Verdict.IN_SYNC) if row.verdict is Verdict.UNKNOWN else row for row in judge.VERDICTS
    )
    patch.setattr(judge, "VERDICTS", rows)


def _no_heal_after_rollback(patch: Patch) -> None:
    patch.setattr(drift, "_wanted", lambda declared, memory, held: None if held else declared)


def _refused_again(patch: Patch) -> None:
    patch.setattr(drift, "is_held", lambda desired, known: False)
    patch.setattr(blocks, "_held", lambda desired, known: None)


def _wave_too_large(patch: Patch) -> None:
    patch.setattr(Strategy, "size", lambda self, targets: max(1, targets))


def _empty_source_removes(patch: Patch) -> None:
    """A read without documents is taken for the wish that there be nothing."""
    written = accept._written

    def emptied(c: Connection, resolved: Any, now: Any) -> Any:
        for row in environments.all(c):
            desired = environments.desired(c, row.id)
            if row.id not in resolved.environments and desired is not None:
                environments.accept(c, _nothing(desired), now=now)
        return written(c, resolved, now)

    patch.setattr(accept, "_fault", lambda resolved: None)
    patch.setattr(accept, "_written", emptied)


def _nothing(desired: DesiredState) -> DesiredState:
    return replace(desired, targets=(), placements=(), revision="nothing")


def _audit_in_its_own_time(patch: Patch) -> None:
    """What is heard of a job's end is written when the next write comes along, or never."""
    append, waiting = audit.append, list[Any]()

    def later(c: Connection, **said: Any) -> int:
        if said["action"] in {f"job.{state}" for state in jobs.JOB_TERMINAL}:
            waiting.append(said)
            return 0
        while waiting:
            append(c, **waiting.pop(0))
        return append(c, **said)

    patch.setattr(audit, "append", later)


PLANTS: Final[dict[str, Plant]] = {
    "audit in its own time": Plant(plant=_audit_in_its_own_time, budget=10),
    "racy active-job check": Plant(plant=_racy_active_job_check, budget=150),
    "no fencing": Plant(plant=_no_fencing, likely=(714, 748, 769, 964), budget=150),
    "stale save over newer state": Plant(plant=_stale_save, likely=(13,), budget=100),
    "sticker before proof": Plant(plant=_sticker_before_proof, budget=10),
    "rollback two versions back": Plant(plant=_two_versions_back, likely=(21,), budget=100),
    "stop-then-run gap": Plant(plant=_stop_then_run, budget=20),
    "unknown taken for in sync": Plant(plant=_unknown_is_in_sync, budget=20),
    "time-out taken for failure": Plant(plant=_timeout_is_failure, likely=(4,), budget=40),
    "heal stopped after rollback": Plant(plant=_no_heal_after_rollback, likely=(4,), budget=60),
    "refused release re-applied": Plant(plant=_refused_again, budget=40),
    "key reused for a second heal": Plant(plant=_key_reused, budget=20),
    "empty source removes": Plant(plant=_empty_source_removes, budget=150),
    "wave larger than allowed": Plant(plant=_wave_too_large, budget=20),
    "foreign container taken for ours": Plant(plant=_foreign_taken_for_ours, budget=60),
}
