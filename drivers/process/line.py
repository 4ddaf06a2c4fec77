"""The line to a host: plain requests, answered in worker threads, troubles translated to the driver's errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from drivers.blocking import Threads
from drivers.errors import Busy, Conflict, DriverError, InvalidAction, OutcomeUnknown, Refused, StaleFence, Unreachable
from drivers.process import host

T = TypeVar("T")

_ERRORS: Mapping[str, type[DriverError]] = {
    "refused": Refused,
    "invalid": InvalidAction,
    "busy": Busy,
    "conflict": Conflict,
    "stale_fence": StaleFence,
    "unreachable": Unreachable,
    "unknown": OutcomeUnknown,
}


class SecretsMissing(Refused):
    """The host would start the release, had it these secrets."""

    def __init__(self, text: str, missing: tuple[str, ...]) -> None:
        super().__init__(text)
        self.missing = missing


class Doors:
    """The threads to a host: looks wait neither for changes nor for those who wait."""

    def __init__(self, name: str) -> None:
        self.looking = Threads(f"{name}, looking", limit=4)
        self.acting = Threads(f"{name}, acting", limit=8)
        self.waiting = Threads(f"{name}, waiting", limit=128)


class Line:
    """Requests to one session of a host, which holds locks and orders until it is closed."""

    def __init__(self, session: host.Session, doors: Doors) -> None:
        self.session, self._doors = session, doors

    async def __call__(self, do: str, where: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        """For requests that change something: cancelled, it waits for the host to be done with this one, so that
        nothing goes on unheld. All of them are short."""
        return await self._send(self._doors.acting, {"do": do, **where, **fields}, abandon=False)

    async def see(self, do: str, where: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        """For requests that change nothing."""
        return await self._send(self._doors.looking, {"do": do, **where, **fields}, abandon=True)

    async def wait(self, do: str, where: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        """For requests that change nothing and wait for others: they take no thread from those that only look."""
        return await self._send(self._doors.waiting, {"do": do, **where, **fields}, abandon=True)

    async def _send(self, threads: Threads, request: Mapping[str, Any], *, abandon: bool) -> dict[str, Any]:
        return _read(await threads.run(partial(self.session.answer, request), abandon=abandon))

    async def run(self, call: Callable[[], T]) -> T:
        """Other blocking work on the host's files; cancelled, it waits for its end."""
        return await self._doors.acting.run(call)

    def close(self) -> None:
        self.session.close()


def _read(answer: Mapping[str, Any]) -> dict[str, Any]:
    error = answer.get("error")
    if error is None:
        found: dict[str, Any] = answer["answer"]
        return found
    if error["code"] == "secrets":
        raise SecretsMissing(f"{error['text']}: {', '.join(error['missing'])}", tuple(error["missing"]))
    raise _ERRORS.get(error["code"], Refused)(error["text"])
