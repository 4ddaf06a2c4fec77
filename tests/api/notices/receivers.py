"""Those who are told: an HTTP server and a mail server on loopback that keep what they hear."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Heard:
    """`status` is what the HTTP server answers."""

    port: int = 0
    status: int = 200
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    letters: list[str] = field(default_factory=list)


@asynccontextmanager
async def http() -> AsyncIterator[Heard]:
    heard = Heard()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        pairs = [line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line]
        headers = {name.lower(): value for name, value in pairs}
        body = await reader.readexactly(int(headers["content-length"]))
        heard.requests.append((headers, body))
        writer.write(f"HTTP/1.1 {heard.status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        writer.close()
        await writer.wait_closed()

    async with _served(answer, heard):
        yield heard


@asynccontextmanager
async def mail() -> AsyncIterator[Heard]:
    heard = Heard()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := (await reader.readline()).decode():
            if line.upper().startswith("DATA"):
                writer.write(b"354 go on\r\n")
                heard.letters.append((await reader.readuntil(b"\r\n.\r\n")).decode())
            if line.upper().startswith("QUIT"):
                break
            writer.write(b"250 fine\r\n")
        writer.write(b"221 bye\r\n")
        writer.close()
        await writer.wait_closed()

    async with _served(answer, heard):
        yield heard


@asynccontextmanager
async def _served(answer: object, heard: Heard) -> AsyncIterator[None]:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)  # type: ignore[arg-type]
    heard.port = server.sockets[0].getsockname()[1]
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()
