"""Leases: one holder per environment, and a token that makes a former holder harmless.

An expired lease frees nothing by itself: a former holder is fenced by the next one's token, not by time. Expiry is
judged by the database's clock on PostgreSQL, where several machines meet, and by the store's own otherwise.

A standby that did not have the last commits when it was promoted has forgotten tokens that targets have seen. So on
PostgreSQL tokens also rise with the timeline, which every promotion and every restore from an archive begins anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Interval,
    Row,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    update,
)

from reconciler.store.columns import Instant
from reconciler.store.errors import LostLease, StoreError
from reconciler.store.records import Lease
from reconciler.store.statements import insert
from reconciler.store.tables import environment as declared
from reconciler.store.tables import lease as table
from stickers.names import EnvironmentId

_BOUND: Final = and_(
    table.c.environment == bindparam("lease_environment"),
    table.c.token == bindparam("lease_token"),
    table.c.holder == bindparam("lease_holder"),
)
_TIMELINE: Final[ColumnElement[int]] = literal_column(
    "((('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint - 1) * 1000000 + 1)", BigInteger
)
_HOLD: Final = select(literal(1)).where(_BOUND).with_for_update(read=True)
# `fence` for statements that are built once: executed with `bound`
FENCE: Final = exists(select(literal(1)).select_from(table).where(_BOUND).with_for_update(read=True))


def acquire(c: Connection, environment: EnvironmentId, holder: str, *, now: datetime, ttl: timedelta) -> Lease | None:
    """The lease, if nobody else holds it; None if somebody does. Who holds it already gets it longer, with the token
    it has, unless it has expired."""
    moment, until = _clock(c, now), _clock(c, now, ttl)
    mine = and_(table.c.holder == holder, table.c.until > moment)
    offered = insert(c, table).values(environment=environment, holder=holder, token=_least(c), until=until)
    taken = offered.on_conflict_do_update(
        index_elements=["environment"],
        set_={"holder": holder, "until": until, "token": case((mine, table.c.token), else_=_next(c))},
        where=or_(table.c.holder.is_(None), table.c.until <= moment, mine),
    )
    row = c.execute(taken.returning(*table.c)).first()
    return None if row is None else _lease(row)


def renew(c: Connection, lease: Lease, *, now: datetime, ttl: timedelta) -> Lease:
    """The same lease for longer, even if it has expired, as long as nobody else has had it; else `LostLease`."""
    row = c.execute(update(table).where(_held(lease)).values(until=_clock(c, now, ttl)).returning(*table.c)).first()
    if row is None:
        raise lost(lease)
    return _lease(row)


def renew_all(
    c: Connection, holder: str, held: Iterable[EnvironmentId], *, now: datetime, ttl: timedelta
) -> tuple[Lease, ...]:
    """Those of them that the holder still holds, for longer; what another has had is not among it."""
    mine = and_(table.c.holder == holder, table.c.environment.in_(list(held)))
    return tuple(
        _lease(row)
        for row in c.execute(update(table).where(mine).values(until=_clock(c, now, ttl)).returning(*table.c))
    )


def claim(c: Connection, holder: str, most: int, *, now: datetime, ttl: timedelta) -> tuple[Lease, ...]:
    """So many of the environments that nobody holds. Of several that claim at once each takes others, and none waits
    for another: what one has locked is passed by (on SQLite one writes at a time anyway)."""
    moment, until = _clock(c, now), _clock(c, now, ttl)
    _offer(c)
    free = (
        select(table.c.environment)
        .where(table.c.environment.in_(select(declared.c.id)), or_(table.c.holder.is_(None), table.c.until <= moment))
        .order_by(table.c.environment)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    found = list(c.execute(free).scalars())
    if not found:
        return ()
    taken = update(table).where(table.c.environment.in_(found))
    rows = c.execute(taken.values(holder=holder, until=until, token=_next(c)).returning(*table.c))
    return tuple(sorted((_lease(row) for row in rows), key=lambda lease: lease.environment))


def _offer(c: Connection) -> None:
    """A row for every environment that has none yet; in one order, so that several that offer do not block each
    other."""
    unheard = ~exists().where(table.c.environment == declared.c.id)
    rows = select(declared.c.id, literal(0)).where(unheard).order_by(declared.c.id)
    offered = insert(c, table).from_select(["environment", "token"], rows)
    c.execute(offered.on_conflict_do_nothing(index_elements=["environment"]))


def free_all(c: Connection, beginning: str) -> None:
    """What holders whose name begins so have left held."""
    theirs = func.substr(table.c.holder, 1, len(beginning)) == beginning
    c.execute(update(table).where(theirs).values(holder=None, until=None))


def next_end(c: Connection, now: datetime, but: str) -> float | None:
    """In how many seconds the first lease of any other holder ends, unless it is renewed."""
    first = c.execute(select(func.min(table.c.until)).where(table.c.holder != but)).scalar()
    return None if first is None else (first - clock(c, now)).total_seconds()


def release(c: Connection, lease: Lease) -> None:
    """Free for the next, at once. Nothing happens when it is somebody else's by now."""
    c.execute(update(table).where(_held(lease)).values(holder=None, until=None))


def check(c: Connection, lease: Lease, now: datetime) -> None:
    """`LostLease` unless the lease is held and has not expired."""
    if c.execute(select(literal(1)).where(_held(lease), table.c.until > _clock(c, now))).first() is None:
        raise lost(lease)


def load(c: Connection, environment: EnvironmentId) -> Lease | None:
    """Who holds the environment, expired or not."""
    row = c.execute(select(table).where(table.c.environment == environment, table.c.holder.is_not(None))).first()
    return None if row is None else _lease(row)


def hold(c: Connection, lease: Lease, environment: EnvironmentId | None = None) -> None:
    """For writes of several statements: `LostLease` unless the lease is held, and nobody can take it before this
    transaction ends (its row stays locked; on SQLite the whole database is)."""
    if c.execute(_HOLD, bound(lease, environment or lease.environment)).first() is None:
        raise lost(lease)


def fence(lease: Lease, environment: EnvironmentId) -> ColumnElement[bool]:
    """For a write of one statement: holds while the lease is held. The row is locked as in `hold`, or a holder that
    was fenced between the reading and the commit would still write."""
    covers(lease, environment)
    return exists(select(literal(1)).select_from(table).where(_held(lease)).with_for_update(read=True))


def bound(lease: Lease, environment: EnvironmentId) -> dict[str, object]:
    """What `FENCE` compares with."""
    covers(lease, environment)
    return {"lease_environment": environment, "lease_token": lease.token, "lease_holder": lease.holder}


def covers(lease: Lease, environment: EnvironmentId) -> None:
    """A programming error otherwise."""
    if environment != lease.environment:
        raise ValueError(f"a lease of {lease.environment} does not cover {environment}")


def refusal(c: Connection, lease: Lease | None, otherwise: StoreError) -> StoreError:
    """Why a fenced write touched no row: the lease, or what the caller compared."""
    if lease is None or c.execute(select(literal(1)).where(_held(lease))).first() is not None:
        return otherwise
    return lost(lease)


def lost(lease: Lease) -> LostLease:
    return LostLease(f"the lease of {lease.environment} with token {lease.token} is not {lease.holder}'s any more")


def _held(lease: Lease) -> ColumnElement[bool]:
    return and_(table.c.environment == lease.environment, table.c.token == lease.token, table.c.holder == lease.holder)


def _next(c: Connection) -> ColumnElement[int]:
    """The token of the next holder."""
    return table.c.token + 1 if c.dialect.name == "sqlite" else func.greatest(table.c.token + 1, _least(c))


def _least(c: Connection) -> ColumnElement[int]:
    """The first token that can be given."""
    return literal(1) if c.dialect.name == "sqlite" else _TIMELINE


def clock(c: Connection, now: datetime) -> datetime:
    """The moment by the clock that leases go by."""
    if c.dialect.name == "sqlite":
        return now
    moment: datetime = c.execute(select(func.clock_timestamp(type_=Instant))).scalar_one()
    return moment


def _clock(c: Connection, now: datetime, later: timedelta = timedelta(0)) -> ColumnElement[datetime]:
    if c.dialect.name == "sqlite":
        return literal(now + later, Instant)
    return func.clock_timestamp(type_=Instant) + literal(later, Interval)


def _lease(row: Row[Any]) -> Lease:
    return Lease(environment=EnvironmentId(row.environment), holder=row.holder, token=row.token, until=row.until)
