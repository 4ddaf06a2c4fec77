"""When agents were last heard, and who is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, Connection, bindparam, case, func, or_, select, update

from reconciler.store.agents.reading import revision
from reconciler.store.agents.records import SPEAKING, Heard
from reconciler.store.records import AgentState
from reconciler.store.tables import agent as table


def heard(c: Connection, contacts: Sequence[Heard]) -> None:
    """When they were last heard, unless another process has heard them since. Nobody's rights change by it."""
    rows = [
        {
            "heard_name": each.agent,
            "heard_at": each.at,
            "version": each.version,
            "reported": list(each.reported),
            "queue": each.queue,
            "way": each.way,
            "peer": each.peer,
            "server": each.server,
        }
        for each in sorted(contacts, key=lambda each: each.agent)
    ]
    if rows:
        c.execute(_HEARD, rows)


def _unheard() -> ColumnElement[bool]:
    return or_(table.c.heard_at.is_(None), table.c.heard_at <= bindparam("heard_at"))


_HEARD: Final = (
    update(table)
    .where(table.c.name == bindparam("heard_name"), table.c.state != AgentState.REMOVED, _unheard())
    .values({name: bindparam(name) for name in ("heard_at", "version", "reported", "queue", "way", "peer", "server")})
)


def pulse(c: Connection, now: datetime, silences: Sequence[float]) -> str:
    """Changes when anything does that is shown of agents, but not with each sign of life: of these only whether they
    are silent for longer than so many seconds counts."""
    speaking = table.c.state.in_(SPEAKING)
    since = [func.count().filter(speaking, table.c.heard_at > now - timedelta(seconds=each)) for each in silences]
    told = func.coalesce(func.sum(table.c.queue), 0)
    row = c.execute(select(func.count(), told, func.max(table.c.version), *since)).one()
    return "-".join(str(each) for each in (revision(c), *row))


def present(c: Connection, now: datetime, *, degraded: float, offline: float) -> Mapping[str, int]:
    """How many are online, degraded (silent for so many seconds) and offline; of those that may not speak, how many
    stand how."""
    silent = table.c.heard_at
    presence = case(
        (table.c.state.not_in(SPEAKING), table.c.state),
        (silent >= now - timedelta(seconds=degraded), "online"),
        (silent >= now - timedelta(seconds=offline), "degraded"),
        else_="offline",
    )
    here = table.c.state != AgentState.REMOVED
    return {row[0]: row[1] for row in c.execute(select(presence, func.count()).where(here).group_by(presence))}
