"""What a person sees at a glance, asked of open intervals only: how many placements stand how, the gravest first, what
matches a word, and whether anything has changed. No content of a placement is read unless it is shown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from hashlib import blake2b
from typing import Any, Final

from sqlalchemy import (
    CompoundSelect,
    Connection,
    Integer,
    Row,
    bindparam,
    distinct,
    func,
    or_,
    select,
    tuple_,
    union_all,
)

from reconciler.core.drift import Verdict
from reconciler.core.machine import JOB_ACTIVE, TaskState
from reconciler.store import chronicle
from reconciler.store.history import _decision, _standing
from reconciler.store.records import DecisionInterval, Page, ProgressLine, StandingInterval
from reconciler.store.tables import decision, environment, job, progress, release, task
from reconciler.store.tables import standing as table
from reconciler.store.tasks import _line
from stickers.names import (
    ComponentName,
    EnvironmentId,
    JobId,
    PlacementId,
    ReleaseName,
    SlotName,
    TargetId,
    TaskId,
)

GRAVITY: Final = (
    Verdict.UNHEALTHY,
    Verdict.MISSING,
    Verdict.STOPPED,
    Verdict.LYING,
    Verdict.WRONG_ARTIFACT,
    Verdict.WRONG_CONFIGURATION,
    Verdict.BEHIND,
    Verdict.AHEAD,
    Verdict.UNLABELLED,
    Verdict.FOREIGN,
    Verdict.UNKNOWN,
    Verdict.IN_TRANSIT,
    Verdict.IN_SYNC,
    Verdict.UNMANAGED,
)  # what a target with several placements is shown as: the first of these that one of them has
DRIFTING: Final = tuple(
    verdict for verdict in GRAVITY if verdict not in (Verdict.IN_SYNC, Verdict.UNMANAGED, Verdict.UNKNOWN)
)  # what could not be seen has not drifted
_OPEN: Final = table.c.until.is_(None)
_PLACE: Final = (table.c.target, table.c.component, table.c.slot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many targets an environment has, and its placements by verdict, the gravest first."""

    targets: int
    placements: Mapping[Verdict, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spell:
    """How long a placement stood in one verdict; `until` None: it still does."""

    id: PlacementId
    verdict: Verdict
    since: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """A task as a job's page lists it."""

    id: TaskId
    number: int
    wave: int
    direction: str
    target: TargetId
    state: TaskState
    attempt: int
    code: str | None
    detail: str
    intent: str  # the intent's text: only what is shown of it is decoded
    began_at: datetime | None
    ended_at: datetime | None
    evidence: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRow:
    project: str
    name: ReleaseName
    digest: str
    kept_at: datetime


def tallies(c: Connection) -> dict[EnvironmentId, Tally]:
    """How every environment stands, from an index alone."""
    counted: dict[str, dict[Verdict, int]] = {}
    for where, verdict, number in c.execute(_TALLIES):
        counted.setdefault(where, {})[Verdict(verdict)] = number
    return {
        EnvironmentId(id): Tally(targets=number, placements=_graver_first(counted[id]))
        for id, number in c.execute(_TARGETS)
    }


def _graver_first(counted: Mapping[Verdict, int]) -> dict[Verdict, int]:
    return {verdict: counted[verdict] for verdict in GRAVITY if verdict in counted}


def cells(c: Connection, id: EnvironmentId, tally: Tally, *, most: int) -> tuple[tuple[TargetId, Verdict], ...]:
    """Targets with the gravest verdict of each. Where there are more than `most`, only those not in sync, the gravest
    first, at most so many."""
    found: dict[TargetId, Verdict] = {}
    for verdict in tally.placements:
        if (tally.targets > most and verdict is Verdict.IN_SYNC) or len(found) >= most:
            continue
        asked = {"id_is": id, "verdict_is": verdict.value, "most": most}
        for target in c.execute(_CELLS, asked).scalars():
            found.setdefault(TargetId(target), verdict)
    ordered = sorted(found, key=natural) if tally.targets <= most else list(found)[:most]
    return tuple((target, found[target]) for target in ordered)


def natural(text: str) -> tuple[object, ...]:
    """For an order in which `web-9` comes before `web-10`."""
    digits = len(text) - len(text.rstrip("0123456789"))
    return (text[: len(text) - digits], int(text[-digits:][:18])) if digits else (text, -1)


_TALLIES: Final = (
    select(table.c.environment, table.c.verdict, func.count())
    .where(_OPEN)
    .group_by(table.c.environment, table.c.verdict)
)
_TARGETS: Final = (
    select(table.c.environment, func.count(distinct(table.c.target))).where(_OPEN).group_by(table.c.environment)
)
_CELLS: Final = (
    select(table.c.target)
    .distinct()
    .where(_OPEN, table.c.environment == bindparam("id_is"), table.c.verdict == bindparam("verdict_is"))
    .order_by(table.c.target)
    .limit(bindparam("most"))
)


def tally(c: Connection, id: EnvironmentId) -> Tally:
    """How one environment stands."""
    here = (_OPEN, table.c.environment == id)
    rows = c.execute(select(table.c.verdict, func.count()).where(*here).group_by(table.c.verdict))
    counted = {Verdict(verdict): number for verdict, number in rows}
    targets = c.execute(select(func.count(distinct(table.c.target))).where(*here)).scalar_one()
    return Tally(targets=targets, placements=_graver_first(counted))


def placements(
    c: Connection,
    id: EnvironmentId,
    *,
    verdicts: Collection[Verdict] | None = None,
    after: str | None = None,
    limit: int,
) -> Page[StandingInterval]:
    """Open placements in order of target, component and slot; only those of the verdicts, where some are given. The
    cursor is `target component slot` of the last one shown."""
    query = select(table).where(_OPEN, table.c.environment == id)
    if verdicts is not None:
        query = query.where(table.c.verdict.in_(sorted(verdict.value for verdict in verdicts)))
    if after is not None and len(parts := after.split(" ")) == 3:
        query = query.where(tuple_(*_PLACE) > tuple(parts))
    found = [_standing(row) for row in c.execute(query.order_by(*_PLACE).limit(limit + 1))]
    more = len(found) > limit
    last = found[limit - 1].id if more else None
    cursor = f"{last.target} {last.component} {last.slot}" if last else None
    return Page(items=tuple(found[:limit]), before=cursor)


def drifted(c: Connection, ids: Sequence[EnvironmentId]) -> dict[EnvironmentId, list[StandingInterval]]:
    """What is not in sync in these environments, in one statement that reads no other row."""
    apart = [verdict.value for verdict in GRAVITY if verdict is not Verdict.IN_SYNC]
    query = select(table).where(_OPEN, table.c.environment.in_(ids), table.c.verdict.in_(apart))
    found: dict[EnvironmentId, list[StandingInterval]] = {}
    for row in c.execute(query.order_by(table.c.environment, *_PLACE)):
        found.setdefault(EnvironmentId(row.environment), []).append(_standing(row))
    return found


def environments_of(c: Connection, target: TargetId) -> tuple[EnvironmentId, ...]:
    """Where the target wears stickers."""
    query = select(table.c.environment).where(_OPEN, table.c.target == target).distinct()
    return tuple(EnvironmentId(name) for name in c.execute(query.order_by(table.c.environment)).scalars())


def spells(c: Connection, id: EnvironmentId, since: datetime, *, limit: int) -> tuple[Spell, ...]:
    """The intervals that ended after the moment, the latest `limit` of them, and as many of those open and not in
    sync: both by index, however long the history."""
    columns = (*_PLACE, table.c.verdict, table.c.since, table.c.until)
    here = table.c.environment == id
    ended = select(*columns).where(here, table.c.until > since).order_by(table.c.until.desc()).limit(limit)
    open_ = select(*columns).where(here, _OPEN, table.c.verdict != Verdict.IN_SYNC).limit(limit)
    rows = [*c.execute(ended), *c.execute(open_)]
    return tuple(
        Spell(
            id=PlacementId(TargetId(row.target), ComponentName(row.component), SlotName(row.slot)),
            verdict=Verdict(row.verdict),
            since=row.since,
            until=row.until,
        )
        for row in rows
    )


def spells_of(
    c: Connection, ids: Sequence[EnvironmentId], since: datetime, *, each: int
) -> dict[EnvironmentId, tuple[Spell, ...]]:
    """The same of many environments in one statement: of each at most so many that ended, and so many that are open
    and drift."""
    if not ids:
        return {}
    given = {f"id_{index}": id for index, id in enumerate(ids)}
    found: dict[EnvironmentId, list[Spell]] = {id: [] for id in ids}
    for row in c.execute(_spells_of(len(ids)), given | {"from_then": since, "each": each}):
        place = PlacementId(TargetId(row.target), ComponentName(row.component), SlotName(row.slot))
        spell = Spell(id=place, verdict=Verdict(row.verdict), since=row.since, until=row.until)
        found[EnvironmentId(row.environment)].append(spell)
    return {id: tuple(spells) for id, spells in found.items()}


@cache
def _spells_of(count: int) -> CompoundSelect[Any]:
    """A part for each environment: neither database bounds each group of one select by an index."""
    columns = (table.c.environment, *_PLACE, table.c.verdict, table.c.since, table.c.until)
    then, each = bindparam("from_then", type_=table.c.until.type), bindparam("each", type_=Integer)
    parts = []
    for index in range(count):
        here = table.c.environment == bindparam(f"id_{index}")
        ended = select(*columns).where(here, table.c.until > then).order_by(table.c.until.desc()).limit(each)
        still = select(*columns).where(here, _OPEN, table.c.verdict.in_(DRIFTING)).limit(each)
        parts += [select(ended.subquery()), select(still.subquery())]
    return union_all(*parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """When an environment was looked at last, and when it is to be looked at again."""

    at: datetime
    again: datetime | None


def looked(c: Connection) -> dict[EnvironmentId, Looked]:
    """Of every environment that any turn has decided about."""
    last = select(func.max(_LATER.c.number)).where(_LATER.c.environment == decision.c.environment).scalar_subquery()
    query = (
        select(decision.c.environment, decision.c.until, decision.c.again_at)
        .select_from(environment.join(decision, decision.c.environment == environment.c.id))
        .where(decision.c.number == last)
    )
    return {EnvironmentId(id): Looked(at=at, again=again) for id, at, again in c.execute(query)}


_LATER: Final = decision.alias("later")


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRow:
    """One target where it wears stickers: the verdicts of its placements, and since when the gravest stands."""

    target: TargetId
    environment: EnvironmentId
    verdicts: tuple[tuple[ComponentName, Verdict, datetime], ...]


def targets(c: Connection, ids: Iterable[EnvironmentId], *, after: str | None = None, limit: int) -> Page[TargetRow]:
    """Targets by environment and name. The cursor is `environment target` of the last one shown."""
    key = (table.c.environment, table.c.target)
    where = [_OPEN, table.c.environment.in_(list(ids)), table.c.verdict != Verdict.UNMANAGED]
    if after is not None and len(parts := after.split(" ")) == 2:
        where.append(tuple_(*key) > tuple(parts))
    pairs = c.execute(select(*key).distinct().where(*where).order_by(*key).limit(limit + 1)).all()
    shown = [tuple(pair) for pair in pairs[:limit]]
    rows = c.execute(
        select(*key, table.c.component, table.c.verdict, table.c.since)
        .where(_OPEN, tuple_(*key).in_(shown))
        .order_by(*key, table.c.component)
    )
    found: dict[tuple[str, str], list[tuple[ComponentName, Verdict, datetime]]] = {}
    for where_, target, component, verdict, since in rows:
        found.setdefault((where_, target), []).append((ComponentName(component), Verdict(verdict), since))
    items = tuple(
        TargetRow(target=TargetId(target), environment=EnvironmentId(id), verdicts=tuple(verdicts))
        for (id, target), verdicts in found.items()
    )
    return Page(items=items, before=" ".join(shown[-1]) if len(pairs) > limit else None)


def stood(
    c: Connection, id: EnvironmentId, moment: datetime, *, limit: int
) -> tuple[dict[Verdict, int], tuple[StandingInterval, ...]]:
    """How the environment was known to stand at a moment: its placements by verdict, and the first so many of them,
    those not in sync first."""
    then = (
        table.c.environment == id,
        table.c.since <= moment,
        or_(table.c.until.is_(None), table.c.until > moment),
    )
    counted = c.execute(select(table.c.verdict, func.count()).where(*then).group_by(table.c.verdict)).all()
    calm = (table.c.verdict == Verdict.IN_SYNC).asc()
    rows = c.execute(select(table).where(*then).order_by(calm, *_PLACE).limit(limit))
    by_verdict = {Verdict(verdict): number for verdict, number in counted}
    return _graver_first(by_verdict), tuple(_standing(row) for row in rows)


def decided(c: Connection, id: EnvironmentId, number: int) -> DecisionInterval | None:
    """One decision of an environment."""
    row = c.execute(select(decision).where(decision.c.environment == id, decision.c.number == number)).first()
    return None if row is None else _decision(row)


def decided_at(c: Connection, id: EnvironmentId, moment: datetime) -> DecisionInterval | None:
    """The decision that was in force at a moment, if any turn's interval holds it."""
    query = select(decision).where(decision.c.environment == id, decision.c.since <= moment)
    row = c.execute(query.order_by(decision.c.since.desc(), decision.c.number.desc()).limit(1)).first()
    return None if row is None or row.until < moment else _decision(row)


# -- jobs and releases ------------------------------------------------------------------------------------------------


def task_counts(c: Connection, id: JobId) -> dict[int, dict[TaskState, int]]:
    """For each wave, how many of its tasks are in which state."""
    query = select(task.c.wave, task.c.state, func.count()).where(task.c.job == id).group_by(task.c.wave, task.c.state)
    found: dict[int, dict[TaskState, int]] = {}
    for wave, state, number in c.execute(query.order_by(task.c.wave, task.c.state)):
        found.setdefault(wave, {})[TaskState(state)] = number
    return found


def tasks_of(c: Connection, id: JobId, *, after: int = 0, limit: int) -> tuple[TaskRow, ...]:
    """Tasks of a job with numbers above `after`, in their order."""
    columns = [task.c[name] for name in TaskRow.__dataclass_fields__]
    query = select(*columns).where(task.c.job == id, task.c.number > after).order_by(task.c.number).limit(limit)
    return tuple(_task_row(row) for row in c.execute(query))


def unquiet_tasks(c: Connection, id: JobId, *, limit: int) -> tuple[TaskRow, ...]:
    """Tasks that are under way or went wrong: what a person looks for in a large job."""
    columns = [task.c[name] for name in TaskRow.__dataclass_fields__]
    quiet = (TaskState.SUCCEEDED, TaskState.SKIPPED, TaskState.PENDING, TaskState.CANCELLED)
    query = select(*columns).where(task.c.job == id, task.c.state.not_in([state.value for state in quiet]))
    return tuple(_task_row(row) for row in c.execute(query.order_by(task.c.number).limit(limit)))


def lines_of(c: Connection, ids: Sequence[TaskId], *, limit: int) -> dict[TaskId, list[ProgressLine]]:
    """The latest lines of these tasks, oldest first."""
    query = select(progress).where(progress.c.task.in_(ids)).order_by(progress.c.task, progress.c.number.desc())
    found: dict[TaskId, list[ProgressLine]] = {}
    for row in c.execute(query.limit(limit)):
        found.setdefault(TaskId(row.task), []).insert(0, _line(row))
    return found


def _task_row(row: Row[Any]) -> TaskRow:
    fields = dict(row._mapping)
    return TaskRow(**fields | {"state": TaskState(row.state)})


def releases(c: Connection, *, before: str | None = None, limit: int) -> Page[ReleaseRow]:
    """Kept releases, newest first."""
    columns = (release.c.project, release.c.name, release.c.digest, release.c.kept_at)
    order = (release.c.kept_at, release.c.project, release.c.name)
    query = select(*columns).order_by(*(column.desc() for column in order)).limit(limit + 1)
    if before is not None and len(parts := before.split(" ")) == 3:
        query = query.where(tuple_(*order) < (datetime.fromisoformat(parts[0]), parts[1], parts[2]))
    found = [_release(row) for row in c.execute(query)]
    last = found[limit - 1] if len(found) > limit else None
    cursor = f"{last.kept_at.isoformat()} {last.project} {last.name}" if last else None
    return Page(items=tuple(found[:limit]), before=cursor)


def _release(row: Any) -> ReleaseRow:
    return ReleaseRow(project=row.project, name=ReleaseName(row.name), digest=row.digest, kept_at=row.kept_at)


# -- a search ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a word was found in. Each list holds at most as many as were asked for."""

    environments: tuple[EnvironmentId, ...] = ()
    targets: tuple[tuple[TargetId, EnvironmentId], ...] = ()
    components: tuple[tuple[ComponentName, EnvironmentId, int], ...] = ()  # and how many placements of it there are
    releases: tuple[tuple[str, ReleaseName], ...] = ()
    jobs: tuple[JobId, ...] = ()


def search(c: Connection, word: str, ids: Iterable[EnvironmentId], *, limit: int) -> Found:
    """Whatever of these environments has the word in its name. Placements are searched where they are open; jobs and
    releases among the latest."""
    where = table.c.environment.in_(readable := list(ids))
    like = f"%{_literal(word)}%"
    targets = select(table.c.target, table.c.environment).where(_OPEN, where, table.c.target.ilike(like, escape="\\"))
    parts = (
        select(table.c.component, table.c.environment, func.count())
        .where(_OPEN, where, table.c.component.ilike(like, escape="\\"))
        .group_by(table.c.component, table.c.environment)
    )
    named = select(release.c.project, release.c.name).where(release.c.name.ilike(like, escape="\\"))
    worked = select(job.c.id).where(job.c.environment.in_(readable), job.c.id.ilike(like, escape="\\"))
    return Found(
        environments=tuple(id for id in readable if word.lower() in id.lower())[:limit],
        targets=tuple(
            (TargetId(target), EnvironmentId(id))
            for target, id in c.execute(targets.distinct().order_by(table.c.target).limit(limit))
        ),
        components=tuple(
            (ComponentName(name), EnvironmentId(id), number)
            for name, id, number in c.execute(parts.order_by(table.c.component, table.c.environment).limit(limit))
        ),
        releases=tuple(
            (project, ReleaseName(name)) for project, name in c.execute(named.order_by(release.c.name).limit(limit))
        ),
        jobs=tuple(JobId(id) for id in c.execute(worked.order_by(job.c.created_at.desc()).limit(limit)).scalars()),
    )


def _literal(word: str) -> str:
    return word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


# -- whether anything has changed -------------------------------------------------------------------------------------


def pulse(c: Connection) -> str:
    """A text that changes when anything that a page of many environments shows does. Each part is one step in an
    index."""
    newest = select(func.coalesce(func.max(table.c.number), 0)).scalar_subquery()
    decided = select(func.max(decision.c.number)).where(decision.c.environment == environment.c.id).scalar_subquery()
    rows = c.execute(
        select(
            *(environment.c.id, environment.c.generation, environment.c.suspended_at, environment.c.undeclared_at),
            *(environment.c.jobs, environment.c.conditions, decided),
        )
    ).all()
    active = c.execute(select(job.c.id, job.c.version).where(job.c.state.in_(_active())).order_by(job.c.id)).all()
    return _token(c.execute(select(newest)).scalar(), *(tuple(row) for row in (*rows, *active)))


def pulse_of(c: Connection, id: EnvironmentId) -> str:
    """The same for one environment; every turn is a change, since the page says when it was looked at."""
    newest = select(func.max(table.c.number)).where(table.c.environment == id).scalar_subquery()
    decided = select(decision.c.number, decision.c.turns).where(decision.c.environment == id)
    last = c.execute(decided.order_by(decision.c.number.desc()).limit(1)).first()
    row = c.execute(select(environment, newest).where(environment.c.id == id)).first()
    active = c.execute(select(job.c.id, job.c.version).where(job.c.environment == id, job.c.state.in_(_active())))
    return _token(*map(tuple, (row or (), last or (), *active)))


def pulse_of_job(c: Connection, id: JobId) -> str:
    """The same for one job: whatever its tasks do and report is told in the chronicle, in the same transaction."""
    row = c.execute(select(job.c.version, job.c.wish).where(job.c.id == id)).first()
    return _token(tuple(row or ()), chronicle.last_of(c, id))


def _active() -> list[str]:
    return sorted(state.value for state in JOB_ACTIVE)


def _token(*parts: object) -> str:
    return blake2b(repr(parts).encode(errors="replace"), digest_size=12).hexdigest()
