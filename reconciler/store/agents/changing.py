"""How a change is made and told: one at a time, counted, audited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, func, select, update

from reconciler.store import audit, listening
from reconciler.store.agents.reading import by_name
from reconciler.store.agents.records import Agent, NoAgent
from reconciler.store.statements import insert
from reconciler.store.tables import agent as table
from reconciler.store.tables import roll
from stickers.names import AgentName

WORD: Final = "agents"  # told to every replica with each change


def alone(c: Connection) -> None:
    """Whoever changes anything of agents next waits for the end of this transaction. Changes are rare, and many touch
    rows of several agents; on SQLite there is only one writer."""
    if c.dialect.name == "postgresql":
        c.execute(_LOCK)


def insisted(c: Connection, name: AgentName) -> Agent:
    alone(c)
    found = by_name(c, name)
    if found is None:
        raise NoAgent(f"there is no agent {name}; `holdfast agent list` shows them")
    return found


def current(c: Connection, name: AgentName) -> Agent:
    found = by_name(c, name)
    assert found is not None
    return found


def told(c: Connection, actor: str, action: str, name: AgentName, detail: Mapping[str, object], now: datetime) -> None:
    raised(c, [name])
    audit.append(c, environment=None, actor=actor, action=action, subject=name, detail=detail, now=now)


def said(c: Connection, actor: str, action: str, id: str, detail: Mapping[str, object], now: datetime) -> None:
    raised(c, [])
    audit.append(c, environment=None, actor=actor, action=action, subject=id, detail=detail, now=now)


def raised(c: Connection, names: Sequence[AgentName]) -> None:
    """These have changed. Whoever sees a revision sees all that came before it, since one changes after the other."""
    counted = insert(c, roll).values(one=1, revision=1)
    risen = counted.on_conflict_do_update(index_elements=["one"], set_={"revision": roll.c.revision + 1})
    number = c.execute(risen.returning(roll.c.revision)).scalar_one()
    if names:
        c.execute(update(table).where(table.c.name.in_(names)).values(revision=number))
    if c.dialect.name == "postgresql":
        listening.tell(c, [WORD])


_LOCK: Final = select(func.pg_advisory_xact_lock(0x61676E74, 0))  # "agnt"
