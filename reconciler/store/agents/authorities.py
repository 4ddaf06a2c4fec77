"""The certificates that issue others."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, and_, select, update

from reconciler.store.agents.changing import alone, said
from reconciler.store.agents.records import Authority
from reconciler.store.statements import insert
from reconciler.store.tables import agent as table
from reconciler.store.tables import authority as authority_table
from reconciler.store.tables import certificate as certificate_table


def keep_authority(c: Connection, each: Authority, actor: str) -> bool:
    """Whether it is new here."""
    alone(c)
    row = {name: getattr(each, name) for name in Authority.__slots__}
    offered = insert(c, authority_table).values(row).on_conflict_do_nothing().returning(authority_table.c.id)
    if c.execute(offered).first() is None:
        return False
    said(c, actor, "authority.made", each.id, {"role": each.role}, each.made_at)
    return True


def retire_authority(c: Connection, id: str, actor: str, now: datetime) -> bool:
    """Whether it was trusted until now. What it issued counts no more, at once and everywhere."""
    alone(c)
    live = and_(authority_table.c.id == id, authority_table.c.retired_at.is_(None))
    retired = update(authority_table).where(live).values(retired_at=now).returning(authority_table.c.id)
    if c.execute(retired).first() is None:
        return False
    said(c, actor, "authority.retired", id, {}, now)
    return True


def authorities(c: Connection) -> tuple[Authority, ...]:
    """Oldest first; retired ones are among them."""
    ordered = select(authority_table).order_by(authority_table.c.made_at, authority_table.c.id)
    return tuple(Authority(**row._mapping) for row in c.execute(ordered))


def issued_by(c: Connection, issuer: str, now: datetime) -> int:
    """How many agents would be left without an identity if it were retired now."""
    latest = and_(certificate_table.c.agent == table.c.name, certificate_table.c.generation == table.c.generation)
    query = select(table.c.name).join(certificate_table, latest)
    counting = and_(certificate_table.c.issuer == issuer, certificate_table.c.not_after > now)
    return len(c.execute(query.where(counting, certificate_table.c.revoked_at.is_(None))).all())
