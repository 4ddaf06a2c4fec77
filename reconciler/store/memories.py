"""What is remembered of placements and targets: last good, sequences, refusals, failed heals, open circuits.

A sequence only rises and is never forgotten, whatever else is: an old sticker must not become young again.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, Table, and_, bindparam, case, delete, select, update
from sqlalchemy.dialects.sqlite import Insert

from desired_state.model import Suspension, Target
from reconciler.core.known import NOTHING_REMEMBERED, Known, Memory
from reconciler.core.machine import JOB_ACTIVE
from reconciler.store import audit, contents, environments, leases
from reconciler.store.contents import Kind
from reconciler.store.records import Circuit, EnvironmentRow, Good, HandSuspension, Lease, Refusal, Refused
from reconciler.store.statements import insert, insert_all, inserting
from reconciler.store.tables import circuit as circuit_table
from reconciler.store.tables import environment as environment_table
from reconciler.store.tables import job, known_target, last_good, task
from reconciler.store.tables import memory as table
from reconciler.store.tables import refused as refused_table
from stickers.names import (
    ComponentName,
    Digest,
    EnvironmentId,
    JobId,
    PlacementId,
    ReleaseName,
    SlotName,
    TargetId,
)

LISTED: Final = 100  # trials that an audit entry names; it says how many there were
_PLACEMENT: Final = ("environment", "target", "component", "slot")


def known(c: Connection, environment: EnvironmentId, now: datetime) -> Known:
    """Everything that a diff and a plan need to remember, as of one moment. Suspensions and circuits that have ended
    are left out. Memories are the very same objects as long as nothing was written to them."""
    row = environments.load(c, environment)
    return Known() if row is None else known_of(c, row, now)


def known_of(c: Connection, row: EnvironmentRow, now: datetime, *, at_work: bool = True) -> Known:
    """The same for whoever has just read the row, and may know that no job is at work there."""
    remembered = _remembered(c, row)
    return Known(
        memories=remembered.memories,
        refused=_refused_reasons(c, row.id),
        circuits=_open_circuits(c, row.id, now),
        active_keys=_active_keys(c, row.id) if at_work else frozenset(),
        suspended=in_force(row.suspended, now),
        targets=remembered.targets,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What an action taught: the sequences seen or written, what stands in health by which evidence, and how often
    what was healed has been."""

    sequences: Mapping[PlacementId, int] = field(default_factory=dict)
    goods: Sequence[Good] = ()
    heals: Mapping[PlacementId, Memory] = field(default_factory=dict)


def learn(c: Connection, environment: EnvironmentId, learnt: Learnt, lease: Lease, now: datetime) -> None:
    """Remember all of it: the higher of two sequences; what is good as `good` does; heals as they were counted."""
    for each in learnt.goods:
        leases.covers(lease, each.placement.environment)
    if not (learnt.sequences or learnt.goods or learnt.heals):
        return
    _begin(c, environment, lease)
    highest = dict(learnt.sequences)
    for each in learnt.goods:
        highest[each.placement.id] = max(each.sequence, highest.get(each.placement.id, 0))
    _raise(c, environment, highest)
    _keep_goods(c, environment, learnt.goods, now)
    _keep_heals(c, environment, learnt.heals)


def raise_sequences(c: Connection, environment: EnvironmentId, seen: Mapping[PlacementId, int], lease: Lease) -> None:
    """Remember the higher of what is remembered and what was seen or written; where the memories are at hand and that
    is the former everywhere, nothing is written."""
    at_hand = _at_hand(c, environment)
    memories = at_hand.memories if at_hand else {}
    higher = {id: sequence for id, sequence in seen.items() if sequence > memories.get(id, NOTHING_REMEMBERED).sequence}
    if higher:
        _begin(c, environment, lease)
        _raise(c, environment, higher)


def good(c: Connection, goods: Sequence[Good], lease: Lease, now: datetime) -> None:
    """These placements stand in health, as the evidence proves: what a rollback and a heal return to. How often they
    were healed stays: only what holds forgets that. The target can be looked at for good, declared or not."""
    learn(c, lease.environment, Learnt(goods=goods), lease, now)


def step_back(
    c: Connection, environment: EnvironmentId, ids: Iterable[PlacementId], lease: Lease, now: datetime
) -> None:
    """What was last good there is given up, as when its release is rolled back: the one before it is last good again,
    by its own evidence; where none is remembered, nothing is."""
    _begin(c, environment, lease)
    for id in ids:
        here = _at(last_good, environment, id)
        earlier = {"content": last_good.c.before, "evidence": last_good.c.before_evidence, "since": now}
        stepped = update(last_good).where(here, last_good.c.before.is_not(None))
        row = c.execute(
            stepped.values(**earlier, before=None, before_evidence=None).returning(last_good.c.target)
        ).first()
        if row is None:
            c.execute(delete(last_good).where(here))


def refuse(c: Connection, refusal: Refusal, lease: Lease, now: datetime) -> None:
    """Remember a trial that failed its proof, until a person lifts it or what is declared changes."""
    placement = refusal.placement
    leases.hold(c, lease, placement.environment)
    where = {"target": placement.id.target, "component": placement.id.component, "slot": placement.id.slot}
    told = {"release": placement.release, "reason": refusal.reason, "job": refusal.job, "at": now}
    offered = insert(c, refused_table).values(environment=placement.environment, trial=placement.trial, **where, **told)
    anew = {**where, **told, "lifted_at": None, "lifted_by": None}
    c.execute(offered.on_conflict_do_update(index_elements=["environment", "trial"], set_=anew))


def refused(c: Connection, environment: EnvironmentId) -> tuple[Refused, ...]:
    """What is refused in the environment today."""
    query = select(refused_table).where(_unlifted(environment)).order_by(refused_table.c.at, refused_table.c.trial)
    return tuple(_refused(row) for row in c.execute(query))


def lift(c: Connection, environment: EnvironmentId, actor: str, now: datetime) -> int:
    """A person lets everything that was refused be tried again; how many trials that were."""
    lifted = update(refused_table).where(_unlifted(environment)).values(lifted_at=now, lifted_by=actor)
    trials = sorted(c.execute(lifted.returning(refused_table.c.trial)).scalars())
    if trials:
        said = {"number": len(trials), "trials": trials[:LISTED]}
        audit.append(
            c, environment=environment, actor=actor, action="refused.lifted", subject=environment, detail=said, now=now
        )
    return len(trials)


def heals(c: Connection, environment: EnvironmentId, after: Mapping[PlacementId, Memory], lease: Lease) -> None:
    """The attempts of these placements and when the next may be made, as `core.retry` counted them. Nothing else of a
    memory is written here."""
    if after:
        _begin(c, environment, lease)
        _keep_heals(c, environment, after)


def circuit(c: Connection, environment: EnvironmentId, state: Circuit, lease: Lease) -> None:
    """How often the target has failed in a row; no failures close its circuit."""
    if not state.failures:
        c.execute(_CLOSED, {"target_is": state.target, **leases.bound(lease, environment)})
        return
    leases.hold(c, lease, environment)
    key = {"environment": environment, "target": state.target}
    values = {"failures": state.failures, "open_until": state.open_until}
    offered = insert(c, circuit_table).values(**key, **values)
    c.execute(offered.on_conflict_do_update(index_elements=list(key), set_=values))


def circuits(c: Connection, environment: EnvironmentId) -> dict[TargetId, Circuit]:
    """The targets that have failed since they last succeeded."""
    query = select(circuit_table).where(circuit_table.c.environment == environment)
    return {
        TargetId(row.target): Circuit(target=TargetId(row.target), failures=row.failures, open_until=row.open_until)
        for row in c.execute(query)
    }


def forget(c: Connection, environment: EnvironmentId, id: PlacementId, lease: Lease) -> None:
    """After a removal: nothing was ever good there. The sequence stays, and the target stays known while another
    placement of it has a last good."""
    _begin(c, environment, lease)
    c.execute(delete(last_good).where(_at(last_good, environment, id)))
    c.execute(update(table).where(_at(table, environment, id)).values(attempts=0, not_before=None))
    others = select(last_good.c.target).where(last_good.c.environment == environment, last_good.c.target == id.target)
    idle = (known_target.c.environment == environment, known_target.c.target == id.target, ~others.exists())
    c.execute(delete(known_target).where(*idle))


@dataclass(frozen=True, slots=True)
class _Remembered:
    """The memories of one environment under the stamp of their last change."""

    stamp: str
    memories: dict[PlacementId, Memory]
    targets: dict[TargetId, Target]


# Every change draws a new stamp, so what was read under a stamp stays true: also for another store, or an older copy.
_latest: Final[dict[EnvironmentId, _Remembered]] = {}


def _remembered(c: Connection, row: EnvironmentRow) -> _Remembered:
    """Read anew only where something was written since: a turn over thousands of placements asks every time."""
    found = _latest.get(row.id)
    if found is None or found.stamp != row.memories:
        targets = {target.id: target for target in environments.known_targets(c, row.id)}
        found = _latest[row.id] = _Remembered(row.memories, _memories(c, row.id), targets)
    return found


def _at_hand(c: Connection, environment: EnvironmentId) -> _Remembered | None:
    found = _latest.get(environment)
    return found if found is not None and found.stamp == _stamp(c, environment) else None


def _stamp(c: Connection, environment: EnvironmentId) -> str:
    return c.execute(_STAMP, {"id_is": environment}).scalar() or ""


def _begin(c: Connection, environment: EnvironmentId, lease: Lease) -> None:
    """Before any write to the memories of an environment."""
    leases.hold(c, lease, environment)
    c.execute(_STAMPED, {"id_is": environment, "stamp": secrets.token_hex(8)})


def _memories(c: Connection, environment: EnvironmentId) -> dict[PlacementId, Memory]:
    together = and_(*(table.c[name] == last_good.c[name] for name in _PLACEMENT))
    query = (
        select(
            *(table.c.target, table.c.component, table.c.slot),
            *(table.c.sequence, table.c.attempts, table.c.not_before, last_good.c.content),
        )
        .select_from(table.outerjoin(last_good, together))
        .where(table.c.environment == environment)
    )
    rows = c.execute(query).all()
    goods = contents.load_all(c, Kind.PLACEMENT, [Digest(row.content) for row in rows if row.content is not None])
    return {
        PlacementId(TargetId(target), ComponentName(component), SlotName(slot)): Memory(
            last_good=goods.get(content), sequence=sequence, attempts=attempts, not_before=not_before
        )
        for target, component, slot, sequence, attempts, not_before, content in rows
    }


def _refused_reasons(c: Connection, environment: EnvironmentId) -> dict[Digest, str]:
    return {Digest(trial): reason for trial, reason in c.execute(_REFUSED, {"environment_is": environment})}


def _open_circuits(c: Connection, environment: EnvironmentId, now: datetime) -> dict[TargetId, datetime]:
    rows = c.execute(_OPEN, {"environment_is": environment, "moment": now})
    return {TargetId(target): until for target, until in rows}


def _active_keys(c: Connection, environment: EnvironmentId) -> frozenset[str]:
    return frozenset(c.execute(_KEYS, {"environment_is": environment}).scalars())


def in_force(suspended: HandSuspension | None, now: datetime) -> Suspension | None:
    """The suspension by hand, unless it has ended."""
    if suspended is None or (suspended.until is not None and suspended.until <= now):
        return None
    return Suspension(reason=suspended.reason, until=suspended.until)


def _raise(c: Connection, environment: EnvironmentId, sequences: Mapping[PlacementId, int]) -> None:
    rows = [_key(environment, id) | {"sequence": sequence} for id, sequence in sequences.items()]
    insert_all(c, _raised(c.dialect.name), rows)


def _keep_goods(c: Connection, environment: EnvironmentId, goods: Sequence[Good], now: datetime) -> None:
    placements = contents.keep(c, Kind.PLACEMENT, [each.placement for each in goods], now)
    targets = contents.keep(c, Kind.TARGET, [each.target for each in goods], now)
    if goods:
        c.execute(_good(c.dialect.name), [
            _key(environment, each.placement.id) | {"content": content, "evidence": each.evidence, "since": now}
            for each, content in zip(goods, placements, strict=True)
        ])  # fmt: skip
        insert_all(c, _upsert(c.dialect.name, known_target, ("content", "known_at")), [
            {"environment": environment, "target": id, "content": content, "known_at": now}
            for id, content in {each.target.id: content for each, content in zip(goods, targets, strict=True)}.items()
        ])  # fmt: skip


def _keep_heals(c: Connection, environment: EnvironmentId, heals: Mapping[PlacementId, Memory]) -> None:
    insert_all(c, _upsert(c.dialect.name, table, ("attempts", "not_before")), [
        _key(environment, id) | {"attempts": memory.attempts, "not_before": memory.not_before}
        for id, memory in heals.items()
    ])  # fmt: skip


# -- statements that are built once: building one takes longer than carrying it out -----------------------------------

_STAMP: Final = select(environment_table.c.memories).where(environment_table.c.id == bindparam("id_is"))
_STAMPED: Final = (
    update(environment_table).where(environment_table.c.id == bindparam("id_is")).values(memories=bindparam("stamp"))
)
_REFUSED: Final = (
    select(refused_table.c.trial, refused_table.c.reason)
    .where(refused_table.c.environment == bindparam("environment_is"), refused_table.c.lifted_at.is_(None))
    .order_by(refused_table.c.trial)
)
_OPEN: Final = (
    select(circuit_table.c.target, circuit_table.c.open_until)
    .where(circuit_table.c.environment == bindparam("environment_is"), circuit_table.c.open_until > bindparam("moment"))
    .order_by(circuit_table.c.target)
)
_KEYS: Final = (
    select(task.c.key)
    .join(job)
    .where(
        job.c.environment == bindparam("environment_is"), job.c.state.in_(sorted(state.value for state in JOB_ACTIVE))
    )
)
_CLOSED: Final = delete(circuit_table).where(
    circuit_table.c.environment == bindparam("lease_environment"),
    circuit_table.c.target == bindparam("target_is"),
    leases.FENCE,
)


@cache
def _raised(dialect: str) -> Insert:
    offered = inserting(dialect, table)
    return offered.on_conflict_do_update(
        index_elements=_PLACEMENT,
        set_={"sequence": offered.excluded.sequence},
        where=offered.excluded.sequence > table.c.sequence,
    )


@cache
def _good(dialect: str) -> Insert:
    """Another content pushes the one that was there into `before`."""
    offered, was = inserting(dialect, last_good), last_good.c
    other = was.content != offered.excluded.content
    kept = {
        "before": case((other, was.content), else_=was.before),
        "before_evidence": case((other, was.evidence), else_=was.before_evidence),
    }
    fresh = {name: offered.excluded[name] for name in ("content", "evidence", "since")}
    return offered.on_conflict_do_update(index_elements=_PLACEMENT, set_=fresh | kept)


@cache
def _upsert(dialect: str, into: Table, columns: tuple[str, ...]) -> Insert:
    offered = inserting(dialect, into)
    keys = [column.name for column in into.primary_key]
    return offered.on_conflict_do_update(index_elements=keys, set_={name: offered.excluded[name] for name in columns})


# -- rows -------------------------------------------------------------------------------------------------------------


def _key(environment: EnvironmentId, id: PlacementId) -> dict[str, object]:
    return {"environment": environment, "target": id.target, "component": id.component, "slot": id.slot}


def _at(table: Any, environment: EnvironmentId, id: PlacementId) -> ColumnElement[bool]:
    return and_(*(table.c[name] == value for name, value in _key(environment, id).items()))


def _unlifted(environment: EnvironmentId) -> ColumnElement[bool]:
    return and_(refused_table.c.environment == environment, refused_table.c.lifted_at.is_(None))


def _refused(row: Row[Any]) -> Refused:
    return Refused(
        environment=EnvironmentId(row.environment),
        trial=Digest(row.trial),
        id=PlacementId(TargetId(row.target), ComponentName(row.component), SlotName(row.slot)),
        release=ReleaseName(row.release),
        reason=row.reason,
        job=JobId(row.job),
        at=row.at,
        lifted_at=row.lifted_at,
        lifted_by=row.lifted_by,
    )
