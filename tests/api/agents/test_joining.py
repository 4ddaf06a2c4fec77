"""Joins and renewals through the door that agents really come by."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import httpx2
import pytest
from anyio import to_thread
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from api.agents.door import Door
from api.agents.switchboard import Switchboard
from api.agents.tls import Tls
from drivers import strongbox
from drivers.agent.duty import identity
from drivers.agent.duty.identity import AUTHORITY, JOIN, Identity, IdentityError
from drivers.agent.protocol import Answer, Result
from reconciler.store import agents
from reconciler.store.agents import Wanted
from reconciler.store.records import AgentState
from tests.api.agents.offices import WEB_1, Office, joined, renewed


async def keep(result: Result, answer: Answer) -> None:
    """No task is carried here."""


@asynccontextmanager
async def opened(here: Office) -> AsyncIterator[str]:
    """The address of the door, with everything behind it."""
    switchboard = Switchboard(here.roll, keep)
    here.roll.revised = switchboard.revised
    tls = Tls(here.authority, ["127.0.0.1"], here.clock, lambda: here.roll.retired)
    async with anyio.create_task_group() as group:
        await group.start(switchboard.run)
        port = await group.start(Door(switchboard, here.enrolment, tls).serve, "127.0.0.1", 0)
        url = f"https://127.0.0.1:{port}"
        here.servers[:] = [url]
        yield url
        group.cancel_scope.cancel()


async def test_a_host_joins_and_renews(here: Office, tmp_path: Path) -> None:
    async with opened(here) as url:
        who = await joined(here, url, tmp_path / "agent")
        assert (await renewed(who)).generation == 2
    assert "127.0.0.1" in str(here.events[0])


async def test_a_locked_agent_is_turned_away_with_what_is_the_matter(here: Office, tmp_path: Path) -> None:
    async with opened(here) as url:
        who = await joined(here, url, tmp_path / "agent")
        await here.store.write(lambda c: agents.lock(c, WEB_1, "why not", "ann", here.clock()))
        await here.roll.refresh()
        with pytest.raises(IdentityError, match="locked") as raised:
            await renewed(who)
    assert raised.value.code == "LOCKED"


async def test_a_superseded_identity_that_comes_by_the_door_locks_the_agent(here: Office, tmp_path: Path) -> None:
    """The clock of the roll goes on; that of TLS is the machine's."""
    async with opened(here) as url:
        first = await joined(here, url, tmp_path / "agent")
        copied = Path(tmp_path / "copy")
        copied.mkdir(mode=0o700)
        for path in first.directory.iterdir():
            strongbox.put(copied / path.name, path.read_bytes())
        second = await renewed(first)
        third = await renewed(second)  # the second generation is used, and the third not yet
        here.clock.on(minutes=6)
        with pytest.raises(IdentityError) as raised:
            await renewed(Identity.load(copied))
        assert raised.value.code == "SUPERSEDED"
        await _locked(here)
        with pytest.raises(IdentityError, match="locked"):
            await renewed(third)


async def _locked(here: Office) -> None:
    for _ in range(100):
        if (await here.row()).state is AgentState.LOCKED:
            return
        await anyio.sleep(0.02)
    raise AssertionError("the agent is not locked")


async def test_a_certificate_with_the_right_number_that_was_not_issued_here_is_nobodys(
    here: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has the issuer's private key."""
    async with opened(here) as url:
        who = await joined(here, url, tmp_path / "agent")
        number = x509.load_pem_x509_certificate(who.certificate.encode()).serial_number
        key = ec.generate_private_key(ec.SECP256R1())
        monkeypatch.setattr(x509, "random_serial_number", lambda: number)
        forged = here.authority.client(key.public_key(), Wanted(agent=WEB_1, generation=1), here.clock())
        strongbox.put(who.directory / "tls-f.pem", identity._pem(key) + forged.pem.encode())
        strongbox.put(who.directory / identity.FILE, identity._text(replace(who, file="tls-f.pem")))
        with pytest.raises(IdentityError, match="not issued here"):
            await renewed(Identity.load(who.directory))
    assert (await here.row()).state is AgentState.ACTIVE


async def test_without_a_certificate_one_gets_the_authority_and_a_problem(here: Office) -> None:
    async with opened(here) as url:
        root = await to_thread.run_sync(lambda: httpx2.get(url + AUTHORITY, verify=False, trust_env=False))
        assert root.json() == {"authority": here.authority.root.pem}
        answer = await to_thread.run_sync(lambda: httpx2.post(url + JOIN, json={}, verify=False, trust_env=False))
    assert (answer.status_code, answer.json()["code"]) == (400, "BAD_REQUEST")
    assert answer.headers["content-type"] == "application/problem+json"
