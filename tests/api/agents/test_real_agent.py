"""An agent as it is installed: it joins by its token, runs as a process of its own, and deploys what is authorised,
through mutual TLS, a switchboard, and the driver of agents."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.abc import TaskStatus

from api.agents.door import Door
from api.agents.switchboard import Switchboard
from api.agents.tls import Tls
from desired_state.model import Target
from drivers import registry
from drivers.agent import protocol
from drivers.agent.driver import over_agents
from drivers.agent.duty.own import public_key
from drivers.agent.protocol import Answer, Result, Task
from drivers.contract import Look, Tools
from drivers.errors import DriverError
from stickers import codec
from stickers.names import EnvironmentId
from stickers.signature import Envelope, Keyring, SignatureError, Signer
from stickers.sticker import Phase, Sticker
from tests.api.agents.offices import T1, WEB_1, Office
from tests.drivers.process.conftest import images, root
from tests.drivers.process.yard import Yard

__all__ = ["images", "root"]

TREE = Path(__file__).parents[3]
SETTINGS = """apiVersion: holdfast/v1
kind: Agent
state: {state}
kinds: [process]
"""


@asynccontextmanager
async def door(at: Office) -> AsyncIterator[tuple[Switchboard, str]]:
    async def keep(result: Result, answer: Answer) -> None:
        return

    board = Switchboard(at.roll, keep)
    listener = Door(board, at.enrolment, Tls(at.authority, ["127.0.0.1"], at.clock, frozenset))

    async def serve(*, task_status: TaskStatus[int]) -> None:
        async with anyio.create_task_group() as group:
            await group.start(board.run)
            task_status.started(await group.start(listener.serve, "127.0.0.1", 0))

    async with anyio.create_task_group() as group:
        url = f"https://127.0.0.1:{await group.start(serve)}"
        at.servers[:] = [url]
        await at.roll.refresh()
        yield board, url
        group.cancel_scope.cancel()


class Installed:
    """The program, with a settings file of its own."""

    def __init__(self, folder: Path) -> None:
        self.settings, self.state = folder / "agent.yaml", folder / "state"
        self.settings.write_text(SETTINGS.format(state=self.state))

    def argv(self, verb: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "drivers.agent.host", verb, *arguments, "--settings", str(self.settings)]

    async def call(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return await anyio.run_process(self.argv(verb, *arguments), cwd=TREE, check=False)

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.argv("run"), cwd=TREE)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[subprocess.Popen[bytes]]:
        process = await anyio.to_thread.run_sync(self._started)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


async def until(holds: Any, within: float = 20) -> Any:
    """What it answers at last, without an error of ours."""
    ends = time.monotonic() + within
    while True:
        try:
            if found := holds():
                return found
        except DriverError:
            assert time.monotonic() < ends
        assert time.monotonic() < ends
        await anyio.sleep(0.02)


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    folder = tmp_path / "host"
    folder.mkdir()
    return Installed(folder)


async def joined(here: Office, installed: Installed, url: str, tmp_path: Path, kind: str = "process") -> None:
    token = tmp_path / "token"
    token.write_text(str(await here.invited(WEB_1, T1, kinds=(kind,))))
    done = await installed.call("join", url, "--token-file", str(token))
    assert done.returncode == 0, done.stderr
    await here.roll.refresh()


async def test_it_joins_runs_deploys_and_ends(
    here: Office,
    installed: Installed,
    tmp_path: Path,
    root: Path,
    images: Path,
) -> None:
    signer = Signer(here.signer, public_key(here.signer.public_key().public_bytes_raw().hex(), ("task:*",)))

    async def authorise(task: Task, body: str, /) -> Envelope:
        return protocol.sealed(task, signer.sign)

    async with door(here) as (board, url):
        await joined(here, installed, url, tmp_path)
        async with installed.running() as process:
            await until(lambda: board.serving(T1))
            yard = Ours(root, images, here, board)
            driver = over_agents(registry.load("process"))(yard.tools, board, authorise)
            await yard.driver.aclose()
            yard.driver = driver  # type: ignore[assignment]
            placement = yard.placement("1.0")
            await yard.deploy(placement)
            assert yard.serves() == "1.0"
            worn = await yard.worn()
            assert (worn.phase, worn.claim.content) == (Phase.PROVEN, placement.content)
            await yard.deploy(yard.placement("2.0"), placement)
            assert yard.serves() == "2.0"
            said = json.loads((await installed.call("status")).stdout)
            assert (said["agent"], said["connected"], said["queue"]) == (WEB_1, [url], 0)
            process.send_signal(signal.SIGTERM)
            assert await anyio.to_thread.run_sync(process.wait) == 0
            await driver.aclose()
    assert yard.serves() == "2.0"
    assert b"no agent runs" in (await installed.call("status")).stderr


class Ours(Yard):
    """Reached through the agent, and read with the agent's key."""

    def __init__(self, root: Path, images: Path, at: Office, board: Switchboard) -> None:
        super().__init__(root, images)
        member = at.roll.serves(T1)[0]
        self.keyring = Keyring([public_key(member.signing.hex(), ("sticker:*",))])
        self.tools: Tools = replace(self.tools, read=self.read)
        self.target = replace(self.target_at(root, "web-1", via="agent"), id=T1)

    def read(self, envelope: Envelope) -> Sticker | None:
        try:
            return codec.verified(envelope, self.keyring)
        except (SignatureError, codec.Unreadable):
            return None


async def test_it_stays_small_with_docker(here: Office, installed: Installed, tmp_path: Path) -> None:
    """Run with -s, the numbers are shown."""
    installed.settings.write_text(SETTINGS.format(state=installed.state).replace("[process]", "[docker]"))
    signer = Signer(here.signer, public_key(here.signer.public_key().public_bytes_raw().hex(), ("task:*",)))

    async def authorise(task: Task, body: str, /) -> Envelope:
        return protocol.sealed(replace(task, sequence=1), signer.sign)

    async with door(here) as (board, url):
        await joined(here, installed, url, tmp_path, "docker")
        async with installed.running() as process:
            await until(lambda: board.serving(T1))
            ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            seconds = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
            connection = {"via": "agent", "engine": f"unix://{tmp_path}/none.sock"}
            target = Target(id=T1, environment=EnvironmentId("default/e"), driver="docker", connection=connection)
            driver = over_agents(registry.load("docker"))(Yard(tmp_path, tmp_path).tools, board, authorise)
            seen = (await driver.observe([Look(target=target)]))[T1]
            assert "the engine does not answer" in (seen.unseen or "")
            status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
            resident = int(status["VmRSS"].split()[0]) / 1024
            print(f"{seconds:.2f} s of processor time until it was welcomed, {resident:.1f} MiB resident with Docker")
            assert resident < 62
            await driver.aclose()


async def test_who_has_not_joined_is_told_so(installed: Installed) -> None:
    done = await installed.call("run")
    assert done.returncode == 2
    assert b"holdfast-agent join" in done.stderr


async def test_settings_that_are_wrong_say_where(installed: Installed) -> None:
    installed.settings.write_text(SETTINGS.format(state="/s") + "uplods: {}\n")
    done = await installed.call("run")
    assert done.returncode == 2
    assert b"agent.yaml:5:1" in done.stderr
    assert b"did you mean uploads" in done.stderr
