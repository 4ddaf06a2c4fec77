"""One turn for one environment: look at everything, judge it, and close the gap by a job where policy allows it.

However a turn ends, what it decided is recorded in one place: the decision with its inputs, how each placement stands,
and the environment's conditions. A turn that finds nothing new extends the last decision and writes nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import anyio
from sqlalchemy import Connection

from desired_state.model import DesiredState, Placement, Suspension, Target
from drivers.contract import Capabilities, Look
from reconciler import events
from reconciler.core import plan as planning
from reconciler.core import retry
from reconciler.core.conditions import Condition, Situation, Work, conditions
from reconciler.core.drift import Diffed, effective, is_held, rediff
from reconciler.core.intent import NO_GRANT, Blocked, Grant, Plan
from reconciler.core.judge import Drift
from reconciler.core.known import NOTHING_REMEMBERED, Known, Memory, Seen, Trust
from reconciler.core.machine import JOB_TERMINAL
from reconciler.core.trust import judge_sequence
from reconciler.events import Event
from reconciler.failpoints import reached
from reconciler.leases import HeldElsewhere
from reconciler.loop import execute, reconcile
from reconciler.means import Means, Note
from reconciler.store import environments, history, jobs, memories
from reconciler.store.errors import JobActive
from reconciler.store.records import Decision, EnvironmentRow, Job, Lease, NewJob
from stickers import digest
from stickers.names import EnvironmentId, PlacementId, TargetId

HOLDFAST: Final = "holdfast"  # who asks for a job that no person asked for
SOON: Final = 0.5  # seconds: the shortest pause between two turns that ask for each other
JITTER: Final = 0.1  # of the interval, either way, so that environments do not look all at once
SHOWN: Final = 500  # placements named in one decision; how each one stands is in its own interval

_ALARMING: Final = (Trust.FORGED, Trust.REPLAYED)


Also = Callable[[Connection, Job, Lease, datetime], None]


def nothing_more(c: Connection, job: Job, lease: Lease, now: datetime) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Who asks for a job and why; `also` is what is written with it, in the same transaction."""

    by: str
    reason: str
    also: Also = nothing_more


@dataclass(frozen=True, kw_only=True)
class View:
    """One environment as the store has it. `active` is its active job, `last` the last that ended."""

    row: EnvironmentRow
    desired: DesiredState
    known: Known
    active: Job | None
    last: Job | None


@dataclass(frozen=True, kw_only=True)
class Survey:
    """One environment as it was looked at. `acted` tells which actions had begun or ended before the look did."""

    view: View
    seen: dict[TargetId, Seen]
    diffed: Diffed
    at: datetime
    acted: int


async def turn(means: Means, environment: EnvironmentId) -> float | None:
    """Reconcile the environment; answers when to look again. None for one that nobody has declared."""
    try:
        async with means.leases.under(environment) as lease:
            _continued(means.note(environment), lease)
            view = await load(means, environment)
            return None if view is None else await _turn(means, view, lease)
    except HeldElsewhere as held:
        return held.again


async def look(means: Means, environment: EnvironmentId) -> None:
    """A turn that looks and records, and makes no job."""
    try:
        async with means.leases.under(environment) as lease:
            _continued(means.note(environment), lease)
            view = await load(means, environment)
            if view is not None:
                surveyed = await survey(means, view)
                plan = await _planned_aside(means, surveyed)
                again = _again(means, surveyed, plan)
                await _record(means, Ended(survey=surveyed, plan=plan, job=view.active, again=again), lease)
    except HeldElsewhere:
        return  # whoever holds it looks


def _continued(note: Note, lease: Lease) -> None:
    """What was recorded last is known only while nobody else has held the environment in between."""
    if note.token != lease.token:
        note.token, note.diffed = lease.token, None


async def _turn(means: Means, view: View, lease: Lease) -> float:
    began, note = anyio.current_time(), means.note(view.row.id)
    surveyed = await survey(means, view)
    plan = await _planned_aside(means, surveyed)
    job = await _made(means, surveyed, plan, lease)
    ended = Ended(survey=surveyed, plan=plan, job=job, again=_again(means, surveyed, plan))
    await _record(means, ended, lease)
    note.busy, note.took = job is not None, anyio.current_time() - began
    means.tell(
        events.Looked(
            environment=view.row.id,
            placements=len(surveyed.diffed.drifts),
            drifted=len(surveyed.diffed.drifted),
            took=round(note.took, 6),
        )
    )
    if job is not None:
        means.ask(execute(job.id), 0.0)
    return ended.again


# -- what is known and what is seen -----------------------------------------------------------------------------------


async def load(means: Means, environment: EnvironmentId) -> View | None:
    """The environment with its desire and memory, as of one moment."""
    now = means.tools.now()

    def read(c: Connection) -> View | None:
        found = environments.load_declared(c, environment)
        if found is None:
            return None
        (row, desired), newest = found, jobs.newest(c, environment)
        active = next((job for job in newest if job.state not in JOB_TERMINAL), None)
        return View(
            row=row,
            desired=desired,
            known=memories.known_of(c, row, now, at_work=active is not None),
            active=active,
            last=next((job for job in newest if job.state in JOB_TERMINAL), None),
        )

    return await means.store.read(read)


async def survey(means: Means, view: View) -> Survey:
    """Look at every target of the environment, and judge what is seen."""
    environment, note = view.row.id, means.note(view.row.id)
    acted = note.acted
    reached("before_look")
    seen = await means.eyes.look(environment, _looks(view, note))
    reached("after_look")
    now, before = means.tools.now(), note.diffed
    diffed = await means.aside(len(seen), lambda: rediff(view.desired, seen, view.known, now=now, before=before))
    return Survey(view=view, seen=seen, diffed=diffed, at=now, acted=acted)


def _looks(view: View, note: Note) -> tuple[Look, ...]:
    """Every target that is declared or ever had a last good, with what each placement is judged by; the same records as
    the last time, where nothing has changed."""
    held = is_held(view.desired, view.known)
    if note.looks_of is not None:
        desired, remembered, was_held = note.looks_of
        if desired is view.desired and remembered is view.known.memories and held is was_held:
            return note.looks
    note.looks, note.looks_of = _made_looks(view), (view.desired, view.known.memories, held)
    return note.looks


def _made_looks(view: View) -> tuple[Look, ...]:
    desired, known = view.desired, view.known
    by_target: dict[TargetId, list[Placement]] = {}
    held = effective(desired, known)
    for declared in desired.placements:  # held to nothing, it is still judged by what is declared
        by_target.setdefault(declared.id.target, []).append(held[declared.id] or declared)
    former = [target for id, target in sorted(known.targets.items()) if id not in desired.target_of]
    for id, memory in known.memories.items() if former else ():
        if memory.last_good is not None and id.target not in desired.target_of:
            by_target.setdefault(id.target, []).append(memory.last_good)
    return tuple(
        Look(target=target, placements=tuple(by_target.get(target.id, ()))) for target in (*desired.targets, *former)
    )


def planned(means: Means, surveyed: Survey, grant: Grant = NO_GRANT) -> Plan:
    """What closes the gap, as far as policy and the grant allow."""
    view = surveyed.view
    return planning.plan(
        surveyed.diffed.drifted,
        view.desired,
        view.known,
        powers=powers(means, view),
        installation=means.tools.installation,
        now=surveyed.at,
        grant=grant,
    )


async def _planned_aside(means: Means, surveyed: Survey) -> Plan:
    return await means.aside(len(surveyed.seen), lambda: planned(means, surveyed))


def powers(means: Means, view: View) -> dict[str, Capabilities]:
    records: Iterable[Target] = (*view.desired.targets, *view.known.targets.values())
    return means.powers(record.hands for record in records)


# -- the job ----------------------------------------------------------------------------------------------------------


class WorldMoved(Exception):
    """What a plan was made from is not so any more: an action, a person or a newer desire came between."""


async def make(means: Means, surveyed: Survey, plan: Plan, lease: Lease, asked: Asked) -> Job:
    """Make the job, whoever asks for it. Raises `JobActive` when there is one already, and `WorldMoved`."""
    view, now = surveyed.view, means.tools.now()
    note = means.note(view.row.id)
    new = NewJob(
        environment=view.row.id,
        kind=plan.kind,
        generation=view.row.generation,
        plan=plan,
        requested_by=asked.by,
        reason=asked.reason,
    )

    def create(c: Connection) -> Job:
        row = environments.load(c, view.row.id)
        if row is None or (row.generation, row.suspended) != (view.row.generation, view.row.suspended):
            raise WorldMoved(f"{view.row.id} is desired or suspended otherwise by now")
        if note.acted != surveyed.acted:
            raise WorldMoved(f"something was done in {view.row.id} since it was looked at")
        job = jobs.create(c, new, lease, now)
        asked.also(c, job, lease, now)
        return job

    reached("before_job")
    job = await means.store.write(create)
    reached("after_job")
    means.tell(events.job_moved(job, view.desired.release.name, job.reason))
    means.ask(execute(job.id), 0.0)
    return job


async def _made(means: Means, surveyed: Survey, plan: Plan, lease: Lease) -> Job | None:
    """The job that closes the gap: a new one, or the one that is under way already."""
    if surveyed.view.active is not None or plan.empty:
        return surveyed.view.active
    try:
        return await make(means, surveyed, plan, lease, Asked(by=HOLDFAST, reason=_why(plan)))
    except WorldMoved:
        means.ask(reconcile(surveyed.view.row.id), SOON)
        return None
    except JobActive as busy:
        holder = busy.job
    return await means.store.read(lambda c: jobs.load(c, holder))


def _why(plan: Plan) -> str:
    """`2 missing, 1 lying` among what the plan moves."""
    found = Counter(cause.verdict.value for intent in plan.intents for cause in intent.causes)
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(found.items()))


# -- the record -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a turn ended: what was seen, what is planned, the job that is under way, and when it is looked at again."""

    survey: Survey
    plan: Plan
    job: Job | None
    again: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _News:
    """What stands otherwise than at the last recorded turn. `gone` None: not known, this is the first."""

    drifts: Sequence[Drift]
    targets: Sequence[TargetId]
    gone: Sequence[PlacementId] | None


async def _record(means: Means, ended: Ended, lease: Lease) -> None:
    """Everything that a turn leaves behind, in one transaction."""
    surveyed, view = ended.survey, ended.survey.view
    environment, note = view.row.id, means.note(ended.survey.view.row.id)
    before = note.diffed

    def prepared() -> tuple[_News, Mapping[PlacementId, int], Mapping[PlacementId, Memory], tuple[Condition, ...]]:
        news = _news(before, surveyed.diffed)
        said = conditions(_situation(means, ended), before=view.row.conditions, now=surveyed.at)
        return news, _risen(news, surveyed), _held_heals(surveyed), said

    news, sequences, held, said = await means.aside(len(surveyed.seen), prepared)

    def record(c: Connection) -> None:
        history.decide(c, environment, _decision(means, ended), lease, surveyed.at)
        gone = news.gone if news.gone is not None else _no_longer(c, environment, surveyed.diffed)
        if news.drifts or gone:
            history.standings(c, environment, news.drifts, gone, lease, surveyed.at)
        if sequences:
            memories.raise_sequences(c, environment, sequences, lease)
        memories.heals(c, environment, held, lease)
        _tell_environment(c, ended, said, lease)

    reached("before_record")
    await means.store.write(record)
    reached("after_record")
    note.diffed = surveyed.diffed
    means.tell(*await means.aside(len(surveyed.seen), lambda: _changes(surveyed, news, before)))


def _tell_environment(c: Connection, ended: Ended, said: tuple[Condition, ...], lease: Lease) -> None:
    view = ended.survey.view
    if said != view.row.conditions:
        environments.set_conditions(c, view.row.id, said, lease)
    release = view.desired.release.name
    arrived = not any(drift.declared is not None for drift in ended.survey.diffed.drifted)
    if arrived and not ended.survey.diffed.held and view.row.last_applied != release:
        environments.applied(c, view.row.id, release, lease)


def _news(before: Diffed | None, now: Diffed) -> _News:
    if before is None:
        return _News(drifts=now.drifts, targets=tuple(now.judged), gone=None)
    moved = [target for target, judged in now.judged.items() if before.judged.get(target) is not judged]
    drifts = [drift for target in moved for drift in now.judged[target].drifts]
    stands = {drift.id for drift in drifts}
    left = [*moved, *(target for target in before.judged if target not in now.judged)]
    were = [drift.id for target in left if target in before.judged for drift in before.judged[target].drifts]
    return _News(drifts=drifts, targets=moved, gone=[id for id in were if id not in stands])


def _no_longer(c: Connection, environment: EnvironmentId, now: Diffed) -> list[PlacementId]:
    """What an earlier process has recorded and nobody sees any more."""
    stands = {drift.id for drift in now.drifts}
    return [each.id for each in history.standing_now(c, environment) if each.id not in stands]


def _risen(news: _News, surveyed: Survey) -> dict[PlacementId, int]:
    """Sequences that are higher than what is remembered."""
    found: dict[PlacementId, int] = {}
    for target in news.targets:
        seen = surveyed.seen.get(target)
        for id, reading in seen.readings.items() if seen else ():
            if reading.trust is Trust.VALID and reading.sticker is not None:
                found[id] = reading.sticker.sequence
    remembered = surveyed.view.known.memories
    return {
        id: sequence for id, sequence in found.items() if sequence > remembered.get(id, NOTHING_REMEMBERED).sequence
    }


def _held_heals(surveyed: Survey) -> dict[PlacementId, Memory]:
    """Placements that have stood for long enough since their last heal."""
    tried = {id: memory for id, memory in surveyed.view.known.memories.items() if memory.attempts}
    if not tried:
        return {}
    drifted = {drift.id for drift in surveyed.diffed.drifted}
    after = {id: retry.heal_held(memory, now=surveyed.at) for id, memory in tried.items() if id not in drifted}
    return {id: memory for id, memory in after.items() if memory is not tried[id]}


def _changes(surveyed: Survey, news: _News, before: Diffed | None) -> list[Event]:
    """What to tell: every verdict that changed, and what drifts when nothing was known; distrusted stickers besides."""
    environment = surveyed.view.row.id
    was = {drift.id: drift for target in news.targets for drift in _drifts(before, target)}
    told: list[Event] = []
    for drift in news.drifts:
        old = was.get(drift.id)
        if (old is None and drift.drifted) or (old is not None and old.verdict is not drift.verdict):
            told.append(
                events.VerdictChanged(
                    environment=environment,
                    id=drift.id,
                    before=old.verdict if old else None,
                    after=drift.verdict,
                    trust=drift.trust,
                    reason=drift.reason or drift.rule,
                )
            )
        if drift.trust in _ALARMING and (old is None or old.trust is not drift.trust):
            told.append(
                events.StickerDistrusted(
                    environment=environment, id=drift.id, trust=drift.trust, reason=_distrust(surveyed, drift.id)
                )
            )
    return told


def _distrust(surveyed: Survey, id: PlacementId) -> str:
    """Why the sticker that was seen there is not believed."""
    memory = surveyed.view.known.memories.get(id, NOTHING_REMEMBERED)
    seen = surveyed.seen.get(id.target)
    reading = seen.readings.get(id) if seen else None
    return judge_sequence(reading, memory).reason if reading else ""


def _drifts(diffed: Diffed | None, target: TargetId) -> tuple[Drift, ...]:
    judged = diffed.judged.get(target) if diffed else None
    return judged.drifts if judged else ()


# -- what it says -----------------------------------------------------------------------------------------------------


def _decision(means: Means, ended: Ended) -> Decision:
    """The same inputs and the same outcome are the same decision, whenever it is made."""
    diffed, view, plan = ended.survey.diffed, ended.survey.view, ended.plan
    content = {
        "generation": view.row.generation,
        "desired": view.row.desired,
        "held": _held(view),
        "source": fault.reason if (fault := means.source_fault(view.row)) else None,
        "job": ended.job.id if ended.job else None,
        "plan": None if plan.empty else plan.hash,
        "placements": len(diffed.drifts),
        "drifted": [[str(drift.id), drift.verdict.value, drift.rule] for drift in diffed.drifted[:SHOWN]],
        "blocked": [_blocked(one) for one in plan.blocked[:SHOWN]],
    }
    return Decision(rule=_rule(ended), content=content, again_at=ended.survey.at + timedelta(seconds=ended.again))


def _rule(ended: Ended) -> str:
    made, plan = ended.job, ended.plan
    if made is not None and made is ended.survey.view.active:
        return "a job is under way: no other is made"
    if made is not None:
        return f"a {made.kind} job closes the gap"
    if not plan.empty:
        return "the look is older than what was done since: it is looked at again"
    if plan.blocked:
        return "what differs is blocked"
    return "everything is as wanted: nothing is done"


def _blocked(one: Blocked) -> dict[str, Any]:
    return {
        "placement": str(one.id),
        "code": one.code.value,
        "reason": one.reason,
        "remedy": one.remedy,
        "verdict": one.verdict.value,
        "until": digest.instant(one.until) if one.until else None,
    }


def _situation(means: Means, ended: Ended) -> Situation:
    view, diffed, job = ended.survey.view, ended.survey.diffed, ended.job
    return Situation(
        generation=view.row.generation,
        placements=len(view.desired.placements),
        drifted=diffed.drifted,
        plan=ended.plan,
        job=_work(job),
        last=_work(view.last),
        held=_held(view),
        suspended=_suspension(view, ended.survey.at),
        source=means.source_fault(view.row),
    )


def _work(job: Job | None) -> Work | None:
    return Work(id=job.id, state=job.state, message=job.message) if job else None


def _held(view: View) -> str | None:
    """Why the declared release is not advanced."""
    refused = view.known.refused
    if not refused:
        return None
    return next((refused[one.trial] for one in view.desired.placements if one.trial in refused), None)


def _suspension(view: View, now: datetime) -> Suspension | None:
    declared = view.desired.environment.suspend
    in_force = declared is not None and (declared.until is None or declared.until > now)
    return view.known.suspended or (declared if in_force else None)


def _again(means: Means, surveyed: Survey, plan: Plan) -> float:
    """In an interval, give or take; sooner where a block ends by itself before."""
    interval = surveyed.view.desired.environment.sync.interval.total_seconds()
    regular = interval * means.random.uniform(1 - JITTER, 1 + JITTER)
    ends = [(one.until - surveyed.at).total_seconds() for one in plan.blocked if one.until is not None]
    return max(SOON, min([regular, *ends]))
