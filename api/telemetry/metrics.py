"""Prometheus metrics: counted as events happen, and read from the store where somebody asks.

Labels are bounded: environments, outcomes, verdicts and steps, never targets. Durations come from stored times, so a
restart in the middle of a job does not lose it.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import Connection

from drivers.agent.protocol import DEGRADED, OFFLINE
from reconciler import events
from reconciler.core.judge import Verdict
from reconciler.core.machine import JOB_TERMINAL, TASK_TERMINAL
from reconciler.daemon import Reconciler
from reconciler.events import Event
from reconciler.store import agents, environments, history, sources
from reconciler.store.sources import SourceRow
from reconciler.store.store import Store
from stickers.names import EnvironmentId, PlacementId, TaskId

SECONDS: Final = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
TOGETHER: Final = 10_000  # placements whose beginnings are remembered until they end
CONTENT_TYPE: Final = CONTENT_TYPE_LATEST


class Metrics:
    """A sink of events, and the text that a scrape is answered with."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._registry = CollectorRegistry()
        self._looked: dict[EnvironmentId, float] = {}
        self._drifted: dict[PlacementId, float] = {}
        self._steps: dict[TaskId, tuple[str, float]] = {}
        own = self._registry
        self._deployments = Histogram(
            "release_deployments_duration_seconds",
            "From the making of a job until its end.",
            ("environment", "kind", "outcome"),
            buckets=SECONDS,
            registry=own,
        )
        self._step_times = Histogram(
            "release_workflow_steps_duration_seconds",
            "One step of an action, until the next begins or the action has ended.",
            ("step",),
            buckets=SECONDS,
            registry=own,
        )
        self._tasks = Counter("holdfast_tasks", "Tasks that have ended.", ("environment", "outcome"), registry=own)
        self._turns = Histogram(
            "holdfast_turn_duration_seconds", "One look at an environment, with all it led to.", registry=own
        )
        self._failed = Counter("holdfast_turns_failed", "Turns that raised.", ("terminal",), registry=own)
        self._detect = Histogram(
            "holdfast_time_to_detect_seconds",
            "Until drift was seen: at most, since the look before, which did not see it.",
            ("environment",),
            buckets=SECONDS,
            registry=own,
        )
        self._heal = Histogram(
            "holdfast_time_to_heal_seconds",
            "From drift being seen until the placement was in sync again.",
            ("environment",),
            buckets=SECONDS,
            registry=own,
        )
        self._leases = Counter(
            "holdfast_lease_changes", "Leases taken and lost.", ("environment", "change"), registry=own
        )
        self._distrusted = Counter(
            "holdfast_stickers_distrusted", "Forged and replayed stickers seen.", ("environment", "trust"), registry=own
        )
        self._refusals = Counter(
            "holdfast_source_refusals", "Reads of the documents that were not taken over.", ("reason",), registry=own
        )

    def __call__(self, event: Event) -> None:
        match event:
            case events.JobMoved(state=state, ended_at=datetime()) if state in JOB_TERMINAL:
                self._ended(event)
            case events.TaskMoved():
                self._task(event)
            case events.Progressed(task=task, progress=progress):
                self._step(task, progress.step.value)
            case events.Looked(environment=environment, took=took):
                self._turns.observe(took)
                self._looked[environment] = self._clock()
            case events.VerdictChanged():
                self._judged(event)
            case events.TurnFailed(terminal=terminal):
                self._failed.labels(str(terminal).lower()).inc()
            case events.LeaseTaken(environment=environment):
                self._leases.labels(environment, "taken").inc()
            case events.LeaseLost(environment=environment):
                self._leases.labels(environment, "lost").inc()
            case events.StickerDistrusted(environment=environment, trust=trust):
                self._distrusted.labels(environment, trust.value).inc()
            case events.SourceRefused(reason=reason):
                self._refusals.labels(reason).inc()
            case _:
                pass

    def _ended(self, event: events.JobMoved) -> None:
        assert event.ended_at is not None
        took = (event.ended_at - event.created_at).total_seconds()
        self._deployments.labels(event.environment, event.kind.value, event.state.value).observe(max(0.0, took))

    def _task(self, event: events.TaskMoved) -> None:
        if event.state in TASK_TERMINAL:
            self._tasks.labels(event.environment, event.state.value).inc()
            self._step(event.task, None)

    def _step(self, task: TaskId, step: str | None) -> None:
        now = self._clock()
        before = self._steps.pop(task, None)
        if before is not None:
            self._step_times.labels(before[0]).observe(now - before[1])
        if step is not None and len(self._steps) < TOGETHER:
            self._steps[task] = step, now

    def _judged(self, event: events.VerdictChanged) -> None:
        now, well = self._clock(), (Verdict.IN_SYNC, Verdict.UNKNOWN)
        if event.before is Verdict.IN_SYNC and event.after not in well:
            if event.environment in self._looked:
                self._detect.labels(event.environment).observe(now - self._looked[event.environment])
            if len(self._drifted) < TOGETHER:
                self._drifted[event.id] = now
        elif event.after is Verdict.IN_SYNC and event.id in self._drifted:
            self._heal.labels(event.environment).observe(now - self._drifted.pop(event.id))

    async def text(self, store: Store, reconciler: Reconciler, now: datetime) -> bytes:
        """Everything, in Prometheus' text format. Raises errors of the store."""
        gauges, rows = await store.read(lambda c: (_of_store(c, now), sources.all(c)))
        scrape = CollectorRegistry()
        scrape.register(_Told([*gauges, _of_sources(reconciler, rows, now), *_of_loop(reconciler)]))
        return generate_latest(self._registry) + generate_latest(scrape)


class _Told:
    """A collector of what has been read already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = tuple(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def _of_store(c: Connection, now: datetime) -> list[Metric]:
    placements = GaugeMetricFamily("holdfast_placements", "Placements by verdict.", labels=("environment", "verdict"))
    for environment, counts in history.counts_now(c).items():
        for verdict, count in counts.items():
            placements.add_metric((environment, verdict), count)
    ages = GaugeMetricFamily(
        "holdfast_look_age_seconds", "Since the last look that was recorded.", labels=("environment",)
    )
    declared = [row.id for row in environments.all(c) if row.undeclared_at is None]
    for environment in declared:
        if (last := history.last_decision(c, environment)) is not None:
            ages.add_metric((environment,), max(0.0, (now - last.until).total_seconds()))
    online = GaugeMetricFamily("release_agents_online", "Agents that were heard of lately.")
    present = agents.present(c, now, degraded=DEGRADED, offline=OFFLINE)
    online.add_metric((), present.get("online", 0))
    everybody = GaugeMetricFamily("holdfast_agents", "Agents by how they are there.", labels=("presence",))
    for presence, count in present.items():
        everybody.add_metric((presence,), count)
    return [placements, ages, online, everybody]


def _of_sources(reconciler: Reconciler, rows: Iterable[SourceRow], now: datetime) -> Metric:
    """Of those that are declared here, whichever process read them last; since the start, where none ever did."""
    written = {row.name: row.read_at for row in rows}
    ages = GaugeMetricFamily("holdfast_source_age_seconds", "Since a source was last taken.", labels=("source",))
    for name, reading in reconciler.sources.items():
        taken = max(filter(None, (reading.read_at, written.get(name))), default=reading.since)
        ages.add_metric((name,), max(0.0, (now - taken).total_seconds()))
    return ages


def _of_loop(reconciler: Reconciler) -> list[Metric]:
    depth = GaugeMetricFamily("holdfast_queue_depth", "Turns that wait for their turn.", labels=("wheel",))
    for wheel, count in reconciler.waiting.items():
        depth.add_metric((wheel,), count)
    failing = GaugeMetricFamily("holdfast_turns_failing", "Keys whose turns fail in a row.", labels=("wheel",))
    for wheel, count in Tally(key.partition(":")[0] for key in reconciler.failing).items():
        failing.add_metric((wheel,), count)
    return [depth, failing]
