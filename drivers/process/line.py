"""The line to a host: plain requests and their answers, troubles translated to the driver's errors. This machine's own
requests are answered in worker threads; those of another are in `wired`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from drivers.blocking import Threads
from drivers.contract import Ended, Errand
from drivers.errors import Busy, Conflict, DriverError, InvalidAction, OutcomeUnknown, Refused, StaleFence, Unreachable
from drivers.oci import artifacts
from drivers.oci.artifacts import Fetched
from drivers.oci.unpack import unpack
from drivers.process import host
from stickers.names import Artifact

if TYPE_CHECKING:
    from drivers.oci.registry import Access

Raw = Mapping[str, Any]  # as the host words it

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


class Sees(Protocol):
    """Requests to a host that change nothing."""

    async def see(self, do: str, where: Mapping[str, Any], **fields: Any) -> dict[str, Any]: ...

    async def wait(self, do: str, where: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        """For those that wait for others: they take no thread from those that only look."""
        ...


class Acts(Sees, Protocol):
    """Requests to one session of a host, which holds locks and orders until it is closed."""

    async def __call__(self, do: str, where: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        """For requests that change something: cancelled, it waits for the host to be done with this one, so that
        nothing goes on unheld. All of them are short."""
        ...


class Asks(Acts, Protocol):
    """A session of a host to which releases are brought."""

    @property
    def lost(self) -> bool:
        """Whether what it held is let go, because the host was lost."""
        ...

    async def fetch(self, artifact: Artifact, source: str, access: Access | None, staged: Raw) -> Fetched:
        """The artifact's layers, for the machine that the host is."""
        ...

    async def unpack(self, fetched: Fetched, where: Raw, staged: Raw) -> None:
        """Those layers as the staged tree of the host."""
        ...

    async def aclose(self) -> None:
        """Let go of everything."""
        ...


class Line:
    """This machine itself."""

    lost = False

    def __init__(self, session: host.Session, doors: Doors) -> None:
        self.session, self._doors = session, doors

    async def __call__(self, do: str, where: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        return await self._send(self._doors.acting, {"do": do, **where, **fields}, abandon=False)

    async def see(self, do: str, where: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        return await self._send(self._doors.looking, {"do": do, **where, **fields}, abandon=True)

    async def wait(self, do: str, where: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        return await self._send(self._doors.waiting, {"do": do, **where, **fields}, abandon=True)

    async def _send(self, threads: Threads, request: Mapping[str, Any], *, abandon: bool) -> dict[str, Any]:
        return read(await threads.run(partial(self.session.answer, request), abandon=abandon))

    async def fetch(self, artifact: Artifact, source: str, access: Access | None, staged: Raw) -> Fetched:
        return await artifacts.fetch(artifact, source, Path(staged["layers"]), access)

    async def unpack(self, fetched: Fetched, where: Raw, staged: Raw) -> None:
        """Cancelled, it waits for its end."""
        await self._doors.acting.run(partial(unpack, fetched.layers, Path(staged["tree"])))

    async def aclose(self) -> None:
        self.session.close()


async def run(line: Acts, where: Raw, errand: Errand) -> Ended:
    """A program beside a deployment, on the host. Whoever leaves lets it go on, which keeps what was held."""
    seconds = errand.within.total_seconds()
    asked = {"argv": list(errand.argv), "env": dict(errand.environment), "within": seconds}
    token = (await line("run", where, **asked))["token"]
    ended = await line.wait("ran", {}, token=token, timeout=seconds)
    return Ended(exit_code=ended["exit_code"], why=ended["why"], said=ended["tail"])


def read(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What was answered, or the error that the host's stands for."""
    error = answer.get("error")
    if error is None:
        found: dict[str, Any] = answer["answer"]
        return found
    if error["code"] == "secrets":
        raise SecretsMissing(f"{error['text']}: {', '.join(error['missing'])}", tuple(error["missing"]))
    raise _ERRORS.get(error["code"], Refused)(error["text"])
