"""Named points at which a test may end this agent, as `kill -9` does. Inert unless `HOLDFAST_AGENT_FAILPOINT` is set
when the process starts: ``after_accept:kill``, or ``step_start:kill@2`` for the second time.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import Final

from drivers.contract import Step

VARIABLE: Final = "HOLDFAST_AGENT_FAILPOINT"
STEPS: Final = {step: "step_" + step.value.replace(" ", "_") for step in Step}
NAMES: Final = (
    "before_accept",
    "after_accept",
    "before_begin",
    "after_begin",
    *STEPS.values(),
    "after_effect",
    "after_result",
    "after_answer",
)


class BadFailpoint(ValueError):
    """A variable that names no point."""


def armed(text: str, strike: Callable[[int, int], None] = os.kill) -> Callable[[str], None]:
    """What is called at every point: it strikes this process at the named one, the n-th time."""
    name, _, rest = text.partition(":")
    verb, _, count = rest.partition("@")
    if name not in NAMES or verb != "kill" or (count and not (count.isascii() and count.isdigit())):
        raise BadFailpoint(f"{VARIABLE} is {text[:80]!r}; expected name:kill or name:kill@n")
    turn, passed = int(count or 1), Counter[str]()

    def reach(point: str) -> None:
        passed[point] += 1
        if point == name and passed[point] == turn:
            strike(os.getpid(), signal.SIGKILL)

    return reach


def _inert(point: str) -> None:
    pass


_reach = armed(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else _inert


def reached(point: str) -> None:
    _reach(point)
