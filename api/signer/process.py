"""The signer at work: its Unix socket, who may ask, and the documents it reads beside.

A line in is a task with its body, a line out is the answer, in order. The socket is 0660, and whoever is at its other
end must be listed by the policy too, as the kernel names them.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import os
import pwd
import signal
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import anyio
import structlog

from api import unix
from api.problem import Problem
from api.runtimes import ConnectionModels
from api.signer import declared, ledger, policy
from api.signer.declared import Documents, Memory
from api.signer.desk import Desk, Peer
from api.signer.ledger import Ledger
from api.signer.place import Place
from api.signer.policy import Policy
from drivers.agent.protocol import LARGEST_BODY
from drivers.secrets.resolver import Resolver
from stickers.redaction import Redactor

LARGEST: Final = 4 * LARGEST_BODY  # characters of a line: a body within JSON
READ_EVERY: Final = 10.0  # seconds between two looks at the documents
FAREWELL: Final = 2.0  # seconds for what is being answered, when it ends
CONNECTIONS: Final = 64
PIECE: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class MayAsk:
    users: frozenset[int]
    groups: frozenset[int]

    def __contains__(self, peer: Peer) -> bool:
        return peer.uid in self.users or peer.gid in self.groups


async def run(directory: Path, at: Path | None = None, group: str | None = None) -> None:
    """Sign until a signal ends it. `at` is the socket, where it is not beside the keys; `group` is given it."""
    place, log = Place(directory), structlog.get_logger()
    said = policy.read(place.policy)
    may_ask = _may_ask(said)
    with place.taken():
        signer = place.signer()
        _warn(may_ask)
        async with _documents(said, place) as documents:
            desk = Desk(
                policy=said,
                documents=documents,
                ledger=_ledger(place.ledger),
                signer=signer,
                next_key=place.next_key(),
                now=_utc,
            )
            path = at or place.socket
            with _bound(path, group) as listener:
                log.info("signing", key=signer.key.id, socket=str(path), rules=len(said.rules))
                await _serve(listener, desk, may_ask, documents)
        log.info("signed_off")


def _utc() -> datetime:
    return datetime.now(UTC)


def _ledger(directory: Path) -> Ledger:
    try:
        return Ledger(directory)
    except ledger.Broken as error:
        raise Problem("LEDGER_BROKEN", f"{directory}: {error}; nothing is signed on it") from None


@asynccontextmanager
async def _documents(said: Policy, place: Place) -> AsyncIterator[Documents | None]:
    if said.documents is None:
        yield None
        return
    resolver = Resolver(Redactor())
    try:
        sources = declared.sources(said.documents, place.directory, resolver)
        documents = Documents(sources, Memory(place.directory / declared.FILE), ConnectionModels(), _utc)
        await documents.read()
        yield documents
    finally:
        await resolver.aclose()


async def _serve(listener: socket.socket, desk: Desk, may_ask: MayAsk, documents: Documents | None) -> None:
    desks = _Desks(desk, may_ask)
    server = await asyncio.start_unix_server(desks.meet, sock=listener, limit=LARGEST)
    async with anyio.create_task_group() as group:
        if documents is not None:
            group.start_soon(_read_again, documents)
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                break
        server.close()
        await desks.close()
        group.cancel_scope.cancel()


async def _read_again(documents: Documents) -> None:
    while True:
        await anyio.sleep(READ_EVERY)
        await documents.again()


class _Desks:
    """One conversation for each connection."""

    def __init__(self, desk: Desk, may_ask: MayAsk) -> None:
        self._desk, self._may_ask = desk, may_ask
        self._writers: set[asyncio.StreamWriter] = set()
        self._busy, self._quiet = 0, anyio.Event()

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = _peer(writer.get_extra_info("socket"))
        try:
            if peer not in self._may_ask:
                structlog.get_logger().warning("stranger_asked", uid=peer.uid, gid=peer.gid)
                await _turn_away(reader, writer, peer)
            elif len(self._writers) < CONNECTIONS:
                self._writers.add(writer)
                await self._converse(reader, writer, peer)
        except (ConnectionError, ValueError):  # gone, or a line longer than any task
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
        while line := await reader.readline():
            self._busy += 1
            try:
                await _tell(writer, await self._answer(line, peer))
            finally:
                self._busy -= 1
                if not self._busy:
                    self._quiet.set()

    async def _answer(self, line: bytes, peer: Peer) -> Mapping[str, str]:
        """What cannot be written down is not signed, and may be asked again."""
        try:
            return await self._desk.answer(line.decode(errors="replace"), peer)
        except Problem as problem:
            structlog.get_logger().error("cannot_sign", code=problem.code, reason=problem.detail)
            return {"away": problem.detail, "code": problem.code}

    async def close(self) -> None:
        """What is being answered is answered."""
        self._quiet = anyio.Event()
        with anyio.move_on_after(FAREWELL):
            if self._busy:
                await self._quiet.wait()
        for writer in list(self._writers):
            writer.close()


async def _tell(writer: asyncio.StreamWriter, answer: Mapping[str, str]) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
    await writer.drain()


async def _turn_away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
    """What a stranger asks is let go unread, but not before he has his answer: a socket that is closed with something
    left in it takes that along."""
    await _tell(writer, {"refused": f"uid {peer.uid} may not ask this signer", "code": "STRANGER"})
    writer.write_eof()
    with anyio.move_on_after(FAREWELL):
        while await reader.read(PIECE):
            pass


# -- who asks ----------------------------------------------------------------------------------------------------------


def _peer(connected: socket.socket) -> Peer:
    found = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", found)
    return Peer(pid=pid, uid=uid, gid=gid)


def _may_ask(said: Policy) -> MayAsk:
    return MayAsk(
        users=frozenset(_number(who, "user", lambda name: pwd.getpwnam(name).pw_uid) for who in said.ask.users),
        groups=frozenset(_number(who, "group", lambda name: grp.getgrnam(name).gr_gid) for who in said.ask.groups),
    )


def _number(who: str | int, what: str, of: Callable[[str], int]) -> int:
    if isinstance(who, int):
        return who
    try:
        return of(who)
    except KeyError:
        raise Problem("POLICY_INVALID", f"ask names the {what} {who!r}, which this host does not know") from None


def _warn(may_ask: MayAsk) -> None:
    """Whoever may ask and can read the key needs not ask."""
    for uid, why in ((os.getuid(), "is who signs"), (0, "reads every file")):
        if uid in may_ask.users:
            structlog.get_logger().warning("asked_by_who_has_the_key", uid=uid, reason=f"uid {uid} may ask, and {why}")


@contextlib.contextmanager
def _bound(path: Path, group: str | None) -> Iterator[socket.socket]:
    """A socket at the path, 0660 from its first instant."""
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(unix.listening(path, 0o660))
            if group is not None:
                os.chown(path, -1, _number(group, "group", lambda name: grp.getgrnam(name).gr_gid))
        except OSError as error:
            raise Problem("LISTEN_FAILED", f"{path} cannot be listened at: {error.strerror}") from None
        yield listener
