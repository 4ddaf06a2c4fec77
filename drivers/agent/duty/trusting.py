"""Whose tasks are believed: the signer's keys that the join told, and those that a believed key put in their place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import anyio.to_thread

from drivers.agent.duty.carry import Done, Job
from drivers.agent.duty.clock import Clock, Span
from drivers.agent.duty.journal import Full, Journal, Trusted, Trusts
from drivers.agent.duty.own import Own, public_key
from drivers.agent.protocol import Trust
from drivers.errors import InvalidAction, Refused
from stickers.signature import Keyring

MAY_SAY: Final = ("task:*",)


class Trusting:
    def __init__(self, own: Own, journal: Journal, clock: Clock) -> None:
        self._own, self._journal, self._clock = own, journal, clock
        self._trusts = journal.trusts()

    def keyring(self) -> Keyring:
        """Those that are believed now."""
        return Keyring(public_key(public, MAY_SAY) for public in self._believed())

    def _believed(self) -> Iterator[str]:
        if self._lasts(self._trusts.pinned):
            yield from self._own.signers
        yield from (key.public for key in self._trusts.keys if self._lasts(key.until))

    def _lasts(self, until: Span | None) -> bool:
        return until is None or self._clock.left(until) > 0

    async def trust(self, job: Job) -> Done:
        """Believe the key that a believed one names, and the former ones for a while only."""
        asked = job.work
        assert isinstance(asked, Trust)
        try:
            public_key(asked.public, MAY_SAY)
        except ValueError as error:
            raise InvalidAction(f"public: {error}") from None
        until = self._clock.span(max(0, asked.overlap))
        former = [key for key in self._trusts.keys if key.public != asked.public and self._lasts(key.until)]
        keys = [replace(key, until=key.until or until) for key in former]
        trusts = Trusts(keys=(*keys, Trusted(public=asked.public)), pinned=self._trusts.pinned or until)
        try:
            await anyio.to_thread.run_sync(self._journal.trust, trusts)
        except Full as error:
            raise Refused(f"no room in the agent's journal, nothing was changed: {error}") from None
        self._trusts = trusts
        return Done(body="null")

    def renew(self) -> None:
        """Keep how much of an overlap is left. Blocking."""
        if self._trusts.pinned is None:
            return
        keys = tuple(replace(key, until=self._renewed(key.until)) for key in self._trusts.keys)
        self._trusts = Trusts(keys=keys, pinned=self._renewed(self._trusts.pinned))
        self._journal.trust(self._trusts)

    def _renewed(self, span: Span | None) -> Span | None:
        return None if span is None else self._clock.renewed(span)
