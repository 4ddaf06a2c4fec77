"""An authority, a store and whoever issues, with a clock that the test moves; and a listener that speaks real TLS."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from api.agents.authority import Authority
from api.agents.enrolled import Enrolled
from api.agents.enrolment import Desk, Enrolment
from api.agents.tls import Tls
from drivers.agent.duty import identity
from drivers.agent.duty.identity import Identity, JoinToken
from reconciler.events import Event
from reconciler.store import agents, engines, schema
from reconciler.store.agents import Invite
from reconciler.store.store import Store
from stickers.names import AgentName, InstallationId, TargetId

INSTALLATION = InstallationId("0a1b2c3d")
WEB_1 = AgentName("web-1")
T1 = TargetId("default/web-1")


@dataclass
class Clock:
    moment: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    def __call__(self) -> datetime:
        return self.moment

    def on(self, **later: float) -> None:
        self.moment += timedelta(**later)


@dataclass(kw_only=True)
class Office:
    """Everything that enrols, in one process."""

    store: Store
    clock: Clock
    authority: Authority
    roll: Enrolled
    enrolment: Enrolment
    events: list[Event]
    signer: Ed25519PrivateKey
    servers: list[str] = field(default_factory=list)

    async def invited(
        self, name: AgentName = WEB_1, *targets: TargetId, kinds: tuple[str, ...] = ("docker",), shared: bool = False
    ) -> JoinToken:
        public = self.signer.public_key().public_bytes_raw()
        token = JoinToken.made(self.authority.fingerprint, hashlib.sha256(public).hexdigest())
        now = self.clock()
        invite = Invite(
            hash=token.hash, agent=name, created_at=now, created_by="ann", expires_at=now + timedelta(minutes=15)
        )
        await self.store.write(lambda c: agents.invite(c, invite, targets or (T1,), kinds, shared=shared))
        await self.roll.refresh()
        return token

    async def row(self, name: AgentName = WEB_1) -> agents.Agent:
        found = await self.store.read(lambda c: agents.by_name(c, name))
        assert found is not None
        return found

    async def asked(
        self, path: str, said: Any, certificate: bytes | None = None, peer: str = "192.0.2.7"
    ) -> tuple[int, Any]:
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        return await self.enrolment("POST", path, body, certificate, peer)


@asynccontextmanager
async def office(address: str, keys: Path, clock: Clock) -> AsyncIterator[Office]:
    store = await Store.open(address, now=clock)
    try:
        yield made(store, keys, clock)
    finally:
        await store.aclose()


def made(store: Store, keys: Path, clock: Clock) -> Office:
    authority, events, signer = Authority(keys / "authority", INSTALLATION), list[Event](), Ed25519PrivateKey.generate()
    authority.make(clock())
    servers: list[str] = []
    roll = Enrolled(store, now=clock, sink=events.append, place="here")
    roll.elsewhere = lambda: servers
    desk = Desk(
        store=store,
        authority=authority,
        signers=lambda: [signer.public_key().public_bytes_raw().hex()],
        servers=lambda: roll.servers,
        sink=events.append,
        told=roll.refresh,
        now=clock,
    )
    return Office(
        store=store,
        clock=clock,
        authority=authority,
        roll=roll,
        enrolment=Enrolment(desk),
        events=events,
        signer=signer,
        servers=servers,
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the schema and nothing else, to be copied."""
    file = tmp_path_factory.mktemp("blank") / "blank.db"
    engine = engines.writer(f"sqlite:///{file}")
    schema.bring_up_to_date(engine)
    engine.dispose()
    return file


@pytest.fixture
async def here(tmp_path: Path, blank: Path, clock: Clock) -> AsyncIterator[Office]:
    shutil.copy(blank, tmp_path / "holdfast.db")
    async with office(f"sqlite:///{tmp_path / 'holdfast.db'}", tmp_path / "keys", clock) as found:
        yield found


@asynccontextmanager
async def listening(
    at: Office, answer: Callable[..., Any] | None = None, tls: Callable[[], ssl.SSLContext] | None = None
) -> AsyncIterator[str]:
    """The address of a listener that answers one request per connection."""

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, path, _ = head[0].split(" ")
            length = next((int(line[15:]) for line in head if line.lower().startswith("content-length:")), 0)
            body = await reader.readexactly(length)
            certificate = writer.get_extra_info("ssl_object").getpeercert(True)
            status, said = await (answer or at.enrolment)(method, path, body, certificate, "127.0.0.1")
            text = json.dumps(said).encode()
            writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (status, len(text)))
            writer.write(text)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    shown = tls or Tls(at.authority, ["127.0.0.1"], at.clock, frozenset)
    server = await asyncio.start_server(served, "127.0.0.1", 0, ssl=shown())
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    at.servers[:] = [url]
    try:
        yield url
    finally:
        server.close()
        await server.wait_closed()


async def joined(at: Office, url: str, directory: Path, token: JoinToken | None = None) -> Identity:
    meant = token or await at.invited()
    return await to_thread.run_sync(lambda: identity.join(url, str(meant), directory, version="1.2.3"))


async def renewed(who: Identity) -> Identity:
    return await to_thread.run_sync(identity.renew, who)
