"""What goes wrong between a driver and its targets, by script or by dice. Every step is crossed before, in the middle
where it has one, and after its effect; at each crossing one fault may strike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

import anyio

from drivers.errors import Busy, OutcomeUnknown, Refused, Unreachable
from stickers.names import ActionKey, PlacementId, TargetId

READS: Final = frozenset({"observe", "look", "workload"})


class When(StrEnum):
    BEFORE = "before"
    BETWEEN = "between"  # what stood is stopped, and what comes is not yet started
    AFTER = "after"


class Trouble(StrEnum):
    UNREACHABLE = "unreachable"
    BUSY = "busy"
    REFUSED = "refused"
    LOST = "lost"  # the effect happened, its answer did not arrive
    SLOW = "slow"
    HANG = "hang"
    CRASH = "crash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """Where somebody is: `step` is `observe` or a step of `sequence.Hands`."""

    who: str
    target: TargetId
    step: str
    when: When = When.BEFORE
    id: PlacementId | None = None
    key: ActionKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What strikes at the next crossing that fits. None fits all; `times` None strikes until it is lifted."""

    trouble: Trouble
    step: str | None = None
    when: When | None = None
    times: int | None = 1
    seconds: float = 1.0  # of `SLOW`
    text: str = "no space left on the target"  # of `REFUSED`

    def fits(self, crossing: Crossing) -> bool:
        usual = When.AFTER if self.trouble is Trouble.LOST else When.BEFORE
        return self.step in (None, crossing.step) and crossing.when is (self.when or usual)

    async def strike(self, crossing: Crossing) -> None:
        """Delay, raise one of the driver's errors, or crash whoever is here."""
        place = f"{crossing.target} {crossing.when} {crossing.step}"
        match self.trouble:
            case Trouble.UNREACHABLE:
                raise Unreachable(f"{crossing.target} does not answer")
            case Trouble.BUSY:
                raise Busy(f"{crossing.target} is held by somebody else")
            case Trouble.REFUSED:
                raise Refused(self.text)
            case Trouble.LOST if crossing.step in READS:
                raise Unreachable(f"{crossing.target} does not answer")
            case Trouble.LOST:
                raise OutcomeUnknown(f"the answer was lost: {place}")
            case Trouble.SLOW:
                await anyio.sleep(self.seconds)
            case Trouble.HANG:
                await anyio.sleep_forever()
            case Trouble.CRASH:
                raise Crashed(crossing)


class Crashed(BaseException):
    """Whoever acted is gone, as by `kill -9`. No `except Exception` holds it up."""

    def __init__(self, crossing: Crossing) -> None:
        super().__init__(f"{crossing.who} crashed: {crossing.target} {crossing.when} {crossing.step}")
        self.crossing = crossing


Nemesis = Callable[[Crossing], Fault | None]


class Chance:
    """A nemesis that throws dice: at each crossing each trouble strikes with its own probability. `BETWEEN` only
    crashes, hangs and delays happen: nothing answers there that could refuse."""

    def __init__(self, dice: Random, rates: Mapping[Trouble, float], *, seconds: float = 2.0) -> None:
        self.dice, self.rates, self.seconds = dice, dict(rates), seconds

    def __call__(self, crossing: Crossing) -> Fault | None:
        throw, reached = self.dice.random(), 0.0
        for trouble, rate in self.rates.items():
            reached += rate
            if throw < reached:
                fault = Fault(trouble=trouble, when=crossing.when, seconds=self.dice.random() * self.seconds)
                return fault if self._can(trouble, crossing.when) else None
        return None

    def _can(self, trouble: Trouble, when: When) -> bool:
        if trouble is Trouble.LOST:
            return when is When.AFTER
        answers = trouble in (Trouble.UNREACHABLE, Trouble.BUSY, Trouble.REFUSED)
        return when is When.BEFORE or not answers
