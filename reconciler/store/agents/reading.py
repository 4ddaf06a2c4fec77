"""What there is of agents, and what has changed since."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, select

from reconciler.store.agents.records import Agent, Bound, Certificate, Changed
from reconciler.store.records import AgentState
from reconciler.store.tables import agent as table
from reconciler.store.tables import authority as authority_table
from reconciler.store.tables import bound as bound_table
from reconciler.store.tables import certificate as certificate_table
from reconciler.store.tables import invite as invite_table
from reconciler.store.tables import roll
from stickers.names import AgentName, TargetId


def all(c: Connection) -> tuple[Agent, ...]:
    return tuple(_agent(row) for row in c.execute(select(table).order_by(table.c.name)))


def by_name(c: Connection, name: AgentName) -> Agent | None:
    row = c.execute(select(table).where(table.c.name == name)).first()
    return None if row is None else _agent(row)


def bindings(c: Connection, name: AgentName | None = None) -> tuple[Bound, ...]:
    query = select(bound_table).order_by(bound_table.c.agent, bound_table.c.target)
    return tuple(_bound(row) for row in c.execute(query if name is None else query.where(bound_table.c.agent == name)))


def targets_of(c: Connection, name: AgentName) -> tuple[TargetId, ...]:
    return tuple(each.target for each in bindings(c, name))


def certificates(c: Connection, name: AgentName) -> tuple[Certificate, ...]:
    """Newest first; those that count no more are among them for a while."""
    query = select(certificate_table).where(certificate_table.c.agent == name)
    return tuple(_certificate(row) for row in c.execute(query.order_by(certificate_table.c.generation.desc())))


def by_serial(c: Connection, serial: str) -> Certificate | None:
    row = c.execute(select(certificate_table).where(certificate_table.c.serial == serial)).first()
    return None if row is None else _certificate(row)


def open_invites(c: Connection, now: datetime) -> Mapping[AgentName, datetime]:
    """Until when somebody can join, by the name that is kept for them."""
    waiting = and_(invite_table.c.used_at.is_(None), invite_table.c.withdrawn_at.is_(None))
    query = select(invite_table.c.agent, invite_table.c.expires_at).where(waiting, invite_table.c.expires_at > now)
    return {AgentName(row.agent): row.expires_at for row in c.execute(query)}


def revision(c: Connection) -> int:
    found: int | None = c.execute(select(roll.c.revision)).scalar()
    return found or 0


def changed(c: Connection, since: int, now: datetime) -> Changed:
    """What the roll holds that is newer than the revision; `since` 0 is all of it."""
    newest = revision(c)
    if newest == since:
        return Changed(revision=since)
    of = select(table.c.name).where(table.c.revision > since)
    found = c.execute(select(table).where(table.c.revision > since))
    certified = select(certificate_table).where(certificate_table.c.agent.in_(of), certificate_table.c.not_after > now)
    gone = select(authority_table.c.id).where(authority_table.c.retired_at.is_not(None))
    return Changed(
        revision=newest,
        agents=tuple(_agent(row) for row in found),
        bound=tuple(_bound(row) for row in c.execute(select(bound_table).where(bound_table.c.agent.in_(of)))),
        certificates=tuple(_certificate(row) for row in c.execute(certified)),
        retired=frozenset(c.execute(gone).scalars()),
    )


def _agent(row: Row[Any]) -> Agent:
    found = dict(row._mapping)
    return Agent(
        **found
        | {
            "state": AgentState(found["state"]),
            "former": {public: tuple(map(TargetId, targets)) for public, targets in found["former"].items()},
            "granted": tuple(found["granted"]),
            "reported": tuple(found["reported"]),
        }
    )


def _bound(row: Row[Any]) -> Bound:
    return Bound(
        agent=AgentName(row.agent), target=TargetId(row.target), shared=bool(row.shared), holder=bool(row.holder)
    )


def _certificate(row: Row[Any]) -> Certificate:
    return Certificate(**{**row._mapping, "serial": int(row.serial, 16)})
