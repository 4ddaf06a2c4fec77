"""The fleet: environments as rows, targets as cells, one colour, symbol and word for each verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from api.http.guard import SOMEWHERE, guarded
from api.pages import live, strokes
from api.pages.access import readable
from api.pages.frame import Desk, pages, show
from api.pages.strokes import Stroke
from api.people.principal import Verb
from reconciler.core.conditions import Condition, ConditionType, Status
from reconciler.core.drift import Verdict
from reconciler.store import environments, jobs, overview
from reconciler.store.overview import Looked, Tally
from reconciler.store.records import EnvironmentRow, Job
from stickers.names import EnvironmentId, TargetId

CELLS: Final = 1_600  # on one page, shared by its environments
LEAST: Final = 16  # of one environment; above its share, only targets not in sync are drawn
MOST: Final = 64
ROWS: Final = 100  # environments on one page
SPELLS: Final = 4_000  # intervals that the sparklines of a page are drawn from, shared by its environments
HOURS: Final = 24  # slices of a sparkline in a row
NAMED: Final = 12  # targets up to which cells show their names
OVERDUE: Final = timedelta(seconds=60)  # after it should have been looked at again, what was seen says little
NOTHING: Final = Tally(targets=0, placements={})  # no turn has looked yet
CALM: Final = frozenset({Verdict.IN_SYNC, Verdict.UNMANAGED})


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRow:
    """One environment as a row; its cells are only there where it is shown."""

    environment: EnvironmentRow
    tally: Tally
    job: Job | None
    looked: Looked | None
    overdue: bool
    says: Condition | None
    cells: tuple[tuple[TargetId, Verdict], ...] = ()
    drift: Stroke | None = None

    @property
    def needs_attention(self) -> bool:
        drifted = any(each not in CALM for each in self.tally.placements)
        return self.overdue or self.looked is None or self.waits or drifted

    @property
    def waits(self) -> bool:
        """For a person: nothing more happens by itself."""
        return self.says is not None and self.says.type is ConditionType.STALLED

    @property
    def undrawn(self) -> int:
        return self.tally.targets - len(self.cells)

    @property
    def named(self) -> bool:
        return self.tally.targets <= NAMED


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """One page of the fleet, and the whole fleet in numbers."""

    rows: tuple[FleetRow, ...]
    more: EnvironmentId | None
    cells: int  # of one environment, at most
    total: Mapping[Verdict, int]
    targets: int
    attention: int


def router(desk: Desk) -> APIRouter:
    made = APIRouter(route_class=pages(desk), include_in_schema=False)

    @made.get("/", dependencies=[guarded(Verb.READ, SOMEWHERE)])
    async def fleet(request: Request) -> Response:
        news = await live.fleet(desk)
        known = readable(request, await desk.house.store.read(environments.all))
        only, after = request.query_params.get("show") == "attention", request.query_params.get("after", "")
        sheet = await desk.house.store.read(lambda c: _sheet(c, known, desk.now, only=only, after=after))
        return show(
            desk,
            request,
            "fleet.html",
            title="Fleet",
            live=news,
            sheet=sheet,
            only=only,
            environments=len(known),
            documents=desk.house.settings.documents,
            source_problem=desk.house.reconciler.source_problem,
        )

    return made


def _sheet(c: Connection, known: Sequence[EnvironmentRow], now: datetime, *, only: bool, after: str) -> Sheet:
    rows, total = _rows(c, known, now), Counter[Verdict]()
    for row in rows:
        total.update(row.tally.placements)
    wanted = [row for row in rows if (row.needs_attention or not only) and row.environment.id > after]
    most = min(MOST, max(LEAST, CELLS // max(1, len(wanted[:ROWS]))))
    drifts = _drifts(c, [row.environment.id for row in wanted[:ROWS]], now)
    shown = [
        replace(row, cells=overview.cells(c, id, row.tally, most=most), drift=drifts.get(id))
        for id, row in ((row.environment.id, row) for row in wanted[:ROWS])
    ]
    return Sheet(
        rows=tuple(shown),
        more=shown[-1].environment.id if len(wanted) > ROWS else None,
        cells=most,
        total={verdict: total[verdict] for verdict in overview.GRAVITY if verdict in total},
        targets=sum(row.tally.targets for row in rows),
        attention=sum(row.needs_attention for row in rows),
    )


def _rows(c: Connection, known: Sequence[EnvironmentRow], now: datetime) -> list[FleetRow]:
    tallies, looked = overview.tallies(c), overview.looked(c)
    active = {job.environment: job for job in jobs.all_active(c)}
    return [
        FleetRow(
            environment=row,
            tally=tallies.get(row.id, NOTHING),
            job=active.get(row.id),
            looked=looked.get(row.id),
            overdue=is_overdue(looked.get(row.id), now),
            says=foremost(row.conditions),
        )
        for row in known
    ]


def _drifts(c: Connection, ids: Sequence[EnvironmentId], now: datetime) -> dict[EnvironmentId, Stroke]:
    """A day of drift, of those where all of it is known; where more has happened than is read, nothing is drawn."""
    each = max(20, SPELLS // max(1, len(ids)))
    found: dict[EnvironmentId, Stroke] = {}
    for id, spells in overview.spells_of(c, ids, now - strokes.DAY, each=each).items():
        ended = sum(spell.until is not None for spell in spells)
        drawn = strokes.drift(spells, now - strokes.DAY, now, slices=HOURS)
        if drawn is not None and max(ended, len(spells) - ended) < each:
            found[id] = drawn
    return found


def is_overdue(looked: Looked | None, now: datetime) -> bool:
    """Nobody has looked when somebody should have: what is shown is what was last seen, and no more."""
    return looked is not None and now > max(looked.at, looked.again or looked.at) + OVERDUE


def foremost(conditions: tuple[Condition, ...]) -> Condition | None:
    """The condition that a person wants to know first."""
    found = {condition.type: condition for condition in conditions}
    stalled, moving, ready = (
        found.get(type) for type in (ConditionType.STALLED, ConditionType.RECONCILING, ConditionType.READY)
    )
    if stalled is not None and stalled.status is Status.TRUE:
        return stalled
    if moving is not None and (moving.status is Status.TRUE or moving.reason in ("Paused", "Suspended")):
        return moving
    return ready
