"""The line to a Windows host: the requests of those who look, and of one who acts, as the helper takes them."""

from __future__ import annotations

import base64
import errno
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import anyio
import anyio.lowlevel

from drivers.errors import DriverError, OutcomeUnknown, Refused
from drivers.windows.wire import CLOSED_WITHIN, Station, Wire
from drivers.winrm.errors import Silent

CHANGED_WITHIN: Final = 300.0  # seconds for one change; the longest unpacks and hashes a whole tree
BEAT: Final = 25.0  # seconds between two signs of life to a helper that holds locks for us; it waits for 90
LARGEST_REPLY: Final = 96 << 10


class Gaze:
    """Requests that change nothing, asked of any helper of the host."""

    def __init__(self, station: Station) -> None:
        self.station = station

    async def see(self, do: str, where: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        return await self.station.see({"do": do, **where, **fields}, self.station.answers_within)

    async def wait(self, do: str, where: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        longer = float(fields["within"])
        return await self.station.see({"do": do, **where, **fields}, self.station.answers_within + longer)

    @asynccontextmanager
    async def connected(self, address: str, port: int, within: float) -> AsyncIterator[tuple[Reply, Reply]]:
        """A question to a socket of the host, in one request. Raises OSError as a connection from here would."""
        reply = Reply(self, {"address": address, "port": port, "limit": LARGEST_REPLY, "within": within})
        yield reply, reply
        if not reply.asked:  # whoever reads nothing wants to know whether somebody listens
            await reply.exchange(b"")


class Reply:
    """Both ends of a stream on which one question is asked and one answer read."""

    def __init__(self, gaze: Gaze, ask: Mapping[str, Any]) -> None:
        self._gaze, self._ask = gaze, ask
        self._written, self._answer = bytearray(), b""
        self.asked = False

    def write(self, data: bytes, /) -> None:
        self._written += data

    async def read(self, n: int, /) -> bytes:
        if not self.asked:
            self.asked = True
            await self.exchange(bytes(self._written))
        found, self._answer = self._answer[:n], self._answer[n:]
        return found

    async def exchange(self, content: bytes) -> None:
        ask = {**self._ask, "content": base64.b64encode(content).decode()}
        try:
            answer = await self._gaze.wait("exchange", {}, **ask)
        except DriverError as error:
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH)) from error
        if answer["refused"] is None:
            raise TimeoutError
        if answer["refused"]:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        self._answer = base64.b64decode(answer["content"])


class Grip:
    """Requests of one who acts. What it holds, it holds for as long as the helper runs that it began with: lost with
    the connection, every further request is `Cut`, and whoever continues looks and holds anew."""

    def __init__(self, station: Station) -> None:
        self.station = station
        self.wire: Wire | None = None

    async def __call__(self, do: str, fields: Mapping[str, Any], *, within: float = CHANGED_WITHIN) -> dict[str, Any]:
        """Cancelled, it waits for the host to be done with this one, so that nothing goes on unheld."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        with anyio.CancelScope(shield=True):
            wire = await self._standing()
            try:
                found = await wire.ask({"do": do, **fields}, within)
            except Silent as error:
                raise OutcomeUnknown(str(error)) from None
        await anyio.lowlevel.checkpoint()
        return found

    async def _standing(self) -> Wire:
        """The helper that holds for us, from the first request on: a kept one that still answers, or a new one."""
        if self.wire is not None:
            return self.wire
        kept = self.station.free()
        if kept is not None:
            try:
                await kept.ask({"do": "beat"}, self.station.answers_within)
                self.wire = kept
                return kept
            except DriverError:
                self.station.give_back(kept)
        self.wire = await self.station.wire()
        return self.wire

    async def beat(self) -> None:
        """For as long as something is held."""
        while True:
            await anyio.sleep(BEAT)
            if self.wire is not None and self.wire.lost is None:
                with suppress(DriverError):
                    await self("beat", {})

    async def aclose(self) -> None:
        """Everything is let go when this returns, unless the host is lost, which lets go by itself."""
        if self.wire is not None:
            wire, self.wire = self.wire, None
            if wire.lost is None:
                with suppress(DriverError):
                    await wire.ask({"do": "close"}, CLOSED_WITHIN)
                self.station.give_back(wire)
            else:
                await wire.aclose()


@asynccontextmanager
async def gripped(station: Station) -> AsyncIterator[Grip]:
    grip = Grip(station)
    failed: BaseException | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(grip.beat)
        try:
            yield grip
        except Exception as error:  # leaves as it came, not as a group of one
            failed = error
        finally:
            with anyio.CancelScope(shield=True):
                await grip.aclose()
            group.cancel_scope.cancel()
    if failed is not None:
        raise failed


def windows_of(machine: str) -> Any:
    """The platform whose programs run there."""
    from drivers.oci.manifest import Platform

    known = {"AMD64": "amd64", "ARM64": "arm64", "x86": "386"}
    if machine not in known:
        raise Refused(f"the host calls its machine {machine[:40]!r}, which no artifact is made for")
    return Platform(os="windows", architecture=known[machine])
