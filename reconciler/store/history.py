"""History as intervals: what every turn decided, and how every placement stood, from when to when.

A turn that decides the same extends the last interval; a placement that stands the same writes nothing. So history is
small, complete, and can be asked how things stood at any moment.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Executable, Row, and_, bindparam, case, func, or_, select, update

from desired_state.model import Placement
from reconciler.core.drift import Drift, Trust, Verdict
from reconciler.store import chronicle, contents, leases
from reconciler.store.columns import canonical
from reconciler.store.records import Decision, DecisionInterval, Lease, Page, Snapshot, StandingInterval
from reconciler.store.statements import append_all, insert
from reconciler.store.tables import decision as decisions
from reconciler.store.tables import standing as table
from stickers import digest
from stickers.names import ComponentName, Digest, EnvironmentId, PlacementId, SlotName, TargetId
from stickers.observation import Standing, Unmanaged
from stickers.sticker import Sticker

PAGE: Final = 50

_CHUNK: Final = 1_000
_HERE: Final = decisions.c.environment == bindparam("environment_is")
_SHOWN: Final = 20  # placements that an event names
_TIMES: Final = {"workload": {"health": {"checked_at"}}}
_TIMES_AND_ENVELOPE: Final = _TIMES | {"worn": {"envelope"}}


def _extending(fence: ColumnElement[bool]) -> Executable:
    """What every turn writes."""
    last = select(func.max(decisions.c.number)).where(_HERE).scalar_subquery()
    return (
        update(decisions)
        .where(_HERE, decisions.c.number == last, decisions.c.digest == bindparam("digest_is"), fence)
        .values(
            until=case((decisions.c.until > bindparam("moment"), decisions.c.until), else_=bindparam("moment")),
            turns=decisions.c.turns + 1,
            again_at=bindparam("again"),
        )
        .returning(decisions.c.number)
    )


_EXTENDED: Final = _extending(leases.FENCE)  # built once, since building it takes longer than carrying it out


def decide(c: Connection, environment: EnvironmentId, decision: Decision, lease: Lease, now: datetime) -> None:
    """One statement when the decision is the last one again; else a new interval begins. A clock that was set back
    shortens no interval."""
    same = {"environment_is": environment, "digest_is": decision.digest, **leases.bound(lease, environment)}
    if c.execute(_EXTENDED, same | {"moment": now, "again": decision.again_at}).first() is None:
        leases.hold(c, lease, environment)
        _begin(c, environment, decision, now)


def standings(
    c: Connection, environment: EnvironmentId, changed: Sequence[Drift], gone: Iterable[PlacementId], lease: Lease,
    now: datetime,
) -> int:  # fmt: skip
    """Close the intervals of placements that stand otherwise now or are gone, and open the new ones; how many were
    opened. `changed` may hold placements that stand as before (all of them, after a start): they write nothing."""
    leases.hold(c, lease, environment)
    opened = _open(c, environment, [drift.id for drift in changed])
    rows = {drift.id: _row(environment, drift, now) for drift in changed}
    fresh = [row for id, row in rows.items() if id not in opened or opened[id][1] != row["digest"]]
    over = [opened[id][0] for id, row in rows.items() if id in opened and opened[id][1] != row["digest"]]
    over += [number for number, _ in _open(c, environment, list(gone)).values()]
    for part in _parts(over):
        c.execute(update(table).where(table.c.number.in_(part)).values(until=now))
    append_all(c, table, fresh)
    if fresh or over:
        chronicle.tell(c, environment, chronicle.Kind.VERDICTS, now, _told(fresh, len(over)))
    return len(fresh)


def _told(fresh: Sequence[Mapping[str, Any]], over: int) -> dict[str, Any]:
    """How many placements stand otherwise and since when they do, with the first of them by name."""
    first = [[row["target"], row["component"], row["slot"], row["verdict"]] for row in fresh[:_SHOWN]]
    return {"opened": len(fresh), "closed": over, "placements": first}


def standing_now(c: Connection, environment: EnvironmentId) -> tuple[StandingInterval, ...]:
    """How every placement of the environment stands."""
    query = select(table).where(table.c.environment == environment, table.c.until.is_(None))
    return tuple(_standing(row) for row in c.execute(query.order_by(table.c.target, table.c.component, table.c.slot)))


def standing_of(c: Connection, environment: EnvironmentId, targets: Sequence[TargetId]) -> tuple[StandingInterval, ...]:
    """How the placements of these targets stand."""
    query = select(table).where(
        table.c.environment == environment, table.c.until.is_(None), table.c.target.in_(targets)
    )
    return tuple(_standing(row) for row in c.execute(query.order_by(table.c.target, table.c.component, table.c.slot)))


def counts_now(c: Connection, environment: EnvironmentId | None = None) -> dict[EnvironmentId, dict[str, int]]:
    """How many placements stand how, by environment."""
    query = select(table.c.environment, table.c.verdict, func.count()).where(table.c.until.is_(None))
    if environment is not None:
        query = query.where(table.c.environment == environment)
    found: dict[EnvironmentId, dict[str, int]] = {}
    for name, verdict, count in c.execute(query.group_by(table.c.environment, table.c.verdict)):
        found.setdefault(EnvironmentId(name), {})[verdict] = count
    return found


def components_now(c: Connection, environment: EnvironmentId) -> dict[str, dict[str, int]]:
    """How many placements stand how, by component."""
    query = select(table.c.component, table.c.verdict, func.count()).where(
        table.c.environment == environment, table.c.until.is_(None)
    )
    found: dict[str, dict[str, int]] = {}
    for name, verdict, count in c.execute(query.group_by(table.c.component, table.c.verdict)):
        found.setdefault(name, {})[verdict] = count
    return found


def standing_ids(c: Connection, environment: EnvironmentId) -> frozenset[PlacementId]:
    """Whose intervals are open."""
    query = select(table.c.target, table.c.component, table.c.slot).where(
        table.c.environment == environment, table.c.until.is_(None)
    )
    return frozenset(
        PlacementId(TargetId(target), ComponentName(component), SlotName(slot))
        for target, component, slot in c.execute(query)
    )


def last_decision(c: Connection, environment: EnvironmentId) -> DecisionInterval | None:
    query = select(decisions).where(decisions.c.environment == environment).order_by(decisions.c.number.desc())
    row = c.execute(query.limit(1)).first()
    return None if row is None else _decision(row)


def page(
    c: Connection, environment: EnvironmentId, *, before: str | None = None, limit: int = PAGE
) -> Page[DecisionInterval]:
    """The decisions of an environment, newest first."""
    query = select(decisions).where(decisions.c.environment == environment)
    if before is not None:
        query = query.where(decisions.c.number < int(before))
    found = [_decision(row) for row in c.execute(query.order_by(decisions.c.number.desc()).limit(limit + 1))]
    more = len(found) > limit
    return Page(items=tuple(found[:limit]), before=str(found[limit - 1].number) if more else None)


def page_of_target(
    c: Connection, target: TargetId, *, before: str | None = None, limit: int = PAGE
) -> Page[StandingInterval]:
    """How the placements of a target stood, newest first."""
    return _page(c, table.c.target == target, before, limit)


def page_of_standings(
    c: Connection, environment: EnvironmentId, *, before: str | None = None, limit: int = PAGE
) -> Page[StandingInterval]:
    """How the placements of an environment stood, newest first."""
    return _page(c, table.c.environment == environment, before, limit)


def why(c: Connection, target: TargetId) -> tuple[StandingInterval, ...]:
    """How the placements of a target stand, and since when."""
    query = select(table).where(table.c.target == target, table.c.until.is_(None))
    return tuple(_standing(row) for row in c.execute(query.order_by(table.c.component, table.c.slot)))


def at(c: Connection, environment: EnvironmentId, moment: datetime) -> Snapshot:
    """How the environment was known to stand at a moment: `since` <= moment < `until`."""
    then = and_(table.c.since <= moment, or_(table.c.until.is_(None), table.c.until > moment))
    query = select(table).where(table.c.environment == environment, then)
    rows = c.execute(query.order_by(table.c.target, table.c.component, table.c.slot))
    decided = (
        select(decisions)
        .where(decisions.c.environment == environment, decisions.c.since <= moment)
        .order_by(decisions.c.since.desc(), decisions.c.number.desc())
        .limit(1)
    )
    found = c.execute(decided).first()
    held = found is not None and found.until >= moment
    return Snapshot(
        environment=environment,
        moment=moment,
        decision=_decision(found) if found is not None and held else None,
        standings=tuple(_standing(row) for row in rows),
    )


def _begin(c: Connection, environment: EnvironmentId, decision: Decision, now: datetime) -> None:
    number = select(func.coalesce(func.max(decisions.c.number), 0) + 1).where(decisions.c.environment == environment)
    values = {
        "environment": environment,
        "number": number.scalar_subquery(),
        "since": now,
        "until": now,
        "turns": 1,
        "digest": decision.digest,
        "rule": decision.rule,
        "content": dict(decision.content),
        "again_at": decision.again_at,
    }
    c.execute(insert(c, decisions).values(values))


def _open(c: Connection, environment: EnvironmentId, ids: Sequence[PlacementId]) -> dict[PlacementId, tuple[int, str]]:
    """The open intervals of these placements: number and digest."""
    if not ids:
        return {}
    query = select(table.c.target, table.c.component, table.c.slot, table.c.number, table.c.digest).where(
        table.c.environment == environment, table.c.until.is_(None)
    )
    targets = sorted({id.target for id in ids})
    if len(targets) <= _CHUNK:  # else all of the environment's are fewer statements
        query = query.where(table.c.target.in_(targets))
    wanted = set(ids)
    rows = c.execute(query)
    found = {
        PlacementId(TargetId(target), ComponentName(component), SlotName(slot)): (number, name)
        for target, component, slot, number, name in rows
    }
    return {id: where for id, where in found.items() if id in wanted}


def _row(environment: EnvironmentId, drift: Drift, now: datetime) -> dict[str, object]:
    body = _body(drift)
    told = (drift.verdict.value, drift.trust.value, drift.rule, drift.reason, str(int(drift.heal)))
    return {
        "environment": environment,
        "target": drift.id.target,
        "component": drift.id.component,
        "slot": drift.id.slot,
        "since": now,
        "verdict": told[0],
        "trust": told[1],
        "rule": drift.rule,
        "reason": drift.reason,
        "heal": int(drift.heal),
        "content": body,
        "digest": digest.of_bytes("\n".join((*told, body)).encode(errors="replace")),
    }


def _body(drift: Drift) -> str:
    """The particulars as JSON, put together by hand: most of a turn that changes everything is spent here."""
    wanted = _side(drift.wanted)
    declared = wanted if drift.declared is drift.wanted else _side(drift.declared)
    standing = "null" if drift.standing is None else contents.text(Standing, drift.standing, _unstable(drift))
    sticker = "null" if drift.sticker is None else contents.text(Sticker, drift.sticker)
    unmanaged = "null" if drift.unmanaged is None else contents.text(Unmanaged, drift.unmanaged)
    differences = canonical(list(drift.differences)) if drift.differences else "[]"
    return (
        f'{{"declared":{declared},"differences":{differences},"standing":{standing},"sticker":{sticker},'
        f'"unmanaged":{unmanaged},"wanted":{wanted}}}'
    )


def _side(placement: Placement | None) -> str:
    if placement is None:
        return "null"
    artifact, configuration = placement.content
    running = "true" if placement.running else "false"
    return (
        f'{{"artifact":"{artifact}","configuration":"{configuration}","release":"{placement.release}",'
        f'"running":{running}}}'
    )


def _unstable(drift: Drift) -> Mapping[str, Any]:
    """When health was asked is no part of how a placement stands; the envelope says nothing that its sticker does
    not, where it could be read."""
    return _TIMES if drift.sticker is None else _TIMES_AND_ENVELOPE


def _parts(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    return (numbers[start : start + _CHUNK] for start in range(0, len(numbers), _CHUNK))


def _page(c: Connection, whose: ColumnElement[bool], before: str | None, limit: int) -> Page[StandingInterval]:
    query = select(table).where(whose)
    if before is not None:
        query = query.where(table.c.number < int(before))
    found = [_standing(row) for row in c.execute(query.order_by(table.c.number.desc()).limit(limit + 1))]
    more = len(found) > limit
    return Page(items=tuple(found[:limit]), before=str(found[limit - 1].number) if more else None)


def _decision(row: Row[Any]) -> DecisionInterval:
    return DecisionInterval(
        environment=EnvironmentId(row.environment),
        number=row.number,
        since=row.since,
        until=row.until,
        count=row.turns,
        digest=Digest(row.digest),
        rule=row.rule,
        content=row.content,
        again_at=row.again_at,
    )


def _standing(row: Row[Any]) -> StandingInterval:
    return StandingInterval(
        number=row.number,
        environment=EnvironmentId(row.environment),
        id=PlacementId(TargetId(row.target), ComponentName(row.component), SlotName(row.slot)),
        since=row.since,
        until=row.until,
        verdict=Verdict(row.verdict),
        trust=Trust(row.trust),
        rule=row.rule,
        reason=row.reason,
        heal=bool(row.heal),
        content=json.loads(row.content),
    )
