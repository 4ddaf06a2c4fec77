"""The wheel that tells: now and then it compares what is wrong with what has been told, and tells the difference.

It reads the store and hears no events, so a restart loses nothing, and of several replicas one tells: the first to
claim it. A receiver that does not hear holds up no other, and is given up after a day of tries.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import anyio
import structlog
from sqlalchemy import Connection

from api.notices import channels, judge
from api.notices.channels import NotHeard, Secret
from api.notices.declared import Kind, Notices
from reconciler.store import environments, notices
from reconciler.store.errors import StoreError
from reconciler.store.notices import Due
from reconciler.store.store import Store

EVERY: Final = 5.0  # seconds between two passes
CLAIM: Final = timedelta(minutes=1)
FIRST: Final = timedelta(seconds=10)
LONGEST: Final = timedelta(hours=1)
TRIES: Final = 30


class Watch:
    """`public_url` is where people reach the dashboard, or empty."""

    def __init__(
        self, declared: Notices, store: Store, secret: Secret, now: Callable[[], datetime], *, public_url: str = ""
    ) -> None:
        self._declared, self._store, self._secret, self._now = declared, store, secret, now
        self._public_url = public_url.rstrip("/")
        self._channels = {channel.name: channel for channel in declared.channels}

    async def run(self) -> None:
        log = structlog.get_logger()
        while True:
            try:
                await self.once()
            except StoreError as error:
                log.warning("notices_held_up", error=str(error))
            await anyio.sleep(EVERY)

    async def once(self) -> None:
        """One pass: settle what is open, and tell what is due."""
        now = self._now()
        await self._store.write(lambda c: self._settled(c, now))
        due = await self._store.write(lambda c: notices.claim(c, now, now + CLAIM))
        async with anyio.create_task_group() as group:
            for one in due:
                group.start_soon(self._tell, one)

    def _settled(self, c: Connection, now: datetime) -> None:
        locked = notices.locked(c)
        for row in environments.all(c):
            if row.undeclared_at is not None:
                wanted: tuple[notices.Notice, ...] = ()
            else:
                off, ended = notices.off(c, row.id), notices.last_ended(c, row.id)
                wanted = judge.notices(row.id, off, ended, locked.get(row.id, ()), self._declared.after, now)
            takers = {
                kind.value: [name for name, channel in self._channels.items() if channel.takes(kind, row.id)]
                for kind in Kind
            }
            notices.settle(c, row.id, wanted, takers, now)

    async def _tell(self, due: Due) -> None:
        channel = self._channels.get(due.channel)
        try:
            if channel is not None:  # else it is not declared any more, and nobody waits for it
                await channels.tell(channel, due, secret=self._secret, now=self._now(), link=self._link(due))
        except NotHeard as reason:
            await self._not_heard(due, str(reason))
        else:
            await self._store.write(lambda c: notices.told(c, due, self._now()))

    async def _not_heard(self, due: Due, reason: str) -> None:
        again = None if due.failures + 1 >= TRIES else self._now() + min(LONGEST, FIRST * 2 ** min(due.failures, 20))
        structlog.get_logger().warning(
            "notice_not_heard", channel=due.channel, notice=due.number, reason=reason, given_up=again is None
        )
        await self._store.write(lambda c: notices.failed(c, due, again, self._now()))

    def _link(self, due: Due) -> str:
        return f"{self._public_url}/environments/{due.notice.environment}" if self._public_url else ""
