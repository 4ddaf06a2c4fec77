"""Whole commands that read the stickers of many hosts behind SSH once, by us and by bare asyncssh. Imports what the
command needs and nothing of the benchmark around it, so that a start is the command's own.

    python -m tests.benchmarks.ssh_readers ours|bare HOSTS.json
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import anyio
import asyncssh

from api.cli.main import GARBAGE
from desired_state.model import Target
from drivers.contract import Look, Tools
from drivers.process.driver import ProcessDriver
from drivers.secrets import file
from stickers import codec
from stickers.names import InstallationId, environment_id, target_id
from stickers.signature import Envelope, Keyring, PublicKey, Sign, key_id
from stickers.sticker import Sticker

ENVIRONMENT: Final = environment_id("default", "fleet")
INSTALLATION: Final = InstallationId("bench")

Connection = Mapping[str, Any]  # as a document says it


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The hosts, and the public key that signed what they wear."""

    hosts: list[Connection]
    public: bytes

    @property
    def keyring(self) -> Keyring:
        subjects = ("sticker:default/*",)
        return Keyring([PublicKey(id=key_id(self.public), public=self.public, subjects=subjects)])

    def write(self, path: Path) -> None:
        path.write_text(json.dumps({"hosts": self.hosts, "public": self.public.hex()}))


def read(path: Path) -> Fleet:
    found = json.loads(path.read_text())
    return Fleet(hosts=found["hosts"], public=bytes.fromhex(found["public"]))


# -- we ----------------------------------------------------------------------------------------------------------------


def tools(fleet: Fleet, sign: Sign) -> Tools:
    keyring = fleet.keyring

    def believed(envelope: Envelope) -> Sticker | None:
        return codec.verified(envelope, keyring)

    return Tools(installation=INSTALLATION, sign=sign, read=believed, now=lambda: datetime.now(UTC), secret=file.read)


def nothing(*_: object) -> Envelope:
    raise AssertionError("whoever only looks signs nothing")


def looks_at(fleet: Fleet) -> list[Look]:
    return [
        Look(
            target=Target(
                id=target_id("default", f"t{number}"), environment=ENVIRONMENT, driver="process", connection=connection
            )
        )
        for number, connection in enumerate(fleet.hosts)
    ]


async def look(driver: ProcessDriver, looks: list[Look]) -> None:
    """Every sticker is there, and signed."""
    seen = await driver.observe(looks)
    for one in looks:
        found = seen[one.target.id]
        assert found.unseen is None, found.unseen
        worn = found.standings[0].worn
        assert worn is not None
        assert worn.envelope is not None
        assert driver.tools.read(Envelope(worn.envelope)) is not None


async def ours(fleet: Fleet) -> None:
    driver = ProcessDriver(tools(fleet, nothing))
    await look(driver, looks_at(fleet))
    await driver.aclose()


# -- bare asyncssh -----------------------------------------------------------------------------------------------------


def sticker_of(connection: Connection) -> str:
    return f"{connection['root']}/{INSTALLATION}/web/sticker.json"


async def dialled(connection: Connection) -> asyncssh.SSHClientConnection:
    """As cheaply as asyncssh can."""
    key = asyncssh.import_public_key(connection["known_hosts"][0])
    return await asyncssh.connect(
        connection["host"],
        connection["port"],
        username=connection["user"],
        config=None,
        client_keys=[connection["key"]["secret"].removeprefix("file:")],
        known_hosts=([key], [], []),
        agent_path=None,
        gss_host=None,
        preferred_auth="publickey",
        encryption_algs=["aes128-gcm@openssh.com"],
        compression_algs=["none"],
    )


async def command(line: asyncssh.SSHClientConnection, connection: Connection) -> None:
    found = await line.run(f"cat {sticker_of(connection)}", check=True)
    assert "signatures" in str(found.stdout)


async def bare(fleet: Fleet) -> None:
    async def one(connection: Connection) -> None:
        async with await dialled(connection) as line:
            await command(line, connection)

    await asyncio.gather(*map(one, fleet.hosts))


WAYS: Final[Mapping[str, Callable[[Fleet], Coroutine[Any, Any, None]]]] = {"ours": ours, "bare": bare}

if __name__ == "__main__":
    gc.set_threshold(*GARBAGE)  # as our own command begins; both ways gain by it
    anyio.run(WAYS[sys.argv[1]], read(Path(sys.argv[2])), backend_options={"use_uvloop": True})
