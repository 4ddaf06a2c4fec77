"""The server that agents are measured against, and its peer: a bare uvloop server that sends back each line over TLS.

python -m tests.benchmarks.agents_servers DIRECTORY PORT door|echo     says its port, then obeys "tell" and "look"
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import anyio
import structlog

from api.agents.authority import Served
from api.agents.door import BACKLOG, Door
from api.agents.roll import Contact, Member, State, Terms
from api.agents.switchboard import Switchboard
from api.agents.tls import context
from drivers.agent import protocol
from drivers.agent.protocol import Acknowledge, Answer, Result
from stickers.names import AgentName, Digest, TargetId

ORDER: Final = Digest("sha256:" + "0" * 64)
TOLD: Final = Acknowledge(task="0" * 64)  # about as long as a look


class Rows:
    """A roll of many, in memory."""

    def __init__(self, serials: list[int]) -> None:
        self._members = {serial: _member(number) for number, serial in enumerate(serials)}
        self._by_target = {target: (one,) for one in self._members.values() for target in one.targets}
        self.targets = tuple(self._by_target)

    def by_serial(self, serial: int) -> Member | None:
        return self._members.get(serial)

    def serves(self, target: TargetId) -> tuple[Member, ...]:
        return self._by_target.get(target, ())

    def terms(self, member: Member) -> Terms:
        return Terms()

    async def heard(self, agents: Mapping[AgentName, Contact], /) -> None: ...

    async def misused(self, serial: int, /) -> None: ...


def _member(number: int) -> Member:
    return Member(
        agent=AgentName(f"web-{number}"),
        generation=1,
        state=State.ACTIVE,
        targets=frozenset({TargetId(f"default/web-{number}")}),
        kinds=frozenset({"docker"}),
        signing=bytes(32),
        sealing="00" * 32,
    )


def shown(directory: Path) -> ssl.SSLContext:
    served = Served(pem=(directory / "server.pem").read_text(), not_after=datetime.now(UTC), issuer="")
    return context(served, (directory / "authority.pem").read_text())


async def serve(directory: Path, port: int) -> None:
    tls = shown(directory)

    async def keep(result: Result, answer: Answer) -> None: ...

    async def enrol(
        method: str, path: str, body: bytes, shown: bytes | None, peer: str
    ) -> tuple[int, Mapping[str, Any]]:
        return 404, {}

    rows = Rows(json.loads((directory / "serials.json").read_text()))
    board = Switchboard(rows, keep)

    async def look() -> int:
        looks = [board.look(target, ORDER, ORDER) for target in rows.targets]
        return len(await asyncio.gather(*looks))

    door = Door(board, enrol, lambda: tls)
    async with anyio.create_task_group() as tasks:
        await tasks.start(board.run)
        print(await tasks.start(door.serve, "127.0.0.1", port), flush=True)
        await obey(lambda: board.tell_all(TOLD), look)
        tasks.cancel_scope.cancel()


class Echo(asyncio.Protocol):
    __slots__ = ("_all", "_transport")

    def __init__(self, all: set[Any]) -> None:
        self._all = all

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._all.add(transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self._transport)


async def echo(directory: Path, port: int) -> None:
    tls = shown(directory)
    everybody: set[Any] = set()
    server = await asyncio.get_running_loop().create_server(
        lambda: Echo(everybody), "127.0.0.1", port, ssl=tls, backlog=BACKLOG
    )
    print(server.sockets[0].getsockname()[1], flush=True)

    async def tell() -> int:
        for transport in everybody:
            transport.write(protocol.text(TOLD).encode() + b"\n")
        return len(everybody)

    await obey(tell, tell)
    server.close()


async def obey(tell: Callable[[], Awaitable[int]], look: Callable[[], Awaitable[int]]) -> None:
    """Until nobody says anything any more."""
    loop = asyncio.get_running_loop()
    while order := await loop.run_in_executor(None, sys.stdin.readline):
        began = time.monotonic()
        told = await (look() if json.loads(order)["do"] == "look" else tell())
        print(json.dumps({"began": began, "ended": time.monotonic(), "told": told}), flush=True)


if __name__ == "__main__":
    quiet = structlog.make_filtering_bound_logger(logging.WARNING)  # what it prints is its answers
    structlog.configure(wrapper_class=quiet, logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    work = {"door": serve, "echo": echo}[sys.argv[3]]
    anyio.run(work, Path(sys.argv[1]), int(sys.argv[2]), backend_options={"use_uvloop": True})
