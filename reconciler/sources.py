"""Sources as the reconciler follows them, and what this process knows of each between two reads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from desired_state.sources.base import Source
from reconciler.core.conditions import SourceFault


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A source, and how it is read: every `poll` seconds when nothing asks for it sooner. Nothing taken from it for
    longer than `stale` is an alarm. `begins_empty`: as long as it has never held anything, to hold nothing is no
    fault."""

    source: Source
    poll: float = 30.0
    stale: timedelta = timedelta(minutes=15)
    begins_empty: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class Reading:
    """How the reads of one source went: the content that is in force as far as this process knows, why the last read
    was not taken, when one was last, and since when nothing was. All of it can be lost at any moment."""

    followed: Followed
    since: datetime
    content: str | None = None
    revision: str | None = None
    signer: str | None = None
    fault: SourceFault | None = None
    read_at: datetime | None = None
    written_at: datetime | None = None  # when `read_at` was last written down
    alarmed: bool = False
    refusals: int = 0  # in a row

    def age(self, now: datetime) -> timedelta:
        """For how long nothing could be taken; since the start, when nothing ever was."""
        return now - (self.read_at or self.since)

    def is_stale(self, now: datetime) -> bool:
        return self.age(now) > self.followed.stale
