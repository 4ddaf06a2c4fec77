"""Programs, files and sockets of a host over its one connection."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from drivers.errors import InvalidAction, OutcomeUnknown, Refused, Unreachable
from drivers.ssh.errors import Cut, HostKeyChanged, NoPython, Silent
from drivers.ssh.pool import Kept, Pool
from drivers.ssh.transport import Host
from tests.harness import leftovers
from tests.harness.sshd import Relay, Sshd

Keep = Callable[..., Kept]
Reach = Callable[..., Host]


@pytest.fixture
def host(standing: Sshd, reach: Reach) -> Host:
    return reach(standing.connection())


async def gone(directory: Path, within: float = 30.0) -> bool:
    """Whether nothing runs any more that bears the directory's name."""
    return await eventually(lambda: not leftovers.of(directory), within)


async def begun(directory: Path, count: int) -> None:
    assert await eventually(lambda: len(leftovers.of(directory)) >= count)


async def eventually(condition: Callable[[], bool], within: float = 30.0) -> bool:
    """What other processes do is waited for by looking."""
    for _ in range(round(within / 0.02)):
        if condition():
            return True
        await anyio.sleep(0.02)
    return condition()


# -- programs ----------------------------------------------------------------------------------------------------------


async def test_a_program_gets_its_words_as_they_are(host: Host) -> None:
    words = ["$HOME; rm -rf /", "a b", "'\"`\\", "", "x\ny", "ü"]
    ran = await host.run(["printf", "%s|", *words], stdin=b"")
    assert ran.stdout.decode() == "".join(f"{word}|" for word in words)
    assert (ran.exit_code, ran.stderr, ran.cut) == (0, b"", False)


async def test_input_environment_and_directory_reach_the_program(host: Host, tmp_path: Path) -> None:
    argv = ["/bin/sh", "-c", 'cat; pwd; echo "$WORD"; exit 7']
    ran = await host.run(argv, stdin=b"in\n", env={"WORD": "$x y"}, cwd=str(tmp_path))
    assert (ran.exit_code, ran.stdout.decode()) == (7, f"in\n{tmp_path}\n$x y\n")


async def test_a_program_that_is_not_there_is_refused(host: Host) -> None:
    with pytest.raises(Refused, match="no-such-program cannot be run"):
        await host.run(["no-such-program"])


async def test_output_is_bounded(host: Host) -> None:
    ran = await host.run(["sh", "-c", "head -c 300000 /dev/zero"], limit=1000)
    assert (len(ran.stdout), ran.cut, ran.exit_code) == (1000, True, 0)


async def test_programs_run_side_by_side_over_one_connection(relay: Relay, reach: Reach) -> None:
    host = reach(relay.connection())
    began = time.monotonic()
    await asyncio.gather(*(host.run(["sleep", "0.5"]) for _ in range(20)))
    assert time.monotonic() - began < 5
    assert relay.taken == host.kept.made == 1


async def test_a_hung_program_is_ended_with_its_whole_group(host: Host, tmp_path: Path) -> None:
    script = "trap '' TERM; sh -c \"trap '' TERM; sleep 300\" & sleep 300"
    with pytest.raises(OutcomeUnknown, match="its process group was ended"):
        await host.run(["sh", "-c", script], timeout=0.3, env={"PATH": os.environ["PATH"], "MARK": str(tmp_path)})
    assert await gone(tmp_path)


async def test_a_program_whose_caller_leaves_is_ended(host: Host, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "MARK": str(tmp_path)}
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: host.run(["sleep", "300"], timeout=300, env=environment))
        await begun(tmp_path, 1)
        group.cancel_scope.cancel()
    assert await gone(tmp_path)
    assert (await host.run(["echo", "still"])).stdout == b"still\n"


async def test_a_program_does_not_outlive_the_connection(relay: Relay, reach: Reach, tmp_path: Path) -> None:
    host = reach(relay.connection())
    environment = {"PATH": os.environ["PATH"], "MARK": str(tmp_path)}
    running = asyncio.create_task(host.run(["sh", "-c", "sleep 300 & wait"], timeout=300, env=environment))
    await begun(tmp_path, 2)
    relay.cut()
    with pytest.raises(Cut):
        await running
    assert await gone(tmp_path)


async def test_a_host_without_that_python_says_so(standing: Sshd, kept: Keep) -> None:
    with pytest.raises(NoPython, match=r"python9 does not run there: .*not found"):
        await Host(kept(standing.connection()), "python9").run(["true"])


async def test_a_python_that_is_too_old_says_so(standing: Sshd, kept: Keep, tmp_path: Path) -> None:
    old = tmp_path / "python3.4"
    old.write_text(
        "#!/bin/sh\nexec python3 -I -S -c 'import sys; sys.version_info = (3, 4, 10); exec(sys.argv[1])' \"$4\"\n"
    )
    old.chmod(0o755)
    with pytest.raises(NoPython, match=r"Python 3\.8 or newer is needed, this is 3\.4"):
        await Host(kept(standing.connection()), str(old)).run(["true"])


async def test_what_a_login_prints_is_passed_over(standing: Sshd, kept: Keep, tmp_path: Path) -> None:
    noisy = tmp_path / "python"
    noisy.write_text('#!/bin/sh\necho "Welcome to the machine"\nexec python3 "$@"\n')
    noisy.chmod(0o755)
    assert (await Host(kept(standing.connection()), str(noisy)).run(["echo", "hi"])).stdout == b"hi\n"


# -- files -------------------------------------------------------------------------------------------------------------


async def test_a_file_is_written_whole_with_its_mode_and_read_again(host: Host, tmp_path: Path) -> None:
    await host.put(b"one", "a/b/file", root=str(tmp_path), mode=0o640)
    await host.put(b"two", "a/b/file", root=str(tmp_path), mode=0o600)
    file = tmp_path / "a/b/file"
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"two", 0o600)
    assert await host.get("a/b/file", root=str(tmp_path)) == b"two"
    assert await host.get("a/b/other", root=str(tmp_path)) is None
    assert [path.name for path in file.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("path", ["../out", "a/../../out", "/etc/out", "link/out", "a//out", "", ".", "file/.."])
async def test_no_path_leaves_its_root(host: Host, tmp_path: Path, path: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    with pytest.raises((InvalidAction, Refused)):
        await host.put(b"x", path, root=str(root))
    with pytest.raises((InvalidAction, Refused)):
        await host.get(path, root=str(root))
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "out").exists()


async def test_a_file_is_written_in_place_of_a_link_and_not_through_it(host: Host, tmp_path: Path) -> None:
    (tmp_path / "real").write_text("real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(Refused):
        await host.get("link", root=str(tmp_path))
    await host.put(b"new", "link", root=str(tmp_path))
    assert ((tmp_path / "real").read_text(), (tmp_path / "link").read_text()) == ("real", "new")


async def test_more_than_is_allowed_is_not_read(host: Host, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(5000))
    with pytest.raises(Refused, match="at most 4000 are read"):
        await host.get("big", root=str(tmp_path), limit=4000)


async def test_half_an_upload_leaves_what_was_there(relay: Relay, reach: Reach, tmp_path: Path) -> None:
    host = reach(relay.connection())
    await host.put(b"before", "file", root=str(tmp_path))
    relay.cut_after = relay.passed + (4 << 20)
    with pytest.raises(OutcomeUnknown):
        await host.put(bytes(16 << 20), "file", root=str(tmp_path))
    assert await eventually(lambda: [path.name for path in tmp_path.iterdir()] == ["file"])
    assert (tmp_path / "file").read_bytes() == b"before"
    await host.put(b"after", "file", root=str(tmp_path))
    assert (tmp_path / "file").read_bytes() == b"after"


async def test_an_upload_whose_caller_leaves_is_done_before_he_has_left(host: Host, tmp_path: Path) -> None:
    with anyio.move_on_after(0.05):
        await host.put(bytes(24 << 20), "file", root=str(tmp_path))
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("file", 24 << 20)]
    assert (await host.run(["echo", "fine"])).stdout == b"fine\n"


# -- the connection ----------------------------------------------------------------------------------------------------


async def test_many_who_ask_at_once_share_one_connection(relay: Relay, kept: Keep) -> None:
    one = kept(relay.connection())
    found = await asyncio.gather(*(one.connection() for _ in range(30)))
    assert len(set(map(id, found))) == relay.taken == 1


async def test_who_leaves_does_not_take_the_connection_from_the_others(relay: Relay, kept: Keep) -> None:
    one = kept(relay.connection())
    relay.hold()
    leaving, staying = asyncio.create_task(one.connection()), asyncio.create_task(one.connection())
    await asyncio.sleep(0.05)
    leaving.cancel()
    await asyncio.sleep(0.05)
    relay.let_through()
    assert not (await staying).is_closed()


async def test_a_lost_connection_is_made_again(relay: Relay, reach: Reach) -> None:
    host = reach(relay.connection())
    await host.run(["true"])
    relay.cut()
    await asyncio.sleep(0.1)
    assert (await host.run(["echo", "again"])).stdout == b"again\n"
    assert host.kept.made == 2


async def test_a_server_that_is_killed_and_comes_back_is_reached_again(server: Sshd, reach: Reach) -> None:
    host = reach(server.connection())
    await host.run(["true"])
    server.stop()
    await asyncio.sleep(0.1)
    with pytest.raises(Unreachable, match="the connection is refused"):
        await host.run(["true"])
    server.start()
    assert (await host.run(["echo", "back"])).stdout == b"back\n"


async def test_a_host_key_that_changes_between_two_connections_runs_nothing(
    server: Sshd, reach: Reach, tmp_path: Path
) -> None:
    host = reach(server.connection())
    await host.run(["true"])
    server.change_host_key()
    await asyncio.sleep(0.1)
    with pytest.raises(HostKeyChanged):
        await host.run(["touch", str(tmp_path / "ran")])
    assert not (tmp_path / "ran").exists()


async def test_an_unused_connection_is_closed_and_made_again(relay: Relay, reach: Reach) -> None:
    host = reach(relay.connection(idle="200ms"))
    await host.run(["sleep", "0.5"])  # in use for longer than that
    assert host.kept.stands
    assert host.kept.made == 1
    await asyncio.sleep(0.7)
    assert not host.kept.stands
    await host.run(["true"])
    assert host.kept.made == 2


async def test_a_peer_that_has_gone_silent_is_noticed(relay: Relay, reach: Reach) -> None:
    host = reach(relay.connection(keepalive="200ms"))
    await host.run(["true"])
    relay.hold()
    began = time.monotonic()
    with pytest.raises(Cut):
        await host.run(["true"])
    assert time.monotonic() - began < 5


async def test_an_answer_that_does_not_come_is_not_waited_for_longer_than_said(relay: Relay, reach: Reach) -> None:
    host = reach(relay.connection(keepalive="60s", command_timeout="300ms"))
    await host.kept.connection()
    relay.hold()
    with pytest.raises(Silent, match=r"within 0\.3 s"):
        await host.run(["true"])


async def test_fifty_black_holes_do_not_keep_a_good_host_waiting(standing: Sshd, reach: Reach) -> None:
    with socket.socket() as hole, socket.socket() as first, socket.socket() as second:
        hole.bind(("0.0.0.0", 0))
        hole.listen(0)
        port = hole.getsockname()[1]
        for filler in (first, second):  # the queue is full: whoever comes now hears nothing
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        await asyncio.sleep(0.1)
        said = {"port": port, "connect_timeout": "2s"}
        holes = [reach(standing.connection(host=f"127.77.0.{number}", **said)) for number in range(1, 51)]
        waiting = [asyncio.create_task(host.run(["true"])) for host in holes]
        await asyncio.sleep(0)
        began = time.monotonic()
        assert (await reach(standing.connection()).run(["echo", "good"])).stdout == b"good\n"
        assert time.monotonic() - began < 1.9
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(error) for error in found} == {Silent}
        began = time.monotonic()
        with pytest.raises(Silent, match="no connection within 2 s"):
            await holes[0].run(["true"])
        assert time.monotonic() - began < 0.5, "a silent host is not waited for by everybody who asks"


async def test_the_last_driver_that_leaves_closes_the_connections(standing: Sshd, pool: Pool, kept: Keep) -> None:
    one = kept(standing.connection())
    pool.join()
    connection = await one.connection()
    await pool.leave()
    assert not connection.is_closed()
    await pool.leave()
    assert connection.is_closed()
    pool.join()


# -- sockets -----------------------------------------------------------------------------------------------------------


async def test_a_port_of_the_host_is_reached_from_the_host(standing: Sshd, reach: Reach) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello " + await reader.readline())
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener, reach(standing.connection()).connected("127.0.0.1", port) as (reader, writer):
        writer.write(b"you\n")
        assert await reader.read(100) == b"hello you\n"


async def test_a_port_on_which_nobody_listens_is_refused(host: Host) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            async with host.connected("127.0.0.1", free.getsockname()[1]):
                pass
