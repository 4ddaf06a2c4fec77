"""A fleet in memory that lives in a process of its own, so that what a replica holds can be measured without it.

Frames of pickled objects over a Unix socket, one call at a time to a connection: what is asked, and what is answered.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Final

import anyio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from drivers.contract import Action, Capabilities, Look, Progress, Receipt, Report, Unit
from drivers.memory import MemoryDriver, World
from stickers.names import TargetId
from stickers.observation import Observation
from tests.reconciler import rig

LENGTH: Final = 8
MOST: Final = 1 << 30


class FarDriver:
    """The memory driver as it is reached from another process. Its observations are new objects each time."""

    kind: ClassVar[str] = "memory"
    capabilities: ClassVar[Capabilities] = Capabilities(unit=Unit.COMPONENT)

    def __init__(self, path: Path) -> None:
        self._path = path
        self._free: list[SocketStream] = []

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        found: Mapping[TargetId, Observation] = await self._asked("observe", tuple(looks))
        return found

    async def apply(self, action: Action, *, report: Report) -> Receipt:
        lines, receipt = await self._asked("apply", action)
        for line in lines:
            report(line)
        assert isinstance(receipt, Receipt)
        return receipt

    async def aclose(self) -> None:
        for stream in self._free:
            await stream.aclose()

    async def _asked(self, verb: str, what: object) -> Any:
        stream = self._free.pop() if self._free else await anyio.connect_unix(self._path)
        await _said(stream, (verb, what))
        answer = await _heard(BufferedByteReceiveStream(stream))
        self._free.append(stream)
        return answer


@contextmanager
def far_fleet(place: Path) -> Iterator[Path]:
    """The socket at which the fleet answers, as long as the block lasts."""
    path = place / "fleet.sock"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.far_fleet", str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        yield path
    finally:
        process.kill()
        process.wait()


async def _answer(path: str) -> None:
    def utc() -> datetime:
        return datetime.now(UTC)

    driver = MemoryDriver(replace(rig.tools(), now=utc), World(now=utc))

    async def serve(stream: SocketStream) -> None:
        heard = BufferedByteReceiveStream(stream)
        async with stream:
            while True:
                try:
                    verb, what = await _heard(heard)
                    await _said(stream, await _done(driver, verb, what))
                except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
                    return

    listener = await anyio.create_unix_listener(path)
    print("listening", flush=True)
    await listener.serve(serve)


async def _done(driver: MemoryDriver, verb: str, what: Any) -> object:
    if verb == "observe":
        return await driver.observe(what)
    lines: list[Progress] = []
    return lines, await driver.apply(what, report=lines.append)


async def _said(stream: SocketStream, what: object) -> None:
    body = pickle.dumps(what)
    await stream.send(len(body).to_bytes(LENGTH, "big") + body)


async def _heard(stream: BufferedByteReceiveStream) -> Any:
    length = int.from_bytes(await stream.receive_exactly(LENGTH), "big")
    assert length < MOST
    return pickle.loads(await stream.receive_exactly(length))


@asynccontextmanager
async def reached(path: Path) -> AsyncIterator[FarDriver]:
    driver = FarDriver(path)
    try:
        yield driver
    finally:
        await driver.aclose()


if __name__ == "__main__":
    anyio.run(_answer, sys.argv[1])
