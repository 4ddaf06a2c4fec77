"""Named points before and after each durable step and effect, where a test may end or halt the process.

Inert unless `HOLDFAST_FAILPOINT` is set when the process starts: `name:kill` dies there at once, `name:kill@3` the
third time it is reached, `name:stop` halts the process until somebody continues it. The names are in `NAMES`.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from drivers.contract import Step

VARIABLE: Final = "HOLDFAST_FAILPOINT"

STEPS: Final = {step: "step_" + step.value.replace(" ", "_") for step in Step}  # before each step of a driver's action

NAMES: Final = (
    "before_lease",
    "after_lease",
    "before_accept",
    "after_accept",
    "before_look",
    "after_look",
    "before_record",
    "after_record",
    "before_job",
    "after_job",
    "before_begin",
    "after_begin",
    "before_intent",
    "after_intent",
    "before_effect",
    *STEPS.values(),
    "after_effect",
    "before_answer",
    "after_answer",
    "before_verify",
    "before_task_end",
    "after_task_end",
    "before_retry",
    "before_roll_back",
    "after_roll_back",
    "before_job_end",
    "after_job_end",
)

_SIGNALS: Final[Mapping[str, signal.Signals]] = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class BadFailpoint(ValueError):
    """A `HOLDFAST_FAILPOINT` that names no point or no verb."""


def armed(text: str, strike: Callable[[int, int], None] = os.kill) -> Callable[[str], None]:
    """What is called at every point: it strikes this process at the named one, the n-th time."""
    name, _, rest = text.partition(":")
    verb, _, count = rest.partition("@")
    if name not in NAMES or verb not in _SIGNALS or (count and not (count.isascii() and count.isdigit())):
        raise BadFailpoint(f"{VARIABLE} is {text[:80]!r}; expected name:kill, name:kill@n or name:stop")
    turn, passed = int(count or 1), Counter[str]()

    def reach(point: str) -> None:
        passed[point] += 1
        if point == name and passed[point] == turn:
            strike(os.getpid(), _SIGNALS[verb])

    return reach


def _inert(point: str) -> None:
    pass


def _at_start(environ: Mapping[str, str]) -> Callable[[str], None]:
    return armed(environ[VARIABLE]) if environ.get(VARIABLE) else _inert


_reach = _at_start(os.environ)


def reached(point: str) -> None:
    """Called at a point of `NAMES`, or of `STEPS`."""
    _reach(point)


def listen(reach: Callable[[str], None] | None) -> None:
    """Let the simulation be told of every point reached; None ends it."""
    global _reach
    _reach = reach or _inert
