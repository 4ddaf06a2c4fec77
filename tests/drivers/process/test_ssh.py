"""Plain hosts behind real SSH servers: what is brought there, what is asked at once, and what becomes of an action that
is cut off."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest

from desired_state.secrets import SecretFile, SecretRef
from drivers.contract import Look, Result
from drivers.errors import OutcomeUnknown
from drivers.process import host, journey
from drivers.process.driver import ProcessDriver
from drivers.process.wired import FarLine
from drivers.ssh.errors import HostKeyChanged, NoPython
from drivers.ssh.wire import program
from stickers.observation import WorkloadState
from tests.drivers.process.conftest import oldest
from tests.drivers.process.far import Far
from tests.drivers.process.test_crashes import must_stand
from tests.drivers.process.yard import Yard
from tests.harness.apps import Character
from tests.harness.sshd import Relay, Sshd, relayed, sshd_or_skip


@pytest.fixture(scope="module")
def standing() -> Iterator[Sshd]:
    with sshd_or_skip() as server:
        yield server


@pytest.fixture
async def relay(standing: Sshd) -> AsyncIterator[Relay]:
    async with relayed(standing) as line:
        yield line


@pytest.fixture
def there(yard: Yard, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> Yard:
    """The yard behind a line that can be cut."""
    monkeypatch.setattr(journey, "PAUSE", 0.05)
    return behind(yard, relay)


def behind(yard: Yard, way: Relay | Sshd, **said: Any) -> Yard:
    server = way.server if isinstance(way, Relay) else way
    yard.secrets[f"file:{server.key_file}"] = server.key_file.read_text()
    yard.target = yard.target_at(yard.root, "web-1", **way.connection(**said))
    return yard


class Cuts:
    """Counts the requests to the host and cuts the line at one of them: before it is sent, or after it was answered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, relay: Relay) -> None:
        self.names: list[str] = []
        self.at, self.before = -1, True
        send = FarLine._send

        async def crossed(
            line: FarLine, request: Mapping[str, Any], within: float, body: bytes = b""
        ) -> dict[str, Any]:
            here = len(self.names) == self.at
            self.names.append(str(request["do"]))
            if here and self.before:
                relay.cut()
                await asyncio.sleep(0.02)
            found = await send(line, request, within, body)
            if here and not self.before:
                relay.cut()
                await asyncio.sleep(0.02)
            return found

        monkeypatch.setattr(FarLine, "_send", crossed)

    def set(self, at: int, *, before: bool) -> None:
        self.names, self.at, self.before = [], at, before


# -- what is asked -----------------------------------------------------------------------------------------------------


async def test_looking_leaves_nothing_on_a_host(there: Yard) -> None:
    assert await there.standing() is None
    assert not there.root.exists()


async def test_all_targets_of_a_host_are_looked_at_in_one_round_trip(
    there: Yard, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = [
        there.target_at(there.root.with_name(f"t{number}"), f"t{number}", **relay.connection()) for number in range(9)
    ]
    cuts = Cuts(monkeypatch, relay)
    for _ in range(2):
        seen = await there.driver.observe([Look(target=target) for target in targets])
        assert [seen[target.id].unseen for target in targets] == [None] * 9
    assert cuts.names == ["look", "look"]
    assert relay.taken == 1


async def test_the_program_is_brought_once_and_then_found_by_its_digest(there: Yard, relay: Relay) -> None:
    brought = program(host.__file__)
    await there.deploy(there.placement("1.0"))
    kept = there.root / ".holdfast" / brought.file
    assert kept.read_bytes() == brought.source
    assert relay.passed > len(brought.packed)
    for brought_again, spoil in (
        (False, lambda: None),
        (True, lambda: kept.parent.chmod(0o775)),
        (False, lambda: kept.parent.chmod(0o755)),
        (True, lambda: kept.write_bytes(b"import os; os.abort()")),
    ):
        spoil()
        before, other = relay.passed, ProcessDriver(there.tools)
        seen = await other.observe([Look(target=there.target)])
        await other.aclose()
        assert seen[there.target.id].standings
        assert (relay.passed - before > len(brought.packed)) is brought_again


async def test_a_host_without_python_is_told_before_anything_is_changed(yard: Yard, standing: Sshd) -> None:
    change = await behind(yard, standing).change(yard.placement("1.0"))
    yard.target = yard.target_at(yard.root, "web-1", **standing.connection(python="python9"))
    seen = (await yard.driver.observe([Look(target=yard.target)]))[yard.target.id]
    assert seen.unseen is not None
    assert "python9 does not run there" in seen.unseen
    with pytest.raises(NoPython):
        await yard.send(change)
    assert not yard.root.exists()


async def test_the_host_may_have_the_oldest_python(there: Yard, relay: Relay) -> None:
    found = oldest()
    if found is None:
        pytest.skip("no Python 3.8 on this machine: neither pyenv nor PATH has one")
    there.target = there.target_at(there.root, "web-1", **relay.connection(python=found))
    placement = there.placement("1.0")
    await there.deploy(placement)
    await must_stand(there, placement)


async def test_secrets_reach_the_workload_and_no_file_or_argument(there: Yard) -> None:
    there.secrets["env:TOKEN"] = "canary-7531"
    secret = (("PORT", str(there.port)), ("TOKEN", SecretRef(reference="env:TOKEN")))
    await there.deploy(there.placement("1.0", environment=secret))
    workload = await there.workload()
    assert b"TOKEN=canary-7531" in there.environment(workload.instance)
    assert there.says(b"canary-7531") == []


async def test_a_secret_as_a_file_is_kept_in_the_memory_of_the_host(there: Yard) -> None:
    there.secrets["env:TOKEN"] = "canary-7531"
    files = (SecretFile(name="token", secret=SecretRef(reference="env:TOKEN")),)
    await there.deploy(there.placement("1.0", secrets=files))
    variables = there.environment((await there.workload()).instance).split(b"\0")
    [folder] = [one.partition(b"=")[2].decode() for one in variables if one.startswith(b"CREDENTIALS_DIRECTORY=")]
    assert Path(folder, "token").read_text() == "canary-7531"
    assert there.says(b"canary-7531") == []


async def test_a_tree_of_many_pieces_arrives_as_it_is(there: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.process.wired.PIECE", 700)
    await there.deploy(there.placement("1.0"))
    assert (await there.workload()).differences == ()
    assert there.serves() == "1.0"


async def test_nothing_of_a_tree_that_was_sent_stays_here(
    there: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left: dict[str, list[Path]] = {}

    def said(progress: Any) -> None:
        left[progress.step] = list(tmp_path.glob("holdfast-*"))

    change = await there.change(there.placement("1.0"))
    await there.driver.apply(there.action(change), report=said)
    assert left["mark"] == left["sticker"] == []


async def test_what_the_workload_prints_is_shown_and_what_happens_to_it_is_told(there: Yard) -> None:
    placement = there.placement("1.0")
    await there.deploy(placement)
    lines = [line async for line in there.driver.logs(there.target, there.id, tail=5, follow=False)]
    assert lines
    instance = (await there.workload()).instance
    async with aclosing(there.driver.watch([there.target])) as events:
        told = asyncio.ensure_future(anext(events))
        await asyncio.sleep(1)
        assert not told.done()
        there.kill(instance)
        with anyio.fail_after(30):
            assert await told == there.target.id


# -- what goes wrong ---------------------------------------------------------------------------------------------------


async def test_a_workload_outlives_the_connection(there: Yard, relay: Relay) -> None:
    placement = there.placement("1.0")
    await there.deploy(placement)
    instance = (await there.workload()).instance
    relay.cut()
    await asyncio.sleep(0.3)
    assert there.serves() == "1.0"
    assert (await there.workload(placement)).instance == instance


@pytest.mark.parametrize("before", [True, False], ids=["before it was asked", "after it was answered"])
async def test_a_deploy_whose_connection_is_cut_at_any_request_goes_on_by_itself(
    there: Yard, relay: Relay, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    placements = [there.placement(f"{number}.0") for number in (1, 2)]
    await there.deploy(placements[0])
    cuts = Cuts(monkeypatch, relay)
    crossed = []
    for number, at in enumerate(range(0, 100, 4)):
        wanted, stands = placements[(number + 1) % 2], placements[number % 2]
        change = await there.change(wanted, stands, keep=0)
        cuts.set(at, before=before)
        outcome = await there.send(change)
        assert outcome.as_wanted, (at, outcome)
        if len(cuts.names) <= at:
            break
        crossed.append(cuts.names[at])
        cuts.set(-1, before=before)
        await must_stand(there, wanted)
    assert len(crossed) >= 5
    assert relay.taken >= len(crossed)


async def test_a_failed_deploy_that_is_cut_off_goes_back_by_itself(
    there: Yard, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, health = there.placement("1.0"), there.health(there.port, deadline=journey.timedelta(seconds=0.3))
    bad = there.placement("2.0", Character.BAD, health=health)
    await there.deploy(good)
    cuts = Cuts(monkeypatch, relay)
    for at in (13, 22):
        cuts.set(at, before=False)
        assert (await there.send(await there.change(bad, good))).result is Result.REVERTED
        await must_stand(there, good)


async def test_a_server_that_is_killed_in_the_middle_and_comes_back_is_gone_on_with(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sshd_or_skip() as server:
        await behind(yard, server).deploy(yard.placement("1.0"))
        wanted = yard.placement("2.0")
        change = await yard.change(wanted, yard.placement("1.0"))

        async def away() -> None:
            await anyio.to_thread.run_sync(server.stop)
            await anyio.sleep(0.5)
            await anyio.to_thread.run_sync(server.start)

        async with anyio.create_task_group() as group:
            stopped = anyio.Event()

            def said(progress: Any) -> None:
                if progress.step == "start" and not stopped.is_set():
                    stopped.set()
                    group.start_soon(away)

            receipt = await yard.driver.apply(yard.action(change), report=said)
        assert receipt.as_wanted
        await must_stand(yard, wanted)


async def test_a_host_key_that_changes_in_the_middle_ends_the_action_there(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sshd_or_skip() as server:
        first, second = yard.placement("1.0"), yard.placement("2.0")
        await behind(yard, server).deploy(first)
        change = await yard.change(second, first)
        changed: list[bool] = []

        def said(progress: Any) -> None:
            if progress.step == "prepare" and not changed:
                changed.append(True)
                server.change_host_key()

        before = yard.files()
        with pytest.raises(HostKeyChanged):
            await yard.driver.apply(yard.action(change), report=said)
        assert yard.files() == before
        assert yard.serves() == "1.0"


async def test_a_host_that_stays_away_leaves_the_outcome_unknown(
    there: Yard, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journey, "RETURNS_WITHIN", 0.5)
    first, second = there.placement("1.0"), there.placement("2.0")
    await there.deploy(first)
    change = await there.change(second, first)
    cuts = Cuts(monkeypatch, relay)
    cuts.set(9, before=True)

    def said(progress: Any) -> None:
        if "connection was lost" in progress.message:
            assert relay._listener is not None
            relay._listener.close()

    with pytest.raises(OutcomeUnknown, match=r"since then: .*the connection is refused"):
        await there.driver.apply(there.action(change), report=said)


async def test_black_holes_beside_a_good_host_cost_one_deadline_and_then_nothing(there: Yard, relay: Relay) -> None:
    with socket.socket() as hole, socket.socket() as first, socket.socket() as second:
        hole.bind(("0.0.0.0", 0))
        hole.listen(0)
        port = hole.getsockname()[1]
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        await asyncio.sleep(0.1)
        said = {"port": port, "connect_timeout": "3s"}
        lost = [
            there.target_at(there.root, f"lost-{number}", **relay.connection(host=f"127.77.0.{number}", **said))
            for number in range(1, 51)
        ]
        looks = [Look(target=target) for target in (*lost, there.target)]
        for limit in (12.0, 2.7):
            began = time.monotonic()
            seen = await there.driver.observe(looks)
            assert time.monotonic() - began < limit
            assert seen[there.target.id].unseen is None
            assert all("no connection within 3 s" in str(seen[target.id].unseen) for target in lost)


def test_who_is_not_heard_of_any_more_keeps_nobody_out(root: Path) -> None:
    """As when the network is gone and the host's sshd has not noticed."""
    code = f"import sys; sys.path.insert(0, {str(Path(host.__file__).parent)!r}); import host; host.PATIENCE = 0.5; "
    argv = [sys.executable, "-c", code + "host.Desk().serve()", str(root)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as silent:
        assert silent.stdin is not None
        assert silent.stdout is not None
        near = Far(sys.executable, root)
        try:
            silent.stdin.write(json.dumps({"id": 1, "of": "x", "do": "hold", **near.where}).encode() + b"\n")
            silent.stdin.flush()
            assert "answer" in json.loads(silent.stdout.readline())
            assert silent.wait(10) == 0
            near.ask("hold")
        finally:
            near.close()


def test_a_line_that_ends_lets_go_of_what_was_held(root: Path) -> None:
    near = Far(sys.executable, root)
    try:
        argv = [sys.executable, "-I", "-S", host.__file__, "serve"]
        ask = json.dumps({"id": 1, "of": "x", "do": "hold", **near.where}).encode() + b"\n"
        ended = subprocess.run(argv, input=ask, capture_output=True, timeout=20)
        assert "answer" in json.loads(ended.stdout)
        near.ask("hold")
    finally:
        near.close()


def test_a_tree_that_leaves_its_place_is_refused(tmp_path: Path) -> None:
    import io
    import tarfile

    (tmp_path / "out").mkdir()
    members = {
        "../escape": None,
        "/etc/escape": None,
        "link/escape": str(tmp_path / "out"),
    }
    for number, (name, link) in enumerate(members.items()):
        archive = tmp_path / f"{number}.tar"
        with tarfile.open(archive, "w") as tar:
            if link:
                member = tarfile.TarInfo("link")
                member.type, member.linkname = tarfile.SYMTYPE, link
                tar.addfile(member)
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        with pytest.raises(host.Trouble, match="leaves the tree"):
            host.unfold(str(archive), str(tmp_path / f"tree-{number}"))
    assert list((tmp_path / "out").iterdir()) == []


async def test_the_host_says_that_it_stopped(there: Yard) -> None:
    placement = there.placement("1.0", running=False)
    await there.deploy(placement)
    assert (await there.workload()).state is WorkloadState.STOPPED
