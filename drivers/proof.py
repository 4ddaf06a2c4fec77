"""Proof: consecutive good answers of one instance, or a sentence saying why there is none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import anyio

from desired_state.health import Health
from stickers.observation import HealthState, Workload, WorkloadState

MAX_RESTARTS = 3  # of one instance while it is being proven; beyond, it is crash-looping and not worth waiting for

Glimpse = Callable[[], Awaitable[Workload | None]]  # one fresh look at the instance, its health asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    workload: Workload
    answers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disproven:
    reason: str


UNDECLARED = Health(check=None, successes=1, interval=timedelta(milliseconds=250), deadline=timedelta(seconds=30))  # type: ignore[arg-type]


async def stopped(glimpse: Glimpse, within: timedelta) -> Proven | Disproven:
    """Proof of a placement that is declared stopped."""
    deadline = anyio.current_time() + within.total_seconds()
    while True:
        workload = await glimpse()
        if workload is None or workload.state is WorkloadState.STOPPED:
            return (
                Disproven(reason="nothing stands there") if workload is None else Proven(workload=workload, answers=1)
            )
        if anyio.current_time() >= deadline:
            return Disproven(reason=f"still {workload.state} although declared stopped")
        await anyio.sleep(0.25)


async def healthy(glimpse: Glimpse, health: Health | None, *, answers: int | None = None) -> Proven | Disproven:
    """Ask until the declared number of consecutive answers of one instance are good and it has answered well for the
    declared minimum, all within the declared deadline. `answers` asks for so many instead, and for no minimum: for an
    instance that has been proven and is asked again. Without a declared check, one look that finds the instance
    running is all the proof there is."""
    rules = health or UNDECLARED
    minimum = rules.minimum.total_seconds() if answers is None else 0.0
    streak = _Streak(wanted=answers or rules.successes, minimum=minimum, declared=health is not None)
    deadline = anyio.current_time() + rules.deadline.total_seconds()
    while True:
        workload = await glimpse()
        now = anyio.current_time()
        verdict = streak.judge(workload, now)
        if isinstance(verdict, Disproven) or (verdict is not None and now <= deadline):
            return verdict
        if now + rules.interval.total_seconds() > deadline:
            return Disproven(reason=f"not healthy within {rules.deadline.total_seconds():g} s: {streak.last}")
        await anyio.sleep(rules.interval.total_seconds())


class _Streak:
    """The run of good answers so far, of one instance since one start."""

    def __init__(self, *, wanted: int, minimum: float, declared: bool) -> None:
        self.wanted, self.minimum, self.declared = wanted, minimum, declared
        self.good = self.exits = 0
        self.since = 0.0
        self.restarts: int | None = None  # at the first look
        self.run: tuple[str, datetime | None, int] | None = None  # which start of which instance the streak is of
        self.last = "no answer"

    def judge(self, workload: Workload | None, now: float) -> Proven | Disproven | None:
        if workload is None:
            return Disproven(reason="the instance is gone")
        self.restarts = workload.restarts if self.restarts is None else self.restarts
        restarts = workload.restarts - self.restarts
        if restarts >= MAX_RESTARTS:
            return Disproven(reason=f"restarted {restarts} times while being proven")
        if workload.state is WorkloadState.STOPPED:
            return self._exited(workload)
        if not self._is_good(workload):
            self.good, self.last = 0, f"{workload.state}, {workload.health.detail or workload.health.state}"
            return None
        return self._count(workload, now)

    def _count(self, workload: Workload, now: float) -> Proven | None:
        run = (workload.instance, workload.started_at, workload.restarts)
        if self.good and run != self.run:
            self.good, self.last = 0, "restarted"
        if self.good == 0:
            self.run, self.since = run, now
        self.good += 1
        if self.good >= self.wanted and now - self.since >= self.minimum:
            return Proven(workload=workload, answers=self.good)
        return None

    def _is_good(self, workload: Workload) -> bool:
        fine = (HealthState.HEALTHY,) if self.declared else (HealthState.HEALTHY, HealthState.UNCHECKED)
        return workload.state is WorkloadState.RUNNING and workload.health.state in fine

    def _exited(self, workload: Workload) -> Disproven | None:
        self.exits, self.good = self.exits + 1, 0
        code = "" if workload.exit_code is None else f" with code {workload.exit_code}"
        self.last = f"exited{code}"
        return Disproven(reason=self.last) if self.exits >= 2 else None
