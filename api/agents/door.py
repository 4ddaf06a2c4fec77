"""The door for agents: mutual TLS of its own, where the server sees the certificate, served on the daemon's loop.

A connection costs what it holds, so it is one small object: HTTP until it is upgraded, then frames. None has a timer or
a task of its own; one sweep ends what takes too long.

Without a certificate one gets as far as `join`. What a certificate is worth is asked of the switchboard with every
request and every frame. No session is resumed: each connection shows its certificate anew.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Never, Protocol, cast

import anyio
import structlog
from anyio.abc import TaskGroup, TaskStatus

from api.agents import memory
from api.agents.exchange import Exchange
from api.agents.polling import Polls
from api.agents.switchboard import Switchboard

BACKLOG: Final = 4096  # connections that wait to be accepted; the system's own limit is often that
ON_THE_WAY: Final = 256  # handshakes and first requests at a time: so the first of a storm are not as late as the last
BESIDE: Final = 100  # are begun with all the same, each SWEEP, that whoever dawdles on the way keeps nobody out
FULL_SECONDS: Final = 0.5  # until it is looked again for a free place
SHUTDOWN_SECONDS: Final = 2.0  # for the peer's part in the end of TLS
CLOSING_SECONDS: Final = 5.0  # for a peer that takes nothing of what is sent to it
DRAIN_SECONDS: Final = 1.0  # for the last words when the process ends
SWEEP: Final = 1.0
MANY: Final = 100  # connections that came: worth giving memory back
SELDOM: Final = 30.0  # seconds between two times

_log: Final = structlog.get_logger("agents")


class Enrol(Protocol):
    """What joins and renewals are answered: of the path, the body, the certificate that was shown, as DER, and the
    address it came from."""

    async def __call__(
        self, method: str, path: str, body: bytes, certificate: bytes | None, peer: str, /
    ) -> tuple[int, Mapping[str, Any]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one door takes upon itself; spans in seconds."""

    connections: int = 20_000
    handshake: float = 60.0  # for TLS: in a storm of thousands the last is served late
    request: float = 15.0  # from the connection, or from a request's first byte, to its last
    idle: float = 60.0  # between an answer and the next request
    enrolments: int = 32  # joins and renewals under way


class Door:
    """One listening socket. `tls` is asked for each connection, so that a new certificate serves from the next on; what
    it gives is as `api.agents.tls.context` makes it."""

    def __init__(
        self, switchboard: Switchboard, enrol: Enrol, tls: Callable[[], ssl.SSLContext], limits: Limits | None = None
    ) -> None:
        self.switchboard, self.enrol, self.limits = switchboard, enrol, limits or Limits()
        self.polls = Polls(switchboard)
        self.patience = 0.0  # seconds, less those in which this process came to nothing: what waits is nobody's delay
        self.due: dict[Connection, float] = {}  # who is broken off when, unless something happens before
        self.enrolling = 0
        self.tasks: TaskGroup
        self._tls = tls
        self._connections: set[Connection] = set()
        self._queue: deque[socket.socket] = deque()  # have come, and are yet to be begun with
        self._arriving: set[asyncio.Task[None]] = set()
        self._fresh: set[Connection] = set()  # have yet to say what they came for
        self._came = self._came_before = 0  # since memory was given back; at the sweep before
        self._given_back = 0.0
        self._left, self._closing = anyio.Event(), False  # all have

    async def serve(self, host: str, port: int, *, task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED) -> Never:  # type: ignore[misc]  # it ends by being cancelled
        """Listen until cancelled. Tells its port once it listens."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family, backlog=BACKLOG) as listener:
            listener.setblocking(False)
            async with anyio.create_task_group() as self.tasks:
                try:
                    with self._accepting(listener):
                        task_status.started(listener.getsockname()[1])
                        await self._sweeping()
                finally:
                    await self._close()

    @contextmanager
    def _accepting(self, listener: socket.socket) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        self._listen(listener)
        try:
            yield
        finally:
            self._closing = True
            loop.remove_reader(listener)

    def _listen(self, listener: socket.socket) -> None:
        if not self._closing:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        """Take all who wait, for the system's own queue is short, and begin with as many as can be served at a time.
        Where there is no place for more, whoever comes waits in the system's queue and is not refused."""
        try:
            while len(self._connections) + len(self._arriving) + len(self._queue) < self.limits.connections:
                sock, _ = listener.accept()
                sock.setblocking(False)
                self._queue.append(sock)
            self._pause(listener, FULL_SECONDS)
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            pass
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            _log.warning("agents.door.full", error=str(error))
            self._pause(listener, FULL_SECONDS)
        self._admit()

    def _admit(self) -> None:
        while self._queue and len(self._arriving) + len(self._fresh) < ON_THE_WAY and not self._closing:
            self._begin()

    def _begin(self) -> None:
        task = asyncio.get_running_loop().create_task(self._arrive(self._queue.popleft()))
        self._arriving.add(task)
        task.add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._arriving.discard(task)
        self._admit()

    def _pause(self, listener: socket.socket, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        loop.call_later(seconds, self._listen, listener)

    async def _arrive(self, sock: socket.socket) -> None:
        """TLS with one peer; afterwards its connection lives by what it is called back with."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Connection(self),
                sock,
                ssl=self._tls(),
                ssl_handshake_timeout=self.limits.handshake,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        except OSError as error:  # TLS errors and time-outs are among them
            _log.debug("agents.door.handshake_failed", error=str(error))

    def came(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._fresh.add(connection)
        self._came += 1
        connection.until(self.limits.request)

    def settled(self, connection: Connection) -> None:
        """It has said what it came for, and takes its time from now on."""
        self.due.pop(connection, None)
        self._fresh.discard(connection)
        self._admit()

    def went(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._fresh.discard(connection)
        self._admit()
        if self._closing and not self._connections:
            self._left.set()
        self.due.pop(connection, None)

    async def _sweeping(self) -> None:
        before = time.monotonic()
        while True:
            await asyncio.sleep(SWEEP)
            now = time.monotonic()
            self.patience += min(now - before, 2 * SWEEP)
            for connection in [one for one, due in self.due.items() if due <= self.patience]:
                connection.abort()
            self.polls.sweep(now)
            for _ in range(min(BESIDE, len(self._queue))):
                self._begin()
            before = now
            self._tidy()

    def _tidy(self) -> None:
        """After many have come, and when nobody is on his way in any more."""
        quiet = not self._arriving and self._came == self._came_before
        if self._came >= MANY and quiet and time.monotonic() - self._given_back > SELDOM:
            self._came, self._given_back = 0, time.monotonic()
            memory.give_back()
        self._came_before = self._came

    async def _close(self) -> None:
        """Say goodbye to all, and let go of whoever does not hear it."""
        while self._queue:
            self._queue.popleft().close()
        arriving = list(self._arriving)
        for task in arriving:
            task.cancel()
        self.switchboard.close()
        with anyio.CancelScope(shield=True):
            await asyncio.gather(*arriving, return_exceptions=True)
            for connection in list(self._connections):
                connection.close()
            with anyio.move_on_after(DRAIN_SECONDS):
                await self._gone()
            for connection in list(self._connections):
                connection.abort()
            with anyio.move_on_after(DRAIN_SECONDS):
                await self._gone()
            await asyncio.sleep(0)  # the system's handles are let go of one turn of the loop later

    async def _gone(self) -> None:
        if self._connections:
            await self._left.wait()


class Part(Protocol):
    """What a connection is at the moment: HTTP, or frames."""

    def received(self, data: bytes, /) -> None: ...

    def lost(self) -> None: ...


class Connection(asyncio.Protocol):
    """One peer. `serial` is that of the certificate it showed and TLS verified, None without one."""

    __slots__ = ("digest", "door", "part", "peer", "serial", "transport")
    transport: asyncio.Transport
    part: Part

    def __init__(self, door: Door) -> None:
        self.door = door
        self.serial: int | None = None
        self.digest = ""  # of that certificate
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        certificate = transport.get_extra_info("ssl_object").getpeercert()
        if certificate:
            self.serial = int(certificate["serialNumber"], 16)
            self.digest = hashlib.sha256(self.certificate() or b"").hexdigest()
        self.peer = str((transport.get_extra_info("peername") or ("",))[0])
        self.part = Exchange(self)
        self.door.came(self)

    def data_received(self, data: bytes) -> None:
        self.part.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.door.went(self)
        self.part.lost()

    def until(self, seconds: float | None) -> None:
        """Break the connection off after so many seconds, unless something is said of it before; None: not at all."""
        if seconds is None:
            self.door.settled(self)
        else:
            self.door.due[self] = self.door.patience + seconds

    def certificate(self) -> bytes | None:
        """As it was shown, DER."""
        shown: bytes | None = self.transport.get_extra_info("ssl_object").getpeercert(True)
        return shown

    def close(self) -> None:
        """What was written before goes out, if it is taken."""
        self.until(CLOSING_SECONDS)
        self.transport.close()

    def abort(self) -> None:
        self.until(None)
        self.transport.abort()
