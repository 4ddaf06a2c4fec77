"""How what runs behaves, by the seconds since its start: healthy, never healthy, dying, flapping, crash-looping."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final, Protocol

from stickers.observation import HealthState, WorkloadState


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What a script says of one age. `until` is the age at which it says something else; `began` is the age at which
    the run began that is seen: above zero after the runtime has restarted it by itself."""

    state: WorkloadState = WorkloadState.RUNNING
    health: HealthState = HealthState.HEALTHY
    detail: str = ""
    restarts: int = 0
    exit_code: int | None = None
    began: float = 0.0
    until: float = inf


class Script(Protocol):
    def at(self, age: float) -> Behaviour: ...


@dataclass(frozen=True, slots=True)
class Steady:
    """The same for ever."""

    behaviour: Behaviour

    def at(self, age: float) -> Behaviour:
        return self.behaviour


@dataclass(frozen=True, slots=True)
class Warming:
    """Healthy only after some seconds."""

    seconds: float

    def at(self, age: float) -> Behaviour:
        if age < self.seconds:
            return Behaviour(health=HealthState.UNHEALTHY, detail="answers 503", until=self.seconds)
        return Behaviour()


@dataclass(frozen=True, slots=True)
class Dying:
    """Healthy for some seconds; then it exits, or only falls ill."""

    after: float
    code: int = 1
    exits: bool = True

    def at(self, age: float) -> Behaviour:
        if age < self.after:
            return Behaviour(until=self.after)
        if self.exits:
            return Behaviour(state=WorkloadState.STOPPED, health=HealthState.UNKNOWN, exit_code=self.code)
        return Behaviour(health=HealthState.UNHEALTHY, detail="answers 500")


@dataclass(frozen=True, slots=True)
class Flapping:
    """Healthy and unhealthy by turns of `period` seconds."""

    period: float

    def at(self, age: float) -> Behaviour:
        turn = int(age // self.period)
        end = (turn + 1) * self.period
        if turn % 2 == 0:
            return Behaviour(until=end)
        return Behaviour(health=HealthState.UNHEALTHY, detail="answers 503", until=end)


@dataclass(frozen=True, slots=True)
class CrashLoop:
    """Answers for `up` seconds, exits, and is restarted by its runtime `down` seconds later, again and again."""

    up: float
    down: float

    def at(self, age: float) -> Behaviour:
        cycle = self.up + self.down
        turn = int(age // cycle)
        began = turn * cycle
        if age < began + self.up:
            return Behaviour(restarts=turn, began=began, until=began + self.up)
        ended = WorkloadState.RESTARTING
        return Behaviour(
            state=ended, health=HealthState.UNKNOWN, restarts=turn, exit_code=1, began=began, until=began + cycle
        )


HEALTHY: Final[Script] = Steady(Behaviour())
NEVER: Final[Script] = Steady(Behaviour(health=HealthState.UNHEALTHY, detail="answers 503"))

NAMED: Final[dict[str, Script]] = {
    "healthy": HEALTHY,
    "never": NEVER,
    "warms": Warming(5),
    "dies": Dying(20),
    "sickens": Dying(20, exits=False),
    "flaps": Flapping(10),
    "crashes": CrashLoop(1, 2),
}
