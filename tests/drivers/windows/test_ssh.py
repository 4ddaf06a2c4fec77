"""Windows OpenSSH: the same helper, the same line, over the kept SSH connection; a server of asyncssh stands in."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import asyncssh
import pytest

from desired_state.model import Target
from desired_state.secrets import SecretRef
from drivers.conformance import Bench, Version, proper_tools
from drivers.conformance.clause import Clause
from drivers.conformance.mixin import checks
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Look
from drivers.windows import program
from tests.drivers.windows.test_conformance import ROOT, WindowsBench
from tests.drivers.windows.world import Helper, World

pytestmark = pytest.mark.anyio
CLAUSES = (
    *("a_deploy_on_an_empty_target_runs_and_labels", "twice_is_once", "a_replacement_leaves_one_workload"),
    *("a_failed_proof_puts_the_predecessor_back_beside", "a_removal_leaves_nothing", "a_stale_fence_changes_nothing"),
    *("a_crash_at_prove_is_finished_beside", "a_cancellation_comes_through"),
)


class OpenSsh(asyncssh.SSHServer):
    def __init__(self, world: World, admitted: str) -> None:
        self.world, self.admitted = world, admitted

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return key.export_public_key().decode() == self.admitted

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
        """What listens in that memory, as a connection through the host finds it."""
        if self.world.answering(dest_port) is None:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "nobody listens")
        asked = {"port": dest_port, "address": dest_host}

        async def answer(reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
            content = base64.b64encode(await reader.readuntil(b"\r\n\r\n")).decode()
            found = self.world.exchange(None, {**asked, "content": content})  # type: ignore[arg-type]
            writer.write(base64.b64decode(found["content"]))
            writer.close()

        return answer


class SshBench(WindowsBench):
    port: int
    host_key: str

    @property
    def target(self) -> Target:
        said = {"via": "ssh", "host": "127.0.0.1", "port": self.port, "user": "deployer", "root": ROOT}
        said |= {"key": {"secret": "env:KEY"}, "known_hosts": [self.host_key], "artifacts": f"oci:{self.images}"}
        return self._target("kit", said)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[SshBench]:
    world = World()
    host_key, key = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ssh-ed25519")
    programs: list[asyncio.Task[None]] = []

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        helper = Helper(world, process.command or "")
        feeding = asyncio.create_task(_feed(process, helper))
        try:
            while True:
                out, err, code = await anyio.to_thread.run_sync(helper.read, 0.5)
                process.stdout.write(out)
                process.stderr.write(err)
                if code is not None:
                    process.exit(code)
                    return
        finally:
            helper.end()
            feeding.cancel()

    def started(process: asyncssh.SSHServerProcess[bytes]) -> None:
        programs.append(asyncio.create_task(run(process)))

    server = await asyncssh.create_server(
        lambda: OpenSsh(world, key.export_public_key().decode()),
        "127.0.0.1",
        0,
        server_host_keys=[host_key],
        process_factory=started,
        encoding=None,
    )

    async def secret(reference: SecretRef) -> str:
        return key.export_private_key().decode()

    found = SshBench(world, None, tmp_path)  # type: ignore[arg-type]  # no listener of WS-Management
    found.tools = replace(proper_tools(), secret=secret)
    found.port, found.host_key = server.get_port(), host_key.export_public_key().decode().strip()
    try:
        yield found
    finally:
        server.close()
        for one in programs:
            one.cancel()
        await asyncio.gather(*programs, return_exceptions=True)


async def _feed(process: asyncssh.SSHServerProcess[bytes], helper: Helper) -> None:
    try:
        while piece := await process.stdin.read(1 << 16):
            helper.feed(piece)
    except (asyncssh.Error, OSError):
        pass
    helper.end()


@pytest.mark.parametrize("clause", [one for one in checks() if one.name in CLAUSES], ids=str)
async def test_keeps(bench: Bench, clause: Clause) -> None:
    await clause.check(bench)


def test_every_clause_that_is_named_is_one() -> None:
    assert set(CLAUSES) <= {clause.name for clause in checks()}


async def test_the_host_is_given_the_same_line_and_nothing_else(bench: SshBench) -> None:
    stage = Stage(bench)
    await stage.deployed(Wish(version=Version.ONE))
    assert len(program.line()) < 8000
    await stage.aclose()


async def test_a_host_without_powershell_is_told_by_its_own_words(
    bench: SshBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = program.opening()
    monkeypatch.setattr(program, "opening", lambda: kept)
    monkeypatch.setattr(program, "line", lambda: "powershell.exe -Missing")
    stage = Stage(bench)
    seen = (await stage.driver.observe([Look(target=bench.target)]))[bench.target.id]
    assert "the helper has ended with exit code 1" in str(seen.unseen)
    assert "is not recognized" in str(seen.unseen)
    await stage.aclose()
