"""Real SSH servers, and connections to them as a driver has them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from desired_state.secrets import SecretRef
from drivers.ssh.connection import Reach, Ssh
from drivers.ssh.pool import Kept, Pool
from drivers.ssh.transport import Host
from tests.harness.sshd import Relay, Sshd, relayed, sshd_or_skip


async def secret(reference: SecretRef) -> str:
    return Path(reference.path).read_text()


def ssh_of(document: dict[str, Any]) -> Ssh:
    found = Reach.model_validate(document).ssh
    assert found is not None
    return found


@pytest.fixture(scope="module")
def standing() -> Iterator[Sshd]:
    """One server for all tests of a module that leave it as it is."""
    with sshd_or_skip() as server:
        yield server


@pytest.fixture
def server() -> Iterator[Sshd]:
    """A server of the test's own, to be ended and changed."""
    with sshd_or_skip() as server:
        yield server


@pytest.fixture
async def relay(standing: Sshd) -> AsyncIterator[Relay]:
    async with relayed(standing) as line:
        yield line


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    found = Pool(secret).join()
    try:
        yield found
    finally:
        await found.leave()


@pytest.fixture
def kept(pool: Pool) -> Callable[..., Kept]:
    """The kept connection that a document's words lead to."""
    return lambda document: pool[ssh_of(document)]


@pytest.fixture
def reach(kept: Callable[..., Kept]) -> Callable[..., Host]:
    return lambda document: Host(kept(document))
