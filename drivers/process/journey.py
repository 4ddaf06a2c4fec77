"""An action on another machine, carried on when the connection is lost in the middle of it: its supervisors go on, the
locks are let go, and whoever comes back looks at what was done and finishes it under the same key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final

import anyio

from drivers.contract import Action, Progress, Receipt, Report, Step
from drivers.errors import Busy, DriverError, OutcomeUnknown, Unreachable
from drivers.ssh.errors import Cut

RETURNS_WITHIN: Final = 60.0  # seconds after a cut in which the host may become reachable, and free, again
PAUSE: Final = 0.5


async def persist(
    action: Action,
    once: Callable[[Action], Awaitable[Receipt]],
    report: Report,
    *,
    returns_within: float | None = None,
) -> Receipt:
    """The receipt of the last try. A host that stays away is `OutcomeUnknown`, in the words of the cut."""
    patience = RETURNS_WITHIN if returns_within is None else returns_within
    end = anyio.current_time() + action.deadline.total_seconds()
    cut: Cut | None = None
    until = end
    while True:
        left = timedelta(seconds=max(0.001, end - anyio.current_time()))
        try:
            return await once(action if cut is None else replace(action, deadline=left))
        except (Cut, Unreachable, Busy) as error:
            if isinstance(error, Cut):
                cut, until = error, min(end, anyio.current_time() + patience)
                _tell(action, report)
            elif cut is None:
                raise
            if anyio.current_time() + PAUSE >= until:
                raise _lost(cut, error) from None
        await anyio.sleep(PAUSE)


def _tell(action: Action, report: Report) -> None:
    for change in action.changes:
        report(Progress(id=change.id, step=Step.LOOK, message="the connection was lost: look again and go on"))


def _lost(cut: Cut, last: DriverError) -> OutcomeUnknown:
    return OutcomeUnknown(str(cut) if last is cut else f"{cut}; since then: {last}")
