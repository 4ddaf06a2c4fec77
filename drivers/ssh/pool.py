"""The connections that are kept: one to each host, made once however many ask at a time, closed when nobody has used it
for a while, and made again when it was lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final
from weakref import WeakKeyDictionary

import asyncssh

from drivers.contract import Tools
from drivers.errors import DriverError
from drivers.ssh.connection import Ssh
from drivers.ssh.dial import Resolve, dial
from drivers.ssh.errors import Silent

FIRST_REST: Final = 1.0  # seconds that a host which gave no answer is not tried again, twice as long each time
LONGEST_REST: Final = 30.0

Connection = asyncssh.SSHClientConnection
Dial = Callable[[Ssh, Resolve, Connection | None], Awaitable[Connection]]


class Kept:
    """The one connection to one host."""

    def __init__(self, ssh: Ssh, resolve: Resolve, dialled: Dial = dial, gate: Kept | None = None) -> None:
        self.ssh = ssh
        self._resolve, self._dial, self._gate = resolve, dialled, gate
        self._passing: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._opening: asyncio.Task[Connection] | None = None
        self._users, self._used_at = 0, 0.0
        self._check: asyncio.TimerHandle | None = None
        self._silent: tuple[Silent, float, float] | None = None  # why, until when it rests, how long that was
        self.made = 0  # connections so far

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Not closed meanwhile for want of use."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._used_at = asyncio.get_running_loop().time()

    async def passed_by(self, connection: Connection) -> None:
        """In use for as long as another host's connection goes through it."""
        with self.used():
            await connection.wait_closed()

    @property
    def stands(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    async def connection(self) -> Connection:
        """The connection that stands, or a new one. Who leaves does not take it from the others who wait for it."""
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        self._must_not_rest()
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())
        try:
            return await asyncio.shield(self._opening)
        except asyncio.CancelledError:
            if self._opening is not None and self._opening.cancelled():
                raise Silent(f"{self.ssh}: the connection was given up") from None
            raise

    def _must_not_rest(self) -> None:
        """A host from which nothing came back is not waited for again by everybody who looks: for a growing while the
        answer is the last one."""
        if self._silent is not None and asyncio.get_running_loop().time() < self._silent[1]:
            raise Silent(*self._silent[0].args)

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            through = None if self._gate is None else await self._gate.connection()
            self._connection = await self._dial(self.ssh, self._resolve, through)
            if self._gate is not None:
                self._passing = loop.create_task(self._gate.passed_by(self._connection))
        except Silent as error:
            rest = FIRST_REST if self._silent is None else min(LONGEST_REST, 2 * self._silent[2])
            self._silent = error, loop.time() + rest, rest
            raise
        finally:
            self._opening = None
        self._silent = None
        self.made += 1
        self._used_at = loop.time()
        self._look_later(self.ssh.closes_after)
        return self._connection

    def _look_later(self, seconds: float) -> None:
        if self._check is not None:
            self._check.cancel()
        self._check = asyncio.get_running_loop().call_later(seconds, self._close_unused)

    def _close_unused(self) -> None:
        self._check = None
        if not self.stands:
            return
        unused = asyncio.get_running_loop().time() - self._used_at
        if not self._users and unused >= self.ssh.closes_after:
            assert self._connection is not None
            self._connection.close()
        else:
            self._look_later(self.ssh.closes_after - (0 if self._users else unused))

    async def aclose(self) -> None:
        if self._check is not None:
            self._check.cancel()
        if self._opening is not None:
            self._opening.cancel()
            with contextlib.suppress(DriverError, asyncio.CancelledError):
                await self._opening
        if self._connection is not None:
            self._connection.abort()
            with contextlib.suppress(Exception):
                await self._connection.wait_closed()


class Pool:
    """All hosts that one process speaks to. Drivers share it; the last one that leaves closes it."""

    def __init__(self, resolve: Resolve, dialled: Dial = dial) -> None:
        self._resolve, self._dial = resolve, dialled
        self._kept: dict[Ssh, Kept] = {}
        self._sharers = 0

    def __getitem__(self, ssh: Ssh) -> Kept:
        if ssh not in self._kept:
            gate = None if ssh.gate is None else self[ssh.gate]
            self._kept[ssh] = Kept(ssh, self._resolve, self._dial, gate)
        return self._kept[ssh]

    def join(self) -> Pool:
        self._sharers += 1
        return self

    async def leave(self) -> None:
        self._sharers -= 1
        if self._sharers <= 0:
            kept, self._kept = list(self._kept.values()), {}
            for one in reversed(kept):  # those behind a jump host before it
                await one.aclose()


_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, Pool]] = WeakKeyDictionary()


def shared(tools: Tools) -> Pool:
    """The pool of this event loop and this source of secrets: a connection admitted by one set of keys is not lent to
    who resolves others. To be left again."""
    pools = _pools.setdefault(asyncio.get_running_loop(), {})
    return pools.setdefault(tools.secret, Pool(tools.secret)).join()
