"""A job that is followed through lost connections: taken up again where it was, told once, and said.

The server drives the job, so a connection that breaks changes nothing about it; whoever watched asks for it anew, and
leaves out what was shown before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

from api import client
from api.problem import Problem
from api.settings import Settings

PATIENCE: Final = 120.0  # seconds without anything new, after which the watcher gives up; the job goes on
PAUSES: Final = (0.2, 0.5, 1.0, 2.0, 5.0)  # seconds before each try; the last again and again

Event = dict[str, Any]


def followed(settings: Settings, command: str, arguments: Event, *, patience: float = PATIENCE) -> Iterator[Event]:
    """The events of a command that makes or follows a job. A connection lost before the job is known is a problem."""
    told, stream = _Told(), client.events(settings, command, arguments)
    until, tries = 0.0, 0
    while True:
        try:
            for line in stream:
                if "event" not in line or told.is_new(line["event"]):
                    until, tries = 0.0, 0
                    yield line
            return
        except Problem as problem:
            if problem.code not in (client.LOST, "DRAINING", "STORE_UNAVAILABLE") or told.job is None:
                raise
            until = until or time.monotonic() + patience
            if time.monotonic() > until:
                raise _given_up(told.job, problem) from None
            if tries == 0:
                yield {"event": {"kind": "lost", "job": told.job, "detail": problem.detail}}
        time.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
        tries += 1
        stream = client.taken_up(settings, "follow", {"job": told.job})


def _given_up(job: str, problem: Problem) -> Problem:
    return Problem(client.LOST, f"{problem.detail}; the job goes on, and `holdfast job show {job} -f` follows it again")


class _Told:
    """What was shown: each line of progress, and the last state of the job and of each task."""

    def __init__(self) -> None:
        self.job: str | None = None
        self._states: dict[str, str] = {}
        self._lines: set[tuple[str, ...]] = set()

    def is_new(self, event: Event) -> bool:
        match event["kind"]:
            case "job":
                self.job = event["job"]
                return self._moved(event["job"], event["state"])
            case "task":
                return self._moved(event["task"], event["state"])
            case "progress":
                line = tuple(str(event[name]) for name in ("task", "at", "component", "step", "message"))
                return line not in self._lines and not self._lines.add(line)  # type: ignore[func-returns-value]
        return True

    def _moved(self, what: str, state: str) -> bool:
        moved = self._states.get(what) != state
        self._states[what] = state
        return moved
