"""The helper on one host, kept and asked in JSON lines, one request at a time. How the lines come there is a channel's
part: WinRM or SSH."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import anyio

from drivers.blocking import Threads
from drivers.contract import Tools
from drivers.errors import DriverError, Refused, Unreachable
from drivers.process.line import read
from drivers.ssh.connection import Secret, Ssh
from drivers.windows import program
from drivers.winrm.connection import WinRm
from drivers.winrm.errors import Cut, NotWindows, Silent

CLOSED_WITHIN: Final = 5.0
OPENS_BEYOND: Final = 2.0  # seconds; a KDC that is silent is waited for by a library that knows no deadline of ours
TOGETHER: Final = 4  # programs kept on one host for those who only look
FIRST_REST: Final = 1.0  # seconds that a host which gave no answer is not tried again, twice as long each time
LONGEST_REST: Final = 30.0

T = TypeVar("T")
Resolve = Callable[[Any], Awaitable[str]]


class Channel(Protocol):
    """A program that runs on a host: what it is sent, and the lines it answers."""

    async def open(self) -> None: ...

    async def exchange(self, sent: bytes, within: float) -> bytes:
        """The next line after these were sent. Cancelled, or once it failed, the channel is of no more use."""
        ...

    async def aclose(self) -> None: ...


class Wire:
    """A helper that runs and answers. Lost once, it is lost for good."""

    def __init__(self, name: str, channel: Channel) -> None:
        self.name, self.channel = name, channel
        self.lost: DriverError | None = None
        self.machine = ""
        self._turn = asyncio.Lock()
        self._numbers = itertools.count(1)

    async def stand(self, within: float) -> None:
        await self.channel.open()
        said = self._json(await self.channel.exchange(program.opening(), within))
        if said.get("holdfast") != 1:
            raise NotWindows(f"{self.name}: what answers is not our program")
        self.machine = str(said["machine"])

    async def ask(self, request: Mapping[str, Any], within: float) -> dict[str, Any]:
        async with self._turn:
            if self.lost is not None:
                raise type(self.lost)(*self.lost.args)
            number = next(self._numbers)
            try:
                line = json.dumps({**request, "id": number}).encode() + b"\n"
                answer = self._json(await self.channel.exchange(line, within))
                if answer.get("id") != number:
                    raise Refused(f"{self.name}: what answers is not our program")
            except DriverError as error:
                self.lost = error
                raise
            except BaseException:  # cancelled: its answer may still come, and would be taken for the next one's
                self.lost = Cut(f"{self.name}: an answer was not waited for")
                raise
        return read(answer)

    def _json(self, line: bytes) -> dict[str, Any]:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise NotWindows(f"{self.name}: what answers is not our program: {line[:80]!r}")
        return found

    async def aclose(self) -> None:
        self.lost = self.lost or Cut(f"{self.name}: closed")
        await self.channel.aclose()


# -- channels ----------------------------------------------------------------------------------------------------------


class WinRmChannel:
    """Over WS-Management, by an SDK that blocks."""

    def __init__(self, winrm: WinRm, resolve: Resolve, threads: Threads) -> None:
        self._winrm, self._resolve, self._threads = winrm, resolve, threads
        self._shell: Any = None
        self._busy: asyncio.Task[Any] | None = None

    async def open(self) -> None:
        from drivers.winrm.shell import Shell  # pypsrp and requests, only where a host is reached over WinRM

        secrets = {
            name: await self._resolve(secret.reference)
            for name in ("password", "certificate", "key")
            if isinstance(secret := getattr(self._winrm, name), Secret)
        }
        shell = self._shell = Shell(self._winrm, secrets)
        within = self._winrm.answers_within
        try:
            async with asyncio.timeout(within + OPENS_BEYOND):
                await self._left_alone(partial(shell.open, program.POWERSHELL, program.arguments(), within))
        except TimeoutError:
            raise Silent(f"{self._winrm}: no shell stands after {within:g} s") from None

    async def exchange(self, sent: bytes, within: float) -> bytes:
        return await self._left_alone(partial(self._shell.exchange, sent, within))

    async def _left_alone(self, call: Callable[[], T]) -> T:
        """In a thread that is left to itself when it is not waited for; it ends with its own deadline."""
        busy: asyncio.Task[T] = asyncio.get_running_loop().create_task(self._threads.run(call))
        busy.add_done_callback(_seen)
        self._busy = busy
        return await asyncio.shield(busy)

    async def aclose(self) -> None:
        """What is on its way is ended by it; a shell that only opens is closed when it stands."""
        if self._shell is None:
            return
        shell, self._shell = self._shell, None
        close = partial(shell.close, CLOSED_WITHIN)
        with suppress(DriverError):
            await self._threads.run(close)
        if self._busy is not None and not self._busy.done():
            with suppress(DriverError):
                await self._busy
            with suppress(DriverError):
                await self._threads.run(close)


def _seen(task: asyncio.Task[Any]) -> None:
    """How a call ended that nobody waits for is nobody's business."""
    if not task.cancelled():
        task.exception()


class SshChannel:
    """Over the kept SSH connection to a Windows OpenSSH, which is given the same line as WinRM."""

    def __init__(self, kept: Any) -> None:
        self._kept = kept
        self._process: Any = None
        self._user: Any = None

    async def open(self) -> None:
        import asyncssh

        ssh: Ssh = self._kept.ssh
        self._user = self._kept.used()
        self._user.__enter__()
        try:
            connection = await self._kept.connection()
            with anyio.fail_after(ssh.answers_within):
                self._process = await connection.create_process(program.line(), encoding=None)
        except TimeoutError:
            raise Silent(f"{ssh} started nothing within {ssh.answers_within:g} s") from None
        except asyncssh.ChannelOpenError as error:
            raise Refused(f"{ssh} opens no session: {error.reason}") from None
        except (asyncssh.Error, OSError) as error:
            raise Unreachable(f"{ssh}: the connection was lost before anything was asked for: {error}") from None

    async def exchange(self, sent: bytes, within: float) -> bytes:
        import asyncssh

        try:
            with anyio.fail_after(within):
                self._process.stdin.write(sent)
                await self._process.stdin.drain()
                found = bytes(await self._process.stdout.readline())
        except TimeoutError:
            raise Silent(f"{self._kept.ssh} did not answer in time") from None
        except (asyncssh.Error, OSError) as error:
            raise Cut(f"{self._kept.ssh}: the connection was lost: {error}") from None
        if not found.endswith(b"\n"):
            raise await self._ended(found)
        return found.rstrip(b"\r\n")

    async def _ended(self, found: bytes) -> DriverError:
        name = self._kept.ssh
        if self._process.exit_status is None:
            return Cut(f"{name}: the connection was lost; what was asked for is to be looked at")
        said = (await self._process.stderr.read(2000) or found).decode(errors="replace").strip().splitlines()
        return NotWindows(f"{name}: the helper has ended with exit code {self._process.exit_status}: {said[:1]}")

    async def aclose(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None
        if self._user is not None:
            self._user.__exit__(None, None, None)
            self._user = None


# -- what is kept ------------------------------------------------------------------------------------------------------


class Station:
    """The helpers on one host: one to each who acts and a few to those who look, kept for a while after nobody needs
    them."""

    def __init__(self, name: str, answers_within: float, closes_after: float, channel: Callable[[], Channel]) -> None:
        self.name, self.answers_within, self._closes_after = name, answers_within, closes_after
        self._channel = channel
        self._free: list[tuple[Wire, float]] = []  # since when each is not used
        self._places = asyncio.Semaphore(TOGETHER)
        self._check: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._silent: tuple[DriverError, float, float] | None = None  # why, until when it rests, how long that was
        self.made = 0  # helpers so far

    async def wire(self) -> Wire:
        """A new helper."""
        loop = asyncio.get_running_loop()
        if self._silent is not None and loop.time() < self._silent[1]:
            raise type(self._silent[0])(*self._silent[0].args)
        wire = Wire(self.name, self._channel())
        try:
            await wire.stand(self.answers_within)
        except (Silent, Unreachable) as error:
            rest = FIRST_REST if self._silent is None else min(LONGEST_REST, 2 * self._silent[2])
            self._silent = error, loop.time() + rest, rest
            self._end(wire)
            raise
        except BaseException:
            self._end(wire)
            raise
        self._silent = None
        self.made += 1
        return wire

    def free(self) -> Wire | None:
        """A helper that nobody uses now; it may have been lost meanwhile."""
        return self._free.pop()[0] if self._free else None

    def give_back(self, wire: Wire) -> None:
        if wire.lost is not None or len(self._free) >= TOGETHER:
            self._end(wire)
            return
        self._free.append((wire, asyncio.get_running_loop().time()))
        if self._check is None:
            self._check = asyncio.get_running_loop().call_later(self._closes_after, self._close_unused)

    async def see(self, request: Mapping[str, Any], within: float) -> dict[str, Any]:
        """Asked of any helper. One that was lost while nobody used it is replaced, once: nothing was to be changed."""
        async with self._places:
            kept = self.free()
            if kept is not None:
                try:
                    return await self._seen(kept, request, within)
                except Cut:
                    pass
            try:
                return await self._seen(await self.wire(), request, within)
            except Cut as error:
                raise Unreachable(str(error)) from None

    async def _seen(self, wire: Wire, request: Mapping[str, Any], within: float) -> dict[str, Any]:
        try:
            return await wire.ask(request, within)
        finally:
            self.give_back(wire)

    def _close_unused(self) -> None:
        self._check = None
        old = asyncio.get_running_loop().time() - self._closes_after + 0.001
        for wire, since in self._free:
            if since <= old:
                self._end(wire)
        self._free = [(wire, since) for wire, since in self._free if since > old]
        if self._free:
            self._check = asyncio.get_running_loop().call_later(self._closes_after, self._close_unused)

    def _end(self, wire: Wire) -> None:
        task = asyncio.get_running_loop().create_task(wire.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        if self._check is not None:
            self._check.cancel()
        free, self._free = self._free, []
        for wire, _ in free:
            self._end(wire)
        if self._closing:
            await asyncio.wait(list(self._closing))


def over_winrm(winrm: WinRm, tools: Tools) -> Station:
    threads = Threads(str(winrm), limit=32)
    return Station(
        str(winrm), winrm.answers_within, winrm.closes_after, lambda: WinRmChannel(winrm, tools.secret, threads)
    )


def over_ssh(kept: Any) -> Station:
    ssh: Ssh = kept.ssh
    return Station(str(ssh), ssh.answers_within, ssh.closes_after, lambda: SshChannel(kept))
