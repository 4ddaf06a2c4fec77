"""Telling a forge what became of each commit: validated, planned, in sync or failed.

What is to be said follows from what is stored, and is written into an outbox before it is sent. So nothing waits for
a forge, and what a process leaves unsaid when it dies is said by the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from random import Random
from typing import Final

import anyio
import structlog
from sqlalchemy import Connection

from api.forges import Forge, NotSaid
from api.house import House
from api.repositories import reference
from desired_state.sources import declared
from reconciler.core.conditions import Condition, ConditionType
from reconciler.core.conditions import Status as Truth
from reconciler.store import environments, jobs, sources, statuses
from reconciler.store.errors import StoreError
from reconciler.store.records import EnvironmentRow
from reconciler.store.sources import SourceRow
from reconciler.store.statuses import Said, Status, StatusRow

PAUSE: Final = 2.0  # seconds between two looks for what there is to say
FIRST: Final = 5.0  # seconds after a failure; twice as many after each that follows
LONGEST: Final = 3600.0
FAREWELL: Final = 2.0
WAITS: Final = frozenset({"PolicyAsk", "PolicyReport", "RemovalLimit"})  # for a person; nothing has failed
OURS: Final = "documents"  # the context of what is said of the documents as a whole


class Statuses:
    """The statuses of every source that has a forge to tell."""

    def __init__(self, house: House) -> None:
        self._house, self._random = house, Random()  # noqa: S311 - spreads pauses
        self._declared: dict[str, declared.Statuses] = {}
        self._forges: dict[str, Forge] = {}

    async def run(self) -> None:
        """For ever."""
        try:
            while True:
                try:
                    await self.once()
                except StoreError as error:
                    structlog.get_logger().warning("statuses_not_read", problem=str(error))
                await anyio.sleep(PAUSE * self._random.uniform(0.9, 1.1))
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(FAREWELL, shield=True):
                await self.aclose()

    async def _as_declared(self) -> None:
        """The forges of the sources that are declared by now."""
        wanted = {name: said.statuses for name, said in self._house.sources.items() if said.statuses is not None}
        for name in [name for name, said in self._declared.items() if wanted.get(name) != said]:
            del self._declared[name]
            await self._forges.pop(name).aclose()
        for name in wanted.keys() - self._declared.keys():
            said = self._declared[name] = wanted[name]
            self._forges[name] = Forge(said, self._house.secret, reference(said.token))

    async def aclose(self) -> None:
        for forge in self._forges.values():
            await forge.aclose()

    async def once(self) -> None:
        """Write down what there is to say, and send what is due; each forge at its own pace."""
        await self._as_declared()
        if not self._forges:
            return
        now = self._house.now()
        news = await self._house.store.read(lambda c: [each for name in self._forges for each in _news(c, name)])
        if news:
            await self._house.store.write(lambda c: statuses.put(c, news, now))
        due = await self._house.store.read(lambda c: statuses.is_due(c, self._forges, now))
        claimed = await self._house.store.write(lambda c: statuses.claim(c, self._forges, now)) if due else ()
        async with anyio.create_task_group() as group:
            for name, forge in self._forges.items():
                group.start_soon(self._send, forge, [row for row in claimed if row.source == name])

    async def _send(self, forge: Forge, rows: list[StatusRow]) -> None:
        """What cannot be written down afterwards is sent once more: a forge takes the same twice."""
        try:
            for row in rows:
                if not await self._said(forge, row):
                    return  # the others would fail as well; they are claimed for a while and come again
        except StoreError as error:
            structlog.get_logger().warning("status_not_noted", problem=str(error))

    async def _said(self, forge: Forge, row: StatusRow) -> bool:
        try:
            await forge.say(row)
        except NotSaid as error:
            await self._failed(row, error)
            return not error.soon
        await self._house.store.write(lambda c: statuses.sent(c, row))
        return True

    async def _failed(self, row: StatusRow, error: NotSaid) -> None:
        pause = min(LONGEST, max(error.after or 0.0, FIRST * 2.0 ** min(row.attempts, 20)))
        problem = self._house.redactor.clean(str(error))
        if not row.attempts:
            log = structlog.get_logger()
            log.warning("status_not_sent", source=row.source, revision=row.revision, problem=problem)
        again = self._house.now() + timedelta(seconds=(pause if error.soon else LONGEST) * self._random.uniform(0.8, 1))
        await self._house.store.write(lambda c: statuses.failed(c, row, problem, again))


def _news(c: Connection, name: str) -> list[Status]:
    row = sources.load(c, name)
    owned = [each for each in environments.all(c) if each.source == name and each.undeclared_at is None]
    return statuses.news(statuses.of(c, name), [*_wanted(c, row, owned)])


def _wanted(c: Connection, row: SourceRow, owned: list[EnvironmentRow]) -> Iterator[Status]:
    if row.fault_revision is not None and row.fault_revision != row.revision:
        says = f"{row.fault}: {row.fault_message}"
        yield Status(source=row.name, revision=row.fault_revision, context=OURS, state=Said.REFUSED, says=says)
    if row.revision is None:
        return
    says = f"validated, {len(owned)} environments" + (f", signed by {row.signer}" if row.signer else "")
    yield Status(source=row.name, revision=row.revision, context=OURS, state=Said.VALIDATED, says=says)
    active = {job.environment for job in jobs.all_active(c)}
    for each in owned:
        state, said = _state(each, active=each.id in active)
        yield Status(source=row.name, revision=row.revision, context=each.id, state=state, says=said)


def _state(row: EnvironmentRow, *, active: bool) -> tuple[Said, str]:
    """What the environment's conditions say of the desire that is in force."""
    said = {each.type: each for each in row.conditions if each.generation == row.generation}
    ready, stalled = said.get(ConditionType.READY), said.get(ConditionType.STALLED)
    if not active and stalled is not None and _is(stalled) and stalled.reason not in WAITS:
        return Said.FAILED, f"{row.release}: {stalled.message}"
    if not active and _is(ready):
        return Said.IN_SYNC, f"{row.release} is in sync"
    return Said.PLANNED, f"{row.release} is planned"


def _is(condition: Condition | None) -> bool:
    return condition is not None and condition.status is Truth.TRUE
