"""What every turn works with, and what this process remembers of an environment between turns.

Whatever is remembered here can be lost at any moment: it only saves work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeVar

from anyio import CapacityLimiter, to_thread

from desired_state.model import DesiredState
from drivers.contract import Capabilities, Driver, Look, Tools
from reconciler.core.conditions import SourceFault
from reconciler.core.drift import Diffed
from reconciler.core.known import Memory
from reconciler.events import Event, Sink
from reconciler.loop import Key
from reconciler.observe import Eyes
from reconciler.seats import Seats
from reconciler.sources import Reading
from reconciler.store.records import EnvironmentRow, Job
from reconciler.store.store import Store
from stickers.names import EnvironmentId, PlacementId

if TYPE_CHECKING:
    from reconciler.leases import Leases

T = TypeVar("T")

LARGE: Final = 500  # placements from which computing takes more than a few milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How acting is bounded. `action` is the longest one action may take beside its health checks; `patience` how long
    a job waits for a target whose outcome is unknown before the others go on without it."""

    actions: int = 64  # at once, over all environments
    on_one_target: int = 4
    action: timedelta = timedelta(minutes=10)
    patience: timedelta = timedelta(minutes=5)
    grace: timedelta = timedelta(seconds=30)  # for what runs, when the loop is stopped


@dataclass(slots=True, kw_only=True, eq=False)
class Note:
    """One environment between turns. `acted` counts actions and jobs begun and ended; `busy`: a job is at work; `took`
    is how many seconds the last turn did; `diffed` is as last recorded, under the lease with `token`; `looks` were made
    of `looks_of`."""

    acted: int = 0
    busy: bool = False
    took: float = 0.0
    diffed: Diffed | None = None
    token: int = 0
    looks: tuple[Look, ...] = ()
    looks_of: tuple[DesiredState, dict[PlacementId, Memory], bool] | None = None


@dataclass(frozen=True, kw_only=True)
class Means:
    """Everything a turn is handed. `ask` asks the queue for a turn, in so many seconds; `stopping` says that nothing
    new is to be started; `tell_of` is the answer about a job that somebody asked for."""

    store: Store
    drivers: Mapping[str, Driver]
    tools: Tools
    eyes: Eyes
    leases: Leases
    limits: Limits
    sink: Sink
    random: Random
    ask: Callable[[Key, float], None]
    stopping: Callable[[], bool]
    seats: Seats
    tell_of: Callable[[EnvironmentId, Job | None], Mapping[str, Any]]
    notes: dict[EnvironmentId, Note] = field(default_factory=dict)
    sources: Mapping[str, Reading] = field(default_factory=dict)
    computing: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))

    async def aside(self, size: int, work: Callable[[], T]) -> T:
        """What is computed over so many placements, beside the event loop where that would take it long: meanwhile
        others are answered. `work` is pure, or touches nothing that another task does."""
        if size < LARGE or self.store.inline:
            return work()
        return await to_thread.run_sync(work, limiter=self.computing)

    def note(self, environment: EnvironmentId) -> Note:
        return self.notes.setdefault(environment, Note())

    def source_fault(self, row: EnvironmentRow) -> SourceFault | None:
        """Why what the environment's documents say now is not what is in force."""
        reading = self.sources.get(row.source)
        if reading is not None and reading.fault is not None:
            return reading.fault
        if row.undeclared_at is not None:
            return SourceFault(reason="Undeclared", message="no document declares the environment any more")
        return None

    def tell(self, *events: Event) -> None:
        for event in events:
            self.sink(event)

    def powers(self, kinds: Iterable[str]) -> dict[str, Capabilities]:
        """Of the runtimes that can be had here; targets of the others are unseen and nothing is planned for them."""
        found: dict[str, Capabilities] = {}
        for kind in sorted(set(kinds)):
            try:
                found[kind] = self.drivers[kind].capabilities
            except Exception:  # noqa: S112  # a driver's own import may raise anything; `observe` says what
                continue
        return found
