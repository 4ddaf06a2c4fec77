"""Environments: what was accepted for each, who suspended it, and what its conditions are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, select, update

from desired_state.model import DesiredState, Target
from reconciler.core.conditions import Condition
from reconciler.store import audit, chronicle, contents, leases
from reconciler.store.contents import Kind
from reconciler.store.errors import Missing
from reconciler.store.records import Accepted, EnvironmentRow, HandSuspension, Lease
from reconciler.store.statements import insert
from reconciler.store.tables import environment as table
from reconciler.store.tables import known_target
from stickers.names import Digest, EnvironmentId, ReleaseName

_ONE: Final = select(table).where(table.c.id == bindparam("id_is"))  # built once: building it takes longer than asking
_RESUMED: Final = {"suspended_reason": None, "suspended_by": None, "suspended_at": None, "suspended_until": None}


def accept(
    c: Connection, desired: DesiredState, *, now: datetime, source: str = "", actor: str = audit.HOLDFAST
) -> Accepted:
    """The desired state is in force from now on, and the source owns the environment. One that means the same as the
    last raises no generation and keeps the revision that brought it; to be declared again ends `undeclared`. `actor` is
    who handed it in, if a person did."""
    row = load(c, desired.environment.id)
    if row is not None and row.desired == desired.digest:
        _confirm(c, row, source)
        return Accepted(generation=row.generation, changed=False)
    generation = 1 if row is None else row.generation + 1
    [content] = contents.keep(c, Kind.DESIRED_STATE, [desired], now)
    values = {
        "generation": generation,
        "meaning": desired.digest,
        "desired": content,
        "release": desired.environment.release,
        "revision": desired.revision,
        "accepted_at": now,
        "undeclared_at": None,
        "source": source,
    }
    offered = insert(c, table).values(id=desired.environment.id, **values)
    c.execute(offered.on_conflict_do_update(index_elements=["id"], set_=values))
    heard = {"release": desired.environment.release, "revision": desired.revision, "desired": desired.digest}
    _audited(c, desired.environment.id, actor, "documents.accepted", {"generation": generation, **heard}, now)
    said = {"generation": generation, "release": desired.environment.release, "revision": desired.revision}
    chronicle.tell(c, desired.environment.id, chronicle.Kind.DESIRED, now, said)
    return Accepted(generation=generation, changed=True)


def load(c: Connection, id: EnvironmentId) -> EnvironmentRow | None:
    row = c.execute(_ONE, {"id_is": id}).first()
    return None if row is None else _environment(row)


def load_declared(c: Connection, id: EnvironmentId) -> tuple[EnvironmentRow, DesiredState] | None:
    """The environment beside what is in force there."""
    row = c.execute(_ONE, {"id_is": id}).first()
    return None if row is None else (_environment(row), contents.load(c, Kind.DESIRED_STATE, Digest(row.desired)))


def all(c: Connection) -> tuple[EnvironmentRow, ...]:
    """Every environment there ever was, by id; the undeclared are among them."""
    return tuple(_environment(row) for row in c.execute(select(table).order_by(table.c.id)))


def desired(c: Connection, id: EnvironmentId) -> DesiredState | None:
    """What is in force, with the revision that it was accepted from."""
    name = c.execute(select(table.c.desired).where(table.c.id == id)).scalar()
    return None if name is None else contents.load(c, Kind.DESIRED_STATE, Digest(name))


def mark_undeclared(c: Connection, ids: Iterable[EnvironmentId], now: datetime) -> None:
    """The documents name them no more. What was accepted stays in force."""
    declared = update(table).where(table.c.id.in_(list(ids)), table.c.undeclared_at.is_(None))
    for id in sorted(c.execute(declared.values(undeclared_at=now).returning(table.c.id)).scalars()):
        _audited(c, EnvironmentId(id), audit.HOLDFAST, "environment.undeclared", {}, now)


def suspend(c: Connection, id: EnvironmentId, suspension: HandSuspension) -> None:
    _written(c, id, {
        "suspended_reason": suspension.reason,
        "suspended_by": suspension.actor,
        "suspended_at": suspension.since,
        "suspended_until": suspension.until,
    })  # fmt: skip
    heard = {"reason": suspension.reason, "until": suspension.until}
    _audited(c, id, suspension.actor, "environment.suspended", heard, suspension.since)
    until = suspension.until.isoformat() if suspension.until else None
    said = {"by": suspension.actor, "reason": suspension.reason, "until": until}
    chronicle.tell(c, id, chronicle.Kind.SUSPENSION, suspension.since, said)


def resume(c: Connection, id: EnvironmentId, actor: str, now: datetime) -> None:
    """Ends a suspension by hand; one that the documents declare is ended there."""
    row = load(c, id)
    _written(c, id, _RESUMED)
    if row is not None and row.suspended is not None:
        _audited(c, id, actor, "environment.resumed", {"suspended_by": row.suspended.actor}, now)
    chronicle.tell(c, id, chronicle.Kind.SUSPENSION, now, {"by": actor, "reason": None, "until": None})


def set_conditions(c: Connection, id: EnvironmentId, conditions: Sequence[Condition], lease: Lease) -> None:
    """Writes when they differ from what is kept, and nothing otherwise."""
    body = contents.dump(tuple[Condition, ...], tuple(conditions))
    kept = c.execute(select(table.c.conditions).where(table.c.id == id)).scalar()
    if kept != body:
        _written(c, id, {"conditions": body}, lease)


def attempted(c: Connection, id: EnvironmentId, release: ReleaseName, lease: Lease) -> None:
    """A job began to bring the release."""
    _written(c, id, {"last_attempted": release}, lease)


def applied(c: Connection, id: EnvironmentId, release: ReleaseName, lease: Lease) -> None:
    """Every placement of the environment stood in health with the release."""
    _written(c, id, {"last_applied": release}, lease)


def known_targets(c: Connection, id: EnvironmentId) -> tuple[Target, ...]:
    """Every target that ever had a last good in the environment, as it was reached then."""
    names = c.execute(
        select(known_target.c.content).where(known_target.c.environment == id).order_by(known_target.c.target)
    ).scalars()
    digests = [Digest(name) for name in names]
    found = contents.load_all(c, Kind.TARGET, digests)
    return tuple(found[name] for name in digests)


def _confirm(c: Connection, row: EnvironmentRow, source: str) -> None:
    if row.source != source or row.undeclared_at is not None:
        _written(c, row.id, {"source": source, "undeclared_at": None})


def _audited(
    c: Connection, id: EnvironmentId, actor: str, action: str, detail: Mapping[str, object], now: datetime
) -> None:
    audit.append(c, environment=id, actor=actor, action=action, subject=id, detail=detail, now=now)


def _written(c: Connection, id: EnvironmentId, values: dict[str, Any], lease: Lease | None = None) -> None:
    statement = update(table).where(table.c.id == id)
    if lease is not None:
        statement = statement.where(leases.fence(lease, id))
    if c.execute(statement.values(values).returning(table.c.id)).first() is None:
        raise leases.refusal(c, lease, Missing(f"no environment {id} is known"))


def _environment(row: Row[Any]) -> EnvironmentRow:
    return EnvironmentRow(
        id=EnvironmentId(row.id),
        generation=row.generation,
        desired=Digest(row.meaning),
        release=ReleaseName(row.release),
        revision=row.revision,
        accepted_at=row.accepted_at,
        undeclared_at=row.undeclared_at,
        suspended=_suspension(row),
        conditions=contents.read(tuple[Condition, ...], row.conditions),
        last_attempted=row.last_attempted,
        last_applied=row.last_applied,
        memories=row.memories or "",
        source=row.source,
    )


def _suspension(row: Row[Any]) -> HandSuspension | None:
    if row.suspended_reason is None:
        return None
    return HandSuspension(
        reason=row.suspended_reason, actor=row.suspended_by, since=row.suspended_at, until=row.suspended_until
    )
