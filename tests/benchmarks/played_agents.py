"""Many agents, played by one process: real mutual TLS with a certificate each, and as little else as can be.

python -m tests.benchmarks.played_agents DIRECTORY PORT talk|echo    is told what to do, a JSON line at a time
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import sys
import time
from pathlib import Path
from typing import Any, Final, cast

import anyio
from websockets.frames import apply_mask  # type: ignore[attr-defined]

from drivers.agent import protocol
from drivers.agent.protocol import Beat, Hello, Seen

UPGRADE: Final = (
    b"GET /agent/v1/channel HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
MASK: Final = b"\x11\x22\x33\x44"
SOON: Final = 2.0  # as `drivers.agent.channels.channel` has it
AT_A_TIME: Final = 50
LIFE: Final = 20.0
PATIENCE: Final = 240.0


class Player:
    def __init__(self, directory: Path, port: int, talks: bool) -> None:
        self.directory, self.port, self.talks = directory, port, talks
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.load_verify_locations(cafile=directory / "authority.pem")
        self.there: dict[int, Played] = {}
        self.back: list[float] = []
        self.beats: list[float] = []
        self.told: list[float] = []
        self.failed: dict[str, int] = {}
        self.returns = False
        self._coming: set[asyncio.Task[None]] = set()

    async def do(self, order: dict[str, Any]) -> dict[str, Any]:
        match order["do"]:
            case "connect":
                return await self._connect(order["first"], order["to"])
            case "beat":
                return await self._beat(order["seconds"], order["every"])
            case "listen":
                self.told = []
                return {}
            case "told":
                await self._until(lambda: len(self.told) >= order["expect"])
                return {"at": self.told}
            case "return":
                self.back, self.failed, self.returns = [], {}, True
                return {}
            case "back":
                await self._until(lambda: len(self.there) >= order["expect"])
                return {"at": self.back, "failed": self.failed, "there": len(self.there)}
        raise ValueError(order)

    async def _connect(self, first: int, to: int) -> dict[str, Any]:
        """So many at a time, however long the machine makes them wait."""
        began = lived = time.monotonic()
        for number in range(first, to):
            if time.monotonic() - lived > LIFE:  # on a slow machine, or they would be taken for silent
                lived = time.monotonic()
                for agent in list(self.there.values()):
                    agent.beat()
            await self._until(lambda number=number: len(self.there) > number - AT_A_TIME)
            self._come(number, 0)
        await self._until(lambda: len(self.there) >= to)
        return {"took": time.monotonic() - began, "there": len(self.there), "failed": self.failed}

    def _come(self, number: int, pause: float) -> None:
        task = asyncio.get_running_loop().create_task(self._comes(number, pause))
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    async def _comes(self, number: int, pause: float) -> None:
        await asyncio.sleep(pause)
        try:
            await asyncio.get_running_loop().create_connection(lambda: Played(self, number), "127.0.0.1", self.port)
        except OSError as error:
            self.lost(number, type(error).__name__)

    def lost(self, number: int, why: str) -> None:
        if self.there.pop(number, None) is None:
            self.failed[why] = self.failed.get(why, 0) + 1
        if self.returns:
            self._come(number, random.uniform(0, SOON))

    async def _beat(self, seconds: float, every: float) -> dict[str, Any]:
        """Everybody in his turn, at an even pace."""
        self.beats = []
        agents = list(self.there.values())
        began, said = time.monotonic(), 0
        while (spent := time.monotonic() - began) < seconds:
            while said < spent * len(agents) / every:
                agents[said % len(agents)].beat()
                said += 1
            await asyncio.sleep(0.002)
        await self._until(lambda: len(self.beats) >= said)
        return {"said": said, "answered": len(self.beats), "seconds": time.monotonic() - began}

    async def _until(self, true: Any) -> None:
        with anyio.move_on_after(PATIENCE):
            while not true():  # noqa: ASYNC110 - what is waited for happens in other connections
                await asyncio.sleep(0.01)


class Played(asyncio.Protocol):
    """One agent: TLS by hand, for that needs least."""

    __slots__ = ("_heard", "_in", "_number", "_out", "_player", "_said_at", "_stage", "_tls", "_transport")
    _transport: asyncio.Transport

    def __init__(self, player: Player, number: int) -> None:
        self._player, self._number = player, number
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        papers = player.directory / f"{number}.pem"
        player.context.load_cert_chain(papers, player.directory / "key.pem")  # the next connection's own
        self._tls = player.context.wrap_bio(self._in, self._out, server_hostname="localhost")
        self._stage, self._heard, self._said_at = "tls", b"", 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._shake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._player.lost(self._number, f"lost in {self._stage}")

    def eof_received(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._in.write(data)
        if self._stage == "tls":
            self._shake()
        if self._stage != "tls":
            self._read()

    def beat(self) -> None:
        at = time.monotonic()
        text = protocol.text(Beat(at=int(at * 1000))).encode()
        self._said_at = at
        self._write(masked(text) if self._player.talks else text + b"\n")

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        self._stage = "upgrade" if self._player.talks else "there"
        if self._player.talks:
            self._write(UPGRADE)
        else:
            self._write(b"hello\n")

    def _read(self) -> None:
        try:
            while True:
                data = self._tls.read(65536)
                if not data:
                    self._transport.close()
                    return
                self._heard += data
                self._understand()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self._transport.abort()

    def _understand(self) -> None:
        if not self._player.talks:
            while b"\n" in self._heard:
                line, _, self._heard = self._heard.partition(b"\n")
                self._text(line)
            return
        if self._stage == "upgrade":
            head, _, self._heard = self._heard.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101"), head
            self._stage = "hello"
            hello = Hello(protocol=(1, 1), version="1.0", epoch=f"{self._number:032x}", at=0, kinds=("docker",))
            self._write(masked(protocol.text(hello).encode()))
        while len(self._heard) > 1:
            size, begin = self._heard[1], 2
            if size == 126:
                size, begin = int.from_bytes(self._heard[2:4], "big"), 4
            if len(self._heard) < begin + size:
                return
            text, self._heard = self._heard[begin : begin + size], self._heard[begin + size :]
            self._text(text)

    def _text(self, text: bytes) -> None:
        now = time.monotonic()
        if self._number not in self._player.there:
            self._stage = "there"
            self._player.there[self._number] = self
            self._player.back.append(now)
        elif b'"beat"' in text:
            self._player.beats.append(now - self._said_at)
        elif b'"look"' in text:
            look = json.loads(text)
            self._write(masked(protocol.text(Seen(id=look["id"], digest=look["seen"])).encode()))
        else:
            self._player.told.append(now)

    def _write(self, data: bytes) -> None:
        self._tls.write(data)
        self._flush()

    def _flush(self) -> None:
        if self._out.pending:
            self._transport.write(self._out.read())


def masked(text: bytes) -> bytes:
    size = len(text)
    head = b"\x81%c" % (0x80 | size) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
    return head + MASK + apply_mask(text, MASK)


async def play(directory: Path, port: int, talks: bool) -> None:
    player, loop = Player(directory, port, talks), asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await player.do(json.loads(line))), flush=True)


if __name__ == "__main__":
    where, at, what = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    anyio.run(play, where, at, what == "talk", backend_options={"use_uvloop": True})
