"""Commands about sources: what each says, how old that is, and to look again."""

from __future__ import annotations

import difflib
import re
from collections.abc import AsyncGenerator
from typing import Any

from sqlalchemy import Connection

from api.commands.given import Given
from api.house import House
from api.problem import Problem
from reconciler.sources import Reading
from reconciler.store import audit, environments, sources
from reconciler.store.sources import SourceRow

Events = AsyncGenerator[dict[str, Any], None]


async def index(house: House, given: Given) -> Events:
    """Every declared source."""
    yield {"result": {"sources": [await described(house, given, name) for name in house.sources]}}


async def show(house: House, given: Given) -> Events:
    yield {"result": await described(house, given, named(house, given.text("source")))}


async def refresh(house: House, given: Given) -> Events:
    """Read it now; a commit that does not follow from the accepted one is let in when it is named."""
    name, allow = named(house, given.text("source")), given.text_or_none("allow")
    if allow is not None:
        if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", allow):
            raise Problem("BAD_ARGUMENT", f"allow is {allow[:80]!r}; expected the whole id of a commit")
        await house.store.write(lambda c: _allowed(c, house, given, name, allow))
    await house.reconciler.read(name)
    yield {"result": await described(house, given, name)}


def _allowed(c: Connection, house: House, given: Given, name: str, commit: str) -> None:
    sources.allow(c, name, commit)
    audit.append(
        c,
        environment=None,
        actor=given.actor,
        action="source.allowed",
        subject=name,
        detail={"revision": commit},
        now=house.now(),
    )


def named(house: House, name: str) -> str:
    if name in house.sources:
        return name
    near = difflib.get_close_matches(name, house.sources, n=1)
    instead = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(house.sources))}"
    raise Problem("NO_SOURCE", f"there is no source {name[:60]!r}; {instead}")


async def described(house: House, given: Given, name: str) -> dict[str, Any]:
    """A source as everybody sees it; of its environments, those that who asks may see."""
    said, reading = house.sources[name], house.reconciler.sources[name]
    row = await house.store.read(lambda c: sources.load(c, name))
    owned = [each.id for each in await house.store.read(environments.all) if each.source == name]
    now, read_at = house.now(), reading.read_at or row.read_at
    fault = reading.fault
    return {
        "name": name,
        "type": said.type,
        "where": said.describes,
        "revision": row.revision,
        "accepted_at": row.accepted_at,
        "signer": row.signer,
        "read_at": read_at,
        "age": round((now - read_at).total_seconds(), 1) if read_at else None,
        "stale": reading.is_stale(now) if read_at is None or reading.read_at else now - read_at > said.stale,
        "limit": said.stale.total_seconds(),
        "fault": _fault(reading, row) if fault else None,
        "environments": [id for id in owned if given.sees(id)],
    }


def _fault(reading: Reading, row: SourceRow) -> dict[str, Any]:
    assert reading.fault is not None
    return {
        "code": reading.fault.reason,
        "message": reading.fault.message,
        "revision": row.fault_revision,
        "since": row.fault_at,
    }
