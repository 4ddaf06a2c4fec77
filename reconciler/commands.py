"""What people ask of an environment: its plan, to close the gap now, to go back, to take over what runs. Each makes a
job that the loop carries, or says why there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection

from desired_state.model import Placement
from drivers.contract import Deploy, Remove
from reconciler import reconcile
from reconciler.core import plan as planning
from reconciler.core.drift import is_held
from reconciler.core.intent import NO_GRANT, Code, Grant, JobKind, Plan
from reconciler.core.known import Memory
from reconciler.leases import HeldElsewhere
from reconciler.means import Means
from reconciler.reconcile import Also, Asked, Survey, View, WorldMoved, nothing_more
from reconciler.store import answers, jobs, memories
from reconciler.store.answers import Ticket
from reconciler.store.errors import JobActive
from reconciler.store.records import Job, Lease, Refusal
from stickers.names import Digest, EnvironmentId, PlacementId, TargetId

HASH: Final = 8  # digits of a hash that name it well enough
TRIES: Final = 3  # at a world that moves while it is looked at
PAGES: Final = 20  # of jobs, in which what brought the declared release is searched
PAGE: Final = 200

Tell = Callable[[EnvironmentId, Job | None], Mapping[str, Any]]  # the answer about the job that was made, if one was


class Declined(Exception):
    """What was asked for is not done. `code` is for programs, the text a sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who asks, and why; `also` is written in the transaction that makes their job. What is asked under a `ticket`
    takes effect once."""

    actor: str
    reason: str
    also: Also = nothing_more
    ticket: Ticket | None = None

    def asked(self, also: Also = nothing_more) -> Asked:
        def both(c: Connection, job: Job, lease: Lease, now: datetime) -> None:
            also(c, job, lease, now)
            self.also(c, job, lease, now)

        return Asked(by=self.actor, reason=self.reason, also=both)


def named(environment: EnvironmentId, job: Job | None) -> Mapping[str, Any]:
    """What is told of a job where nobody says it in other words."""
    return {"environment": environment, "job": None if job is None else job.id}


def keeps(tell: Tell, ticket: Ticket | None) -> Also:
    """Keeps the first answer under the ticket."""
    if ticket is None:
        return nothing_more

    def keep(c: Connection, job: Job, lease: Lease, now: datetime) -> None:
        answers.keep(c, ticket, tell(job.environment, job), now)

    return keep


async def plan(means: Means, environment: EnvironmentId, grant: Grant = NO_GRANT) -> Plan:
    """What would be done, as far as policy and the grant allow; nothing is written."""
    return reconcile.planned(means, await _survey(means, environment), grant)


async def sync(
    means: Means, environment: EnvironmentId, grant: Grant, person: Person, *, plan_hash: str | None = None
) -> Job | None:
    """Make the job that closes the gap; None when there is nothing to do. With `plan_hash` only exactly that plan."""
    async with _under(means, environment) as lease:
        for _ in range(TRIES):
            surveyed = await _survey(means, environment)
            found = reconcile.planned(means, surveyed, grant)
            _insist(found, grant, plan_hash)
            if found.empty:
                return None
            try:
                return await _made(means, surveyed, found, lease, person.asked())
            except WorldMoved:
                continue
        raise WorldMoved(f"{environment} does not stop changing")


async def adopt(
    means: Means, environment: EnvironmentId, targets: frozenset[TargetId] | None, person: Person
) -> Job | None:
    """Take over what runs unmanaged as it is declared; None when there is no such thing."""
    async with _under(means, environment) as lease:
        surveyed = await _survey(means, environment)
        view = surveyed.view
        found = planning.adopt(
            [drift for drift in surveyed.diffed.drifted if targets is None or drift.id.target in targets],
            view.desired,
            view.known,
            powers=reconcile.powers(means, view),
            installation=means.tools.installation,
            now=surveyed.at,
        )
        if found.empty:
            return None
        return await _made(means, surveyed, found, lease, person.asked())


async def rollback(means: Means, environment: EnvironmentId, person: Person) -> Job | None:
    """Go back to what ran in health before the declared release; what is left behind is refused from now on. None when
    everything has gone back already."""
    async with _under(means, environment) as lease:
        surveyed = await _survey(means, environment)
        undo = await _undo(means, surveyed.view)
        found = planning.back(
            [drift for drift in surveyed.diffed.drifts if drift.declared is not None],
            surveyed.view.desired,
            surveyed.view.known,
            powers=reconcile.powers(means, surveyed.view),
            installation=means.tools.installation,
            now=surveyed.at,
            undo=undo,
        )
        left = _left_behind(surveyed.view, undo)
        if found.empty and not left:
            return None
        asked = person.asked(_leaves(left, surveyed.view, person))
        return await _made(means, surveyed, found, lease, asked)


# -- the way back -----------------------------------------------------------------------------------------------------


async def _undo(means: Means, view: View) -> Plan | None:
    """Everything that brought the declared release, as one plan to be undone: a release may have come in several jobs,
    and what stood before it is what stood before the first. None where the release is refused already: then what is
    remembered is what stood before."""
    if is_held(view.desired, view.known):
        return None
    bringing = await means.store.read(lambda c: _bringing(c, view))
    if not bringing:
        return None
    waves = tuple(wave for plan in bringing for wave in plan.waves)
    return replace(bringing[-1], waves=waves)


def _bringing(c: Connection, view: View) -> list[Plan]:
    """The plans of the jobs that brought what is declared now, newest first: whoever reads them in this order keeps the
    oldest word on each placement. A release of another name with the same content is the same here."""
    declared = {placement.id: placement.content for placement in view.desired.placements}
    found: list[Plan] = []
    for job in _back_in_time(c, view.row.id):
        if job.kind not in (JobKind.DEPLOY, JobKind.ROLLBACK):
            continue
        plan = jobs.plan(c, job)
        if job.desired != view.row.desired and not _brings(plan, declared):
            break
        if job.kind is JobKind.DEPLOY:
            found.append(plan)
    return found


def _brings(plan: Plan, declared: Mapping[PlacementId, tuple[Digest, Digest]]) -> bool:
    changes = [change for intent in plan.intents for change in intent.changes if isinstance(change, Deploy)]
    return bool(changes) and all(declared.get(change.id) == change.placement.content for change in changes)


def _back_in_time(c: Connection, environment: EnvironmentId) -> Iterator[Job]:
    before: str | None = None
    for _ in range(PAGES):
        page = jobs.page(c, environment=environment, before=before, limit=PAGE)
        yield from page.items
        if (before := page.before) is None:
            return


def _before(undo: Plan | None, view: View) -> dict[PlacementId, Placement | None]:
    """What each declared placement goes back to."""
    remembered = view.known.memories
    goals = {
        placement.id: remembered[placement.id].last_good if placement.id in remembered else None
        for placement in view.desired.placements
    }
    for intent in undo.intents if undo else ():
        for change in intent.changes:
            if isinstance(change, Remove):
                continue
            goals[change.id] = change.predecessor if isinstance(change, Deploy) else change.placement
    return goals


def _left_behind(view: View, undo: Plan | None) -> tuple[Placement, ...]:
    """What is declared and is not what is gone back to. Where there is nothing to go back to at all, nothing is left
    behind: to take a whole environment away is no rollback."""
    goals = _before(undo, view)
    if not any(goals.values()) or all(_same(goals[each.id], each) for each in view.desired.placements):
        raise Declined("NOTHING_BEFORE", f"nothing ran in health in {view.row.id} before {view.row.release}")
    return tuple(
        placement
        for placement in view.desired.placements
        if placement.trial not in view.known.refused and not _same(goals.get(placement.id), placement)
    )


def _same(goal: Placement | None, declared: Placement) -> bool:
    return goal is not None and goal.content == declared.content


def _leaves(left: Iterable[Placement], view: View, person: Person) -> Also:
    """What is written with the job: what is left behind is refused, and is last good no more."""

    def write(c: Connection, job: Job, lease: Lease, now: datetime) -> None:
        reason = f"rolled back by {person.actor}: {person.reason}"
        for placement in left:
            memories.refuse(c, Refusal(placement=placement, reason=reason, job=job.id), lease, now)
        stood = [each.id for each in left if _stood(view.known.memories.get(each.id), each)]
        memories.step_back(c, view.row.id, stood, lease, now)
        person.also(c, job, lease, now)

    return write


def _stood(memory: Memory | None, placement: Placement) -> bool:
    return memory is not None and memory.last_good is not None and memory.last_good.content == placement.content


# -- what they share --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _under(means: Means, environment: EnvironmentId) -> AsyncIterator[Lease]:
    try:
        async with means.leases.under(environment) as lease:
            yield lease
    except HeldElsewhere as held:
        raise Declined("HELD_ELSEWHERE", str(held)) from None
    except WorldMoved as moved:
        raise Declined("WORLD_MOVED", f"{moved}; try again") from None


async def _survey(means: Means, environment: EnvironmentId) -> Survey:
    view = await reconcile.load(means, environment)
    if view is None:
        raise Declined("NO_ENVIRONMENT", f"there is no environment {environment}")
    return await reconcile.survey(means, view)


async def _made(means: Means, surveyed: Survey, plan: Plan, lease: Lease, asked: Asked) -> Job:
    if surveyed.view.active is not None:
        raise JobActive(surveyed.view.row.id, surveyed.view.active.id)
    return await reconcile.make(means, surveyed, plan, lease, asked)


def _insist(found: Plan, grant: Grant, plan_hash: str | None) -> None:
    if plan_hash is not None and not _names(plan_hash, found.hash):
        raise Declined("PLAN_MOVED", f"the world has moved: the plan is {found.hash} by now; look at it again")
    if grant.removal is not None and any(one.code is Code.REMOVAL_LIMIT for one in found.blocked):
        raise Declined("REMOVAL_MOVED", f"what would be removed is {found.removal} by now; look at it again")


def _names(given: str, hash: str) -> bool:
    """Whether the given text is the hash, or enough of its beginning."""
    digits = given.removeprefix("sha256:")
    return len(digits) >= HASH and hash.removeprefix("sha256:").startswith(digits)
