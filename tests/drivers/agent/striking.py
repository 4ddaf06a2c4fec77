"""Who is killed with SIGKILL, and at which moment of a deploy: the engine, the agent that works on it, or both.

The moment is a step that the agent has come to (``step_prove``), or one of its changing calls to the engine: before
it is sent, or so many seconds into it.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from drivers.agent.duty import failpoints
from drivers.docker.engine import Engine

VARIABLE: Final = "HOLDFAST_TEST_STRIKE"


@dataclass(frozen=True, kw_only=True)
class Strike:
    """`engine` is the process id of the one that is killed; 0 kills none."""

    engine: int = 0
    itself: bool = False
    step: str = ""
    call: int = -1  # counted from 0
    into: float = 0.0

    def environment(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}

    def now(self, *_: object) -> None:
        if self.engine:
            os.kill(self.engine, signal.SIGKILL)
        if self.itself:
            os.kill(os.getpid(), signal.SIGKILL)


def arm() -> None:
    """This process, as its environment says."""
    if VARIABLE not in os.environ:
        return
    strike = Strike(**json.loads(os.environ[VARIABLE]))
    if strike.step:
        failpoints._reach = failpoints.armed(f"{strike.step}:kill", strike.now)
        return
    Engine._change = _striking(strike, Engine._change)  # type: ignore[method-assign]


def _striking(strike: Strike, change: Callable[..., Any]) -> Callable[..., Any]:
    left = strike.call

    async def striking(self: Engine, call: Any) -> Any:
        nonlocal left
        left -= 1
        if left == -1 and strike.into:
            threading.Timer(strike.into, strike.now).start()
        elif left == -1:
            strike.now()
        return await change(self, call)

    return striking
