"""Proof: consecutive good answers of one instance, or a sentence saying why there is none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

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
    """Ask until `answers` (else the declared number of) consecutive answers of one instance are good and it has
    answered well for the declared minimum, or until the declared deadline. Without a declared check, one look that
    finds the instance running is all the proof there is."""
    rules = health or UNDECLARED
    wanted = answers or rules.successes
    streak = _Streak(wanted=wanted, minimum=rules.minimum.total_seconds(), declared=health is not None)
    deadline = anyio.current_time() + rules.deadline.total_seconds()
    while True:
        workload = await glimpse()
        now = anyio.current_time()
        if verdict := streak.judge(workload, now):
            return verdict
        if now + rules.interval.total_seconds() > deadline:
            return Disproven(reason=f"not healthy within {rules.deadline.total_seconds():g} s: {streak.last}")
        await anyio.sleep(rules.interval.total_seconds())


class _Streak:
    """The run of good answers so far."""

    def __init__(self, *, wanted: int, minimum: float, declared: bool) -> None:
        self.wanted, self.minimum, self.declared = wanted, minimum, declared
        self.good = self.exits = 0
        self.since: float | None = None
        self.first: Workload | None = None
        self.last = "no answer"

    def judge(self, workload: Workload | None, now: float) -> Proven | Disproven | None:
        if workload is None:
            return Disproven(reason="the instance is gone")
        self.first = self.first or workload
        if workload.restarts - self.first.restarts >= MAX_RESTARTS:
            return Disproven(reason=f"restarted {workload.restarts - self.first.restarts} times while being proven")
        if workload.state is WorkloadState.STOPPED:
            return self._exited(workload)
        if not self._is_good(workload):
            self.good, self.since, self.last = (
                0,
                None,
                f"{workload.state}, {workload.health.detail or workload.health.state}",
            )
            return None
        if self.good and self.first.started_at != workload.started_at:
            self.good, self.since = 0, None
        self.first = workload if self.good == 0 else self.first
        self.good, self.since = self.good + 1, self.since if self.since is not None else now
        if self.good >= self.wanted and now - self.since >= self.minimum:
            return Proven(workload=workload, answers=self.good)
        return None

    def _is_good(self, workload: Workload) -> bool:
        fine = (HealthState.HEALTHY,) if self.declared else (HealthState.HEALTHY, HealthState.UNCHECKED)
        return workload.state is WorkloadState.RUNNING and workload.health.state in fine

    def _exited(self, workload: Workload) -> Disproven | None:
        self.exits, self.good, self.since = self.exits + 1, 0, None
        code = "" if workload.exit_code is None else f" with code {workload.exit_code}"
        self.last = f"exited{code}"
        return Disproven(reason=self.last) if self.exits >= 2 else None
