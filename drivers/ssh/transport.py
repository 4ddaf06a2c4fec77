"""A host as whoever runs things there sees it: run a program, write a file, read one, reach a socket. Whatever is asked
goes over the one kept connection."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import anyio
import anyio.lowlevel
import asyncssh

from drivers.errors import DriverError, InvalidAction, OutcomeUnknown, Refused, Unreachable
from drivers.ssh import far
from drivers.ssh.errors import Cut, Silent
from drivers.ssh.pool import Kept
from drivers.ssh.wire import Order, Wire, answer_of, program, start

OUTPUT: Final = 1 << 20  # bytes of each stream of a program that are kept
LARGEST_FILE: Final = 64 << 20
MARGIN: Final = 10.0  # seconds beyond a program's own deadline until its answer counts as lost

_ERRORS: Final = (("refused", Refused), ("invalid", InvalidAction))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A program that has ended. `cut`: it printed more than is kept."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    cut: bool


class Running:
    """One program kept running on a host: started once however many ask at a time, and again when it was lost."""

    def __init__(self, kept: Kept, order: Callable[[], Order]) -> None:
        self.kept, self._order = kept, order
        self._wire: Wire | None = None
        self._starting: asyncio.Task[Wire] | None = None

    @property
    def name(self) -> str:
        return str(self.kept.ssh)

    async def wire(self) -> Wire:
        if self._wire is not None and self._wire.lost is None:
            return self._wire
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(self._start())
        return await asyncio.shield(self._starting)

    async def _start(self) -> Wire:
        try:
            with self.kept.used():
                connection = await self.kept.connection()
                self._wire = await start(connection, self.name, self._order(), self.kept.ssh.answers_within)
                return self._wire
        finally:
            self._starting = None

    async def aclose(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        if self._wire is not None:
            self._wire.close()


class Host:
    """One host over its kept connection."""

    def __init__(self, kept: Kept, python: str = "python3") -> None:
        self.kept = kept
        self._far = Running(kept, lambda: Order(program=program(far.__file__), python=python))

    @property
    def name(self) -> str:
        return str(self.kept.ssh)

    # -- programs and files ------------------------------------------------------------------------------------------

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        limit: int = OUTPUT,
    ) -> Ran:
        """Run a program to its end. One that is not done in time is ended with its process group, on the host and
        whether or not the host can still be reached, and is `OutcomeUnknown`; so is one whose caller is cancelled."""
        seconds = self.kept.ssh.answers_within if timeout is None else timeout
        request = {"do": "run", "argv": list(argv), "timeout": seconds, "cwd": cwd, "limit": limit}
        if env is not None:
            request["env"] = dict(env)
        answer = await self._asked(request, within=seconds + MARGIN, body=stdin)
        if answer["exit_code"] is None:
            raise OutcomeUnknown(
                f"{self.name}: {argv[0]} did not end within {seconds:g} s; its process group was ended"
            )
        return Ran(
            exit_code=answer["exit_code"],
            stdout=base64.b64decode(answer["stdout"]),
            stderr=base64.b64decode(answer["stderr"]),
            cut=answer["cut"],
        )

    async def put(self, content: bytes, path: str, *, root: str, mode: int = 0o644) -> None:
        """Write a file below the root: all of it or nothing, on the disk when this returns. Directories on the way are
        made; the path leads through no link. Cancelled, it waits for the host to be done."""
        if len(content) > LARGEST_FILE:
            raise InvalidAction(f"{path} has {len(content)} bytes, at most {LARGEST_FILE} are written")
        request = {"do": "put", "root": root, "path": path, "mode": mode, "bytes": len(content)}
        request["sha256"] = hashlib.sha256(content).hexdigest()
        within = self.kept.ssh.answers_within + len(content) / (1 << 20)
        await anyio.lowlevel.checkpoint_if_cancelled()
        with anyio.CancelScope(shield=True):
            await self._asked(request, within=within, body=content)
        await anyio.lowlevel.checkpoint()

    async def get(self, path: str, *, root: str, limit: int = OUTPUT) -> bytes | None:
        """The content of a regular file below the root; None where there is none."""
        try:
            answer = await self._asked(
                {"do": "get", "root": root, "path": path, "limit": limit}, within=self.kept.ssh.answers_within
            )
        except Cut as error:  # nothing was to be changed
            raise Unreachable(str(error)) from None
        return None if answer["content"] is None else base64.b64decode(answer["content"])

    async def _asked(self, request: Mapping[str, Any], *, within: float, body: bytes = b"") -> Mapping[str, Any]:
        with self.kept.used():
            wire = await self._far.wire()
            try:
                answer = await wire.ask(request, within=within, body=body)
            except Silent as error:
                raise OutcomeUnknown(str(error)) from None
        return answer_of(answer, _ERRORS)

    # -- sockets -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def connected(self, address: str, port: int) -> AsyncIterator[tuple[Any, Any]]:
        """A TCP connection that begins on the host, for questions to what listens on its own addresses. Raises OSError
        as a connection from here would."""
        with self.kept.used():
            try:
                connection = await self.kept.connection()
                reader, writer = await connection.open_connection(address, port, encoding=None)
            except asyncssh.ChannelOpenError as error:
                raise _as_os_error(error) from None
            except (DriverError, asyncssh.Error) as error:
                raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH)) from error
            try:
                yield reader, writer
            finally:
                writer.channel.abort()

    async def unix(self, path: str) -> tuple[Any, Any]:
        """A connection to a Unix socket of the host: what reads from it, and what writes to it."""
        connection = await self.kept.connection()
        try:
            return await connection.open_unix_connection(path, encoding=None)
        except asyncssh.ChannelOpenError as error:
            raise Unreachable(f"{self.name}: {path} cannot be reached there: {error.reason}") from None
        except (asyncssh.Error, OSError) as error:
            raise Unreachable(f"{self.name}: the connection was lost: {error}") from None

    async def aclose(self) -> None:
        await self._far.aclose()


def _as_os_error(error: asyncssh.ChannelOpenError) -> OSError:
    if error.code == asyncssh.OPEN_CONNECT_FAILED:
        return ConnectionRefusedError(errno.ECONNREFUSED, error.reason)
    return PermissionError(errno.EACCES, f"the host forwards nothing: {error.reason}")
