"""The agent in place of itself: a version that reports stays, and one that does not is undone."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from api.agents.switchboard import Switchboard
from drivers.agent import protocol
from drivers.agent.duty.own import public_key
from drivers.agent.protocol import Assign, Code, Result, Task, Upgrade, Verb
from drivers.oci import layout
from stickers.names import ActionKey, Artifact, EnvironmentId
from stickers.signature import Signer
from tests.api.agents.offices import T1, WEB_1, Office
from tests.api.agents.test_real_agent import SETTINGS, TREE, Installed, door, joined, until
from tests.harness import leftovers

REPOSITORY = "registry.example.com/holdfast/agent"
UPGRADES = """upgrade:
  directory: {directory}
  repository: {repository}
  artifacts: oci:{images}
  within: {within}
"""
GOOD = f"""#!{sys.executable}
import sys
sys.path.insert(0, {str(TREE)!r})
from drivers.agent import host
host.version = lambda: "2.0"
host.main()
"""
CRASHES = f"#!{sys.executable}\nraise SystemExit(3)\n"
HANGS = f"#!{sys.executable}\nimport time\ntime.sleep(600)\n"


@dataclass
class Fleet:
    """One agent, installed, with a directory of versions."""

    installed: Installed
    directory: Path
    images: Path

    def pack(self, folder: Path, program: str) -> str:
        """The version as an artifact; one that is not to report is not waited for as long."""
        folder.mkdir()
        within = "30s" if program == GOOD else "3s"
        said = UPGRADES.format(directory=self.directory, repository=REPOSITORY, images=self.images, within=within)
        self.installed.settings.write_text(SETTINGS.format(state=self.installed.state) + said)
        (folder / "holdfast-agent").write_text(program)
        (folder / "holdfast-agent").chmod(0o755)
        return str(Artifact(REPOSITORY, layout.pack(folder, self.images, argv=("holdfast-agent",))))

    @property
    def current(self) -> str | None:
        link = self.directory / "current"
        return os.readlink(link) if link.is_symlink() else None


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    folder = tmp_path / "host"
    folder.mkdir()
    installed, directory, images = Installed(folder), tmp_path / "opt", tmp_path / "images"
    return Fleet(installed, directory, images)


async def upgraded(here: Office, board: Switchboard, artifact: str) -> Result:
    serving = board.serving(T1)
    body = protocol.body(Upgrade(artifact=artifact, version="2.0"))
    task = Task(
        id="upgrade-1",
        key=ActionKey("c" * 64),
        agent=WEB_1,
        generation=serving.generation,
        epoch=serving.epoch,
        target=T1,
        environment=EnvironmentId("default/staging"),
        verb=Verb.UPGRADE,
        content=protocol.content(body),
        fence=1,
        not_after=serving.clock + 30_000,
        within=timedelta(seconds=60),
    )
    signer = Signer(here.signer, public_key(here.signer.public_key().public_bytes_raw().hex(), ("task:*",)))
    assign = Assign(envelope=protocol.sealed(task, signer.sign), body=body)
    with anyio.fail_after(40):
        result, _ = await board.carry(task, assign, lambda lines: None)
    return result


@pytest.mark.parametrize(
    ("program", "code", "says"),
    [
        (GOOD, Code.DONE, "has reported"),
        (CRASHES, Code.FAILED, "ended with 3 before it had reported"),
        (HANGS, Code.FAILED, "had not reported after 3 s"),
    ],
    ids=["good", "crashes", "hangs"],
)
async def test_a_version_stays_when_it_has_reported_and_is_undone_otherwise(
    here: Office, fleet: Fleet, tmp_path: Path, program: str, code: Code, says: str
) -> None:
    artifact = fleet.pack(tmp_path / "version", program)
    async with door(here) as (board, url):
        await joined(here, fleet.installed, url, tmp_path)
        async with fleet.installed.running() as process:
            epoch = (await until(lambda: board.serving(T1))).epoch
            result = await upgraded(here, board, artifact)
            assert result.code is code, result.detail
            assert says in result.detail
            assert process.poll() is None
            again = await until(lambda: board.serving(T1))
            assert again.epoch != epoch
            assert (fleet.current is not None) == (code is Code.DONE)
            assert not (fleet.directory / "trial.json").exists()
            assert board.contacts()[WEB_1].version == ("2.0" if code is Code.DONE else host_version())
        assert not leftovers.end(fleet.directory)


def host_version() -> str:
    from drivers.agent import host

    return host.version()


async def test_the_end_of_the_watcher_leaves_the_former_one(here: Office, fleet: Fleet, tmp_path: Path) -> None:
    artifact = fleet.pack(tmp_path / "version", HANGS)
    async with door(here) as (board, url):
        await joined(here, fleet.installed, url, tmp_path)
        async with anyio.create_task_group() as group:
            found: list[Result] = []

            async def ask() -> None:
                found.append(await upgraded(here, board, artifact))

            async with fleet.installed.running() as process:
                await until(lambda: board.serving(T1))
                group.start_soon(ask)
                await until((fleet.directory / "trial.json").exists)
                await anyio.sleep(1)
                process.kill()
                await anyio.to_thread.run_sync(process.wait)
            began = time.monotonic()
            async with fleet.installed.running():
                await until(lambda: found)
            assert time.monotonic() - began < 20
    assert found[0].code is Code.FAILED
    assert "ended before it had reported" in found[0].detail
    assert fleet.current is None
    assert not leftovers.end(fleet.directory, 0.1)
