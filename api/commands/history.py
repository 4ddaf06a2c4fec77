"""What happened in an environment, and what was known at a moment."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from api.commands import lookup
from api.commands.fleet import standing_row
from api.commands.given import Given
from api.house import House
from api.problem import Problem
from reconciler.store import history as intervals
from reconciler.store.records import DecisionInterval


async def history(house: House, given: Given) -> AsyncGenerator[dict[str, Any], None]:
    id, moment = given.environment(), given.moment("at")
    await lookup.environment(house, id)
    if moment is not None:
        then = await house.store.read(lambda c: intervals.at(c, id, moment))
        decision = _decision(then.decision) if then.decision else None
        rows = [standing_row(standing) for standing in then.standings]
        yield {"result": {"environment": id, "at": moment, "decision": decision, "placements": rows}}
        return
    target = given.text_or_none("target")
    before, limit = given.text_or_none("before"), given.count("limit", 20, 500)
    if before is not None and not (before.isascii() and before.isdigit()):
        raise Problem("BAD_ARGUMENT", f"{before[:40]!r} is no cursor; take the one printed below the page before")
    if target is not None:
        row, found = await lookup.target(house, given.target(target), given)
        if row.id != id:
            raise Problem("NO_TARGET", f"{found.id} is no target of {id}; it is one of {row.id}")
        stood = await house.store.read(lambda c: intervals.page_of_target(c, found.id, before=before, limit=limit))
        rows = [standing_row(standing) for standing in stood.items]
        yield {"result": {"environment": id, "target": found.id, "placements": rows, "next": stood.before}}
        return
    page = await house.store.read(lambda c: intervals.page(c, id, before=before, limit=limit))
    yield {"result": {"environment": id, "entries": [_decision(item) for item in page.items], "next": page.before}}


def _decision(decision: DecisionInterval) -> dict[str, Any]:
    return {
        "since": decision.since,
        "until": decision.until,
        "count": decision.count,
        "summary": decision.rule,
        "again_at": decision.again_at,
        "content": dict(decision.content),
    }
