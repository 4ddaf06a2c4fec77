"""The agent's own time: milliseconds of this run, and spans that go on over runs and never grow again.

No wall clock decides anything while the machine is up; it is asked only how long the machine was off, and believed only
where that makes a span shorter.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_hex

from drivers.process.host import boot


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # counts while the machine sleeps, too


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A time that can be compared as long as the machine is not started anew."""

    boot: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """`left` milliseconds were left at `since`; `wall` is what the wall clock read then."""

    left: int
    since: Moment
    wall: int


class Clock:
    """Of one run, from now on."""

    def __init__(
        self,
        since_boot: Callable[[], float] = _since_boot,
        wall: Callable[[], float] = time.time,
        boot_id: str | None = None,
    ) -> None:
        self._since_boot, self._wall = since_boot, wall
        self._boot = boot() if boot_id is None else boot_id
        self._began = self._now()
        self.epoch = token_hex(16)

    def at(self) -> int:
        """Milliseconds since this run began."""
        return self._now() - self._began

    def moment(self, at: int) -> Moment:
        """A reading of this run's clock, for a later run on the same boot of the machine."""
        return Moment(boot=self._boot, at=self._began + at)

    def is_past(self, moment: Moment) -> bool:
        """Whether it is over; one of another boot is."""
        return moment.boot != self._boot or self._now() > moment.at

    def span(self, seconds: float) -> Span:
        return self._span(round(seconds * 1000))

    def left(self, span: Span) -> int:
        """Milliseconds, never more than there were."""
        if span.since.boot == self._boot:
            gone = self._now() - span.since.at
        else:
            gone = round(self._wall() * 1000) - span.wall
        return max(0, span.left - max(0, gone))

    def renewed(self, span: Span) -> Span:
        """The same span as of now, to be kept from time to time, so that little is lost with the machine."""
        return self._span(self.left(span))

    def _span(self, left: int) -> Span:
        since = Moment(boot=self._boot, at=self._now())
        return Span(left=left, since=since, wall=round(self._wall() * 1000))

    def _now(self) -> int:
        return int(self._since_boot() * 1000)
