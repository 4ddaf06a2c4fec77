"""The way to the signer: one kept connection to its Unix socket, and a deadline for every answer."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import anyio

from drivers.agent import protocol
from drivers.agent.protocol import LARGEST_BODY, Task
from drivers.errors import Refused, Unreachable
from stickers.signature import Envelope

WITHIN: Final = 10.0  # seconds for an answer; the signer may read its documents once more for it
LARGEST: Final = LARGEST_BODY  # of an answer


class Signing:
    """An `Authorise`. `path` is the signer's socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._one = anyio.Lock()
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __call__(self, task: Task, body: str, /) -> Envelope:
        asked = json.dumps({"task": protocol.body(task), "body": body}).encode() + b"\n"
        try:
            with anyio.fail_after(WITHIN):
                async with self._one:
                    answer = await self._answered(asked)
        except TimeoutError:
            raise Unreachable(f"the signer at {self._path} did not answer within {WITHIN:g} s") from None
        if "envelope" in answer:
            return Envelope(answer["envelope"])
        if "refused" in answer:
            raise Refused(f"the signer refused ({answer.get('code')}): {answer['refused']}")
        raise Unreachable(f"the signer cannot sign now: {answer.get('away')}")

    async def aclose(self) -> None:
        self._drop()

    async def _answered(self, asked: bytes) -> Mapping[str, Any]:
        """Over the kept connection, and where that has ended, over a new one: a task that is signed twice is still
        carried out once."""
        kept = self._open is not None
        try:
            return await self._told(asked)
        except (OSError, ValueError, EOFError) as error:
            if not kept:
                why = getattr(error, "strerror", None) or str(error) or type(error).__name__
                raise Unreachable(f"the signer at {self._path} cannot be reached: {why}") from None
        return await self._answered(asked)

    async def _told(self, asked: bytes) -> Mapping[str, Any]:
        """What is cut off leaves no connection on which the next one would read another's answer."""
        whole = False
        try:
            reader, writer = self._open = self._open or await self._connected()
            writer.write(asked)
            await writer.drain()
            line = await reader.readline()
            if not line.endswith(b"\n"):
                raise EOFError("it ended the connection")
            answer = json.loads(line)
            if not isinstance(answer, dict):
                raise ValueError("it answered what is no map")
            whole = True
            return answer
        finally:
            if not whole:
                self._drop()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            place = f"/proc/self/fd/{directory}/{self._path.name}"  # a deep path exceeds the 107 bytes of an address
            return await asyncio.open_unix_connection(place, limit=LARGEST)
        finally:
            os.close(directory)

    def _drop(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None
