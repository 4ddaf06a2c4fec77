"""The supervisor, under this Python and the oldest one: real processes that end, hang, fork, listen and print."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from drivers.process import host
from tests.drivers.process.far import HOST, Far, Refusal, eventually, free_port
from tests.harness import leftovers

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
DEAF = "import signal, time; signal.signal(15, lambda *_: None); print('deaf', flush=True)\nwhile 1: time.sleep(9)"


def pid(instance: str) -> int:
    return int(instance.partition(":")[0])


def alive(pids: Iterable[int]) -> list[int]:
    found = [host.process(number) for number in pids]
    return [child.pid for child in found if child is not None and child.lives]


def supervisor(session: Far) -> int:
    return pid(session.standing["supervisor"])


# -- starting ----------------------------------------------------------------------------------------------------------


def test_a_workload_runs_in_its_tree_with_only_what_is_declared(far: Far) -> None:
    script = "import json, os, sys; print(json.dumps([os.getcwd(), dict(os.environ), sys.argv]), flush=True)"
    far.run(script + "; import time; time.sleep(600)", environment=[["COLOUR", "blue"]])
    cwd, environment, argv = json.loads(far.printed()[0])
    workload = far.workload
    assert cwd == str(far.place / "releases" / workload["release"] / "tree")
    assert argv == ["app.py"]
    assert environment.pop("HOLDFAST_RUN").startswith(f"{far.place}#")
    environment.pop("LC_CTYPE", None)  # Python's own, in the C locale
    assert environment == {
        "COLOUR": "blue",
        "PATH": host.PATH,
        "HOLDFAST_INSTALLATION": "inst",
        "HOLDFAST_TARGET": "default/t1",
        "HOLDFAST_COMPONENT": "web",
        "HOLDFAST_SLOT": "live",
        "HOLDFAST_ARTIFACT": f"shop/web@sha256:{'1' * 64}",
        "HOLDFAST_CONFIGURATION": workload["configuration"],
    }


def test_a_workload_inherits_no_handle_no_terminal_and_no_mask(far: Far) -> None:
    script = (
        "import json, os, signal; handles = os.listdir('/proc/self/fd'); "
        "mask = os.umask(0); blocked = list(signal.pthread_sigmask(signal.SIG_BLOCK, [])); "
        "ignored = [int(n) for n in range(1, 65) if signal.getsignal(n) == signal.SIG_IGN]; "
        "leads, reads = os.getsid(0) == os.getpid(), os.readlink('/proc/self/fd/0'); "
        "print(json.dumps([handles, mask, blocked, ignored, leads, reads]), flush=True)"
    )
    far.run(script)
    handles, mask, blocked, ignored, leads, reads = json.loads(far.printed()[0])
    assert len(handles) == 4  # 0, 1, 2 and the listing itself
    assert (mask, blocked, leads, reads) == (0o022, [], True, "/dev/null")
    assert set(ignored) <= {signal.SIGPIPE, signal.SIGXFSZ}  # Python's own


def test_a_file_of_the_release_goes_before_a_program_of_the_host(near: Far) -> None:
    release = near.release({"sleep": f"#!{sys.executable} -S\nprint('ours', flush=True)"}, ["sleep", "600"])
    near.start(release)
    assert near.printed() == ["ours"]


def test_an_absolute_word_is_looked_up_in_the_release_first(near: Far) -> None:
    release = near.release({"app/run": "#!/bin/sh\necho ours"}, ["/app/run"])
    near.start(release)
    assert near.printed() == ["ours"]


def test_a_link_out_of_the_release_is_not_a_program_of_it(near: Far) -> None:
    release = near.release({"app.py": SLEEPER}, ["run"])
    (near.place / "releases" / release / "tree/run").symlink_to("/bin/sleep")
    with pytest.raises(Refusal, match="neither a file of the release nor a program"):
        near.start(release)


def test_what_cannot_be_executed_ends_with_a_reason_in_its_log(far: Far) -> None:
    release = far.release({"run": "no program at all"}, ["run"])
    far.start(release)
    eventually(lambda: far.workload["exit_code"] == 127)
    assert far.workload["state"] == "stopped"
    assert far.printed()[0].startswith("holdfast: cannot start run: ")


def test_an_instance_is_the_process_and_when_it_began(near: Far) -> None:
    instance = near.run(SLEEPER)["instance"]
    assert instance == f"{pid(instance)}:{Path(f'/proc/{pid(instance)}/stat').read_text().split()[21]}"
    assert near.workload["instance"] == instance


def test_a_long_root_is_no_trouble(python: str, root: Path) -> None:
    session = Far(python, root / ("long-" * 30) / "root")
    assert session.run(SLEEPER)["state"] == "running"
    session.close()


def test_no_supervisor_starts_without_its_python(near: Far) -> None:
    near.ask("hold")
    with pytest.raises(Refusal, match="there is no python-of-nowhere on the target"):
        near.ask("ensure", python="python-of-nowhere")


def test_a_python_that_fails_is_named_with_what_it_said(near: Far, tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\necho too old >&2; exit 1")
    (tmp_path / "python").chmod(0o755)
    near.ask("hold")
    with pytest.raises(Refusal, match=r"no supervisor could be started by .*/python: too old"):
        near.ask("ensure", python=str(tmp_path / "python"))


# -- one of each -------------------------------------------------------------------------------------------------------


def test_a_supervisor_outlives_its_starter(far: Far) -> None:
    instance = far.run(SLEEPER)["instance"]
    far.close()
    again = Far(far.python, far.root)
    assert again.workload["instance"] == instance
    assert again.workload["state"] == "running"
    again.close()


def test_a_second_supervisor_does_not_start(near: Far) -> None:
    near.run(SLEEPER)
    argv = [near.python, "-I", "-S", str(HOST), "supervise", str(near.place)]
    second = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert "does not end" in second.stderr
    assert near.workload["state"] == "running"


def test_nobody_else_can_give_orders_or_read_what_was_printed(near: Far) -> None:
    near.run(SLEEPER)
    near.printed()
    modes = {name: (near.place / name).stat().st_mode & 0o777 for name in ("supervisor", "supervisor/socket", "logs")}
    assert modes == {"supervisor": 0o700, "supervisor/socket": 0o600, "logs": 0o700}


def test_a_supervisor_whose_word_cannot_be_written_says_it_as_soon_as_it_can(near: Far) -> None:
    instance = near.run(SLEEPER)["instance"]
    state = near.place / "supervisor/state.json"
    state.unlink()
    state.mkdir()  # nothing can be renamed onto it, as on a full disk
    os.kill(pid(instance), signal.SIGKILL)
    time.sleep(0.2)
    state.rmdir()
    eventually(lambda: state.exists() and near.workload["exit_code"] == 137)


def test_a_supervisor_with_nothing_to_do_leaves(far: Far) -> None:
    far.ask("hold")
    argv = [far.python, "-I", "-S", str(HOST), "supervise", str(far.place), "0.2"]
    assert subprocess.run(argv, check=False).returncode == 0
    eventually(lambda: far.standing["supervisor"] is None)


def test_another_start_replaces_what_runs(far: Far) -> None:
    first = far.run(SLEEPER)
    second = far.start(far.release({"app.py": SLEEPER}, [far.python, "-S", "app.py"], "2" * 64))
    assert host.living(first["instance"]) is None
    assert [run[1] for run in far.standing["active"]] == [second["instance"]]
    assert os.readlink(far.place / "current") == f"releases/{second['release']}"


def test_a_start_beside_leaves_what_runs_in_place(far: Far) -> None:
    first = far.run(SLEEPER)
    release = far.release({"app.py": SLEEPER}, [far.python, "-S", "app.py"], "2" * 64)
    second = far.start(release, replace=False)
    standing = far.standing
    assert standing["workload"]["instance"] == first["instance"]
    assert standing["debris"] == [f"run {second['instance']}"]
    assert far.ask("standing", instance=second["instance"])["workload"]["instance"] == second["instance"]
    far.ask("switch", release=release)
    far.order(do="stop", releases=[first["release"]])
    assert far.workload["instance"] == second["instance"]
    assert far.standing["debris"] == []


def test_what_runs_is_told_and_not_what_is_pointed_at(near: Far) -> None:
    first = near.run(SLEEPER)
    other = near.release({"app.py": SLEEPER}, [near.python, "-S", "app.py"], "2" * 64)
    near.ask("switch", release=other)
    assert near.workload["artifact"] == first["artifact"]


def test_a_newer_order_takes_the_place_of_one_that_waits(near: Far) -> None:
    near.run(DEAF, stop_grace=500)
    near.printed()
    second = near.release({"app.py": SLEEPER}, [near.python, "-S", "app.py"], "2" * 64)
    third = near.release({"app.py": SLEEPER}, [near.python, "-S", "app.py"], "3" * 64)
    order = {"do": "start", "replace": True, "key": "k"}
    waiting = near.ask("order", order={**order, "release": second})["token"]
    eventually(lambda: near.standing["pending"])
    last = near.order(**order, release=third)
    with pytest.raises(Refusal, match="another order came after this one"):
        near.ask("awaited", token=waiting, timeout=1)
    assert [run[1] for run in near.standing["active"]] == [last["instance"]]
    assert near.standing["pending"] is False


def test_an_order_is_carried_out_although_its_giver_is_killed(far: Far) -> None:
    far.run(DEAF, stop_grace=500)
    far.printed()
    second = far.release({"app.py": SLEEPER}, [far.python, "-S", "app.py"], "2" * 64)
    far.ask("order", order={"do": "start", "replace": True, "key": "k", "release": second})
    far.process.kill()
    far.close()
    again = Far(far.python, far.root)
    eventually(lambda: again.workload["release"] == second and again.workload["state"] == "running")
    again.close()


# -- its end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [
        ("never", 1, False),
        ("on-failure", 0, False),
        ("on-failure", 1, True),
        ("unless-stopped", 0, True),
        ("always", 1, True),
    ],
)
def test_who_ends_is_started_again_as_declared(near: Far, policy: str, code: int, again: bool) -> None:
    first = near.run(f"import time; time.sleep(0.1); raise SystemExit({code})", restart=policy)
    if again:
        eventually(lambda: near.workload["restarts"] >= 2)
        assert near.workload["instances"][0] == first["instance"]
        assert near.workload["instance"] != first["instance"]
    else:
        eventually(lambda: near.workload["exit_code"] == code)
        assert (near.workload["state"], near.workload["restarts"]) == ("stopped", 0)


def test_restarts_back_off(near: Far) -> None:
    near.run("raise SystemExit(1)", restart="always")
    eventually(lambda: near.workload["state"] == "restarting")
    time.sleep(1.5)
    assert 2 <= near.workload["restarts"] <= 4  # after 0.1, 0.2, 0.4 and 0.8 seconds


def test_killed_by_hand_it_is_back_within_a_second(far: Far) -> None:
    first = far.run(SLEEPER, restart="unless-stopped")
    os.kill(pid(first["instance"]), signal.SIGKILL)
    eventually(lambda: far.workload["restarts"] == 1 and far.workload["state"] == "running", within=1.5)


def test_stopped_as_told_it_stays_stopped(near: Far) -> None:
    near.run(SLEEPER, restart="always")
    near.order(do="stop")
    standing = near.standing
    assert (standing["workload"]["state"], standing["active"], standing["pending"]) == ("stopped", [], False)


def test_a_signal_that_ended_it_is_told_as_a_shell_tells_it(near: Far) -> None:
    instance = near.run(SLEEPER)["instance"]
    os.kill(pid(instance), signal.SIGKILL)
    eventually(lambda: near.workload["exit_code"] == 137)
    assert near.workload["state"] == "stopped"


def test_who_does_not_hear_is_killed_after_its_grace(near: Far) -> None:
    first = near.run(
        DEAF,
        stop_grace=300,
    )
    near.printed()
    began = time.monotonic()
    near.order(do="stop")
    assert 0.3 <= time.monotonic() - began < 3
    assert host.living(first["instance"]) is None


def test_who_hears_has_its_whole_grace(near: Far) -> None:
    script = (
        "import os, signal, sys, time\n"
        "def bye(*_):\n    time.sleep(0.5); os.write(1, b'bye\\n'); sys.exit(0)\n"
        "signal.signal(15, bye); print('up', flush=True)\nwhile 1: time.sleep(9)"
    )
    near.run(script, stop_grace=5000)
    near.printed()
    near.order(do="stop")
    assert near.output == ["up", "bye"]


FORKER = """
import os, sys, time
def child(name, session):
    if os.fork() == 0:
        if session: os.setsid()
        if session and os.fork(): os._exit(0)
        print(name, os.getpid(), flush=True)
        time.sleep(600)
child("member", False)
child("stray", True)
time.sleep(%s)
"""


def test_a_stop_ends_the_group_and_what_left_it(far: Far) -> None:
    far.run(FORKER % 600)
    children = [int(line.split()[1]) for line in far.printed(2)]
    far.order(do="stop")
    assert alive(children) == []


def test_what_an_ended_leader_leaves_behind_is_ended_before_the_next_start(far: Far) -> None:
    far.run(FORKER % 0.2, restart="unless-stopped")
    first = [int(line.split()[1]) for line in far.printed(2)][:2]
    eventually(lambda: far.workload["restarts"] >= 1)
    assert alive(first) == []


def test_a_killed_supervisor_takes_its_workload_along(far: Far) -> None:
    instance = far.run(SLEEPER)["instance"]
    os.kill(supervisor(far), signal.SIGKILL)
    eventually(lambda: host.living(instance) is None, within=20)
    assert far.workload["state"] == "stopped"


def test_what_survived_a_killed_supervisor_is_ended_by_the_next(far: Far) -> None:
    far.run(FORKER % 600)
    children = [int(line.split()[1]) for line in far.printed(2)]
    os.kill(supervisor(far), signal.SIGKILL)
    eventually(lambda: far.standing["supervisor"] is None)
    assert alive(children) == children
    far.ask("ensure", python=far.python)
    assert alive(children) == []


def test_a_supervisor_told_to_leave_stops_its_workload_first(near: Far) -> None:
    instance = near.run(SLEEPER, restart="always")["instance"]
    near.ask("dismiss")
    assert near.ask("gone", timeout=5) == {"gone": True}
    assert host.living(instance) is None
    assert near.workload["state"] == "stopped"


def test_a_supervisor_that_hangs_is_killed_with_its_workload(near: Far) -> None:
    instance = near.run(SLEEPER)["instance"]
    os.kill(supervisor(near), signal.SIGSTOP)
    near.ask("dismiss")
    assert near.ask("gone", timeout=0.1) == {"gone": False}
    near.ask("dismiss", force=True)
    assert near.ask("gone", timeout=5) == {"gone": True}
    eventually(lambda: host.living(instance) is None, within=20)


def test_the_next_supervisor_remembers_what_ran(near: Far) -> None:
    first = near.run(SLEEPER)
    os.kill(supervisor(near), signal.SIGKILL)
    eventually(lambda: near.standing["supervisor"] is None)
    near.ask("ensure", python=near.python)
    assert (near.workload["state"], near.workload["instance"]) == ("stopped", first["instance"])


def test_after_clearing_only_the_fence_is_left(far: Far) -> None:
    far.run(SLEEPER)
    far.ask("dismiss")
    far.ask("gone", timeout=5)
    far.ask("clear", fence=9)
    assert far.look() == {"standings": []}
    left = {str(path.relative_to(far.place)) for path in far.place.rglob("*")}
    assert left == {"journal.json", "lock", "supervisor", "supervisor/lock"}
    assert far.standing["fence"] == 9


def test_nothing_is_cleared_under_a_living_supervisor(near: Far) -> None:
    near.run(SLEEPER)
    with pytest.raises(Refusal) as refusal:
        near.ask("clear")
    assert refusal.value.code == "busy"
    assert near.workload["state"] == "running"


# -- secrets -----------------------------------------------------------------------------------------------------------

NEEDY = [["TOKEN", {"reference": "env:TOKEN", "version": None}], ["PLAIN", "x"]]
TELLER = "import os, time; print(len(os.environ['TOKEN']), flush=True); time.sleep(600)"


def test_a_release_that_needs_secrets_is_not_started_without(near: Far) -> None:
    first = near.run(SLEEPER)
    release = near.release({"app.py": TELLER}, [near.python, "-S", "app.py"], "2" * 64, environment=NEEDY)
    with pytest.raises(Refusal) as refusal:
        near.start(release)
    assert (refusal.value.code, refusal.value.missing) == ("secrets", ["env:TOKEN@"])
    assert near.workload["instance"] == first["instance"]


def test_a_secret_reaches_the_workload_and_nothing_else(far: Far) -> None:
    canary = "hunter2-canary"
    release = far.release({"app.py": TELLER}, [far.python, "-S", "app.py"], environment=NEEDY)
    started = far.start(release, secrets={"env:TOKEN@": canary})
    assert far.printed() == [str(len(canary))]
    seen = [path.read_bytes() for path in far.root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not any(canary.encode() in content for content in seen)
    for found in leftovers.of(far.root):
        assert canary.encode() not in Path(f"/proc/{found}/cmdline").read_bytes()
        held = canary.encode() in Path(f"/proc/{found}/environ").read_bytes()
        assert held == (found == pid(started["instance"]))


def test_a_supervisor_keeps_secrets_for_restarts_and_for_going_back(near: Far) -> None:
    release = near.release({"app.py": TELLER}, [near.python, "-S", "app.py"], environment=NEEDY)
    first = near.start(release, secrets={"env:TOKEN@": "four"})
    near.printed()
    near.start(near.release({"app.py": SLEEPER}, [near.python, "-S", "app.py"], "2" * 64))
    near.printed(2)
    again = near.start(release)
    assert again["release"] == first["release"]
    assert near.printed(3) == ["4", "up", "4"]


FILED = [{"name": "password", "secret": {"reference": "env:TOKEN", "version": None}, "path": None}]
READER = """\
import os, time
path = os.environ['CREDENTIALS_DIRECTORY'] + '/password'
print(path, flush=True)
print(len(open(path).read()), oct(os.stat(path).st_mode), os.stat(path).st_uid == os.getuid(), flush=True)
time.sleep(600)
"""


def filed(session: Far, **declared: Any) -> str:
    """A release that finds a secret in a file."""
    release = session.release({"app.py": READER}, [session.python, "-S", "app.py"], secrets=FILED, **declared)
    session.start(release, secrets={"env:TOKEN@": "hunter2-canary"})
    return release


def test_a_secret_as_a_file_is_the_workloads_own_in_memory_and_goes_with_it(far: Far) -> None:
    filed(far)
    path, told = far.printed(2)[:2]
    assert told == "14 0o100400 True"
    assert host.file_system(path, Path("/proc/self/mounts").read_text()) in host.IN_MEMORY
    assert Path(path).parent.stat().st_mode & 0o077 == 0
    assert not any(b"canary" in each.read_bytes() for each in far.root.rglob("*") if each.is_file())
    for found in leftovers.of(far.root):
        assert b"canary" not in Path(f"/proc/{found}/environ").read_bytes()
    far.order(do="stop")
    eventually(lambda: not Path(path).parent.exists())


@pytest.mark.usefixtures("privileged")
def test_a_secret_as_a_file_is_the_declared_users_alone(near: Far) -> None:
    near.root.parent.chmod(0o755)
    script = '#!/bin/sh\nf=$CREDENTIALS_DIRECTORY/password\necho $f; cat $f; echo; stat -c "%a %U" $f; exec sleep 600'
    release = near.release({"run": script}, ["run"], secrets=FILED, user="daemon")
    near.start(release, secrets={"env:TOKEN@": "hunter2-canary"})
    path, content, mode = near.printed(3)
    assert (content, mode) == ("hunter2-canary", "400 daemon")
    stranger = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", path]
    assert subprocess.run(stranger, capture_output=True, check=False).returncode != 0


def test_a_secret_as_a_file_is_there_again_for_each_start(near: Far) -> None:
    filed(near, restart="always")
    path = Path(near.printed(2)[0])
    before = near.workload["instance"]
    path.unlink()
    os.kill(pid(before), signal.SIGKILL)
    assert near.printed(4)[2:4] == [str(path), "14 0o100400 True"]


def test_what_a_killed_supervisor_left_in_memory_the_next_one_takes_away(near: Far) -> None:
    release = filed(near)
    path = Path(near.printed(2)[0])
    os.kill(supervisor(near), signal.SIGKILL)
    eventually(lambda: not leftovers.of(near.root / "inst/web"))
    assert path.exists()
    near.ask("ensure", python=near.python)
    assert not path.parent.exists()
    near.start(release, secrets={"env:TOKEN@": "hunter2-canary"})
    again = Path(near.printed(4)[2])
    os.kill(supervisor(near), signal.SIGKILL)
    eventually(lambda: not leftovers.of(near.root / "inst/web"))
    near.ask("clear")
    assert not again.parent.exists()


def test_where_nothing_is_in_memory_it_is_said_before_anything_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "rooms", lambda: [f"{tmp_path}/holdfast-0", "/nowhere/holdfast-0"])
    with pytest.raises(host.Trouble, match=f"neither {tmp_path} nor /nowhere is a tmpfs in which we may have"):
        host.room_in_memory()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_memory_that_others_may_write_to_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="hf-room-", dir=host.SHARED) as top:
        squatted, link, own = Path(top, "a"), Path(top, "b"), Path(top, "c")
        squatted.mkdir()
        squatted.chmod(0o777)
        link.symlink_to(top)
        monkeypatch.setattr(host, "rooms", lambda: [str(squatted), str(link), str(own)])
        assert host.room_in_memory() == str(own)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/run/x", "tmpfs"), ("/running", "ext4"), ("/a b/c", "ramfs"), ("/run/user/7", "nfs"), ("/twice", "tmpfs")],
)
def test_the_file_system_of_a_path_is_read_from_the_mounts(path: str, kind: str) -> None:
    mounts = "r / ext4 rw 0 0\nt /run tmpfs rw 0 0\nt /a\\040b ramfs rw 0 0\nu /run/user/7 nfs rw 0 0\n"
    assert host.file_system(path, mounts + "x /twice ext4 rw 0 0\nx /twice tmpfs rw 0 0\n") == kind


# -- output ------------------------------------------------------------------------------------------------------------


def test_output_is_kept_whole_lines_from_both_streams(near: Far) -> None:
    near.run("import sys; print('out', flush=True); sys.stderr.write('err\\n'); sys.stdout.write('no end')")
    assert near.printed(3) == ["out", "err", "no end"]


def test_logs_are_bounded(near: Far) -> None:
    near.run(f"for _ in range({6 * host.LOG_BYTES // 1000}): print('x' * 999)\nprint('last')")
    eventually(lambda: near.output[-1:] == ["last"], within=30)
    files = list((near.place / "logs").iterdir())
    assert len(files) == host.LOG_FILES
    assert all(file.stat().st_size <= host.LOG_BYTES for file in files)
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)


def test_following_a_log_goes_on_through_its_rotation(near: Far) -> None:
    near.ask("hold")
    log = host.Log(host.Place(str(near.place)))
    log.write(b"first\n")
    answer = near.ask("log", tail=10)
    assert answer["lines"] == ["first"]
    log.write(b"second\n")
    log._rotate()
    log.write(b"third\n")
    answer = near.ask("log", position=answer["position"])
    assert answer["text"] == "second\nthird\n"
    assert near.ask("log", position=answer["position"])["text"] == ""


def test_a_log_that_cannot_be_written_does_not_end_the_workload(near: Far) -> None:
    release = near.release({"app.py": "print('x', flush=True); import time; time.sleep(600)"}, [near.python, "app.py"])
    (near.place / "logs").rmdir()
    near.start(release)
    time.sleep(0.3)
    assert near.workload["state"] == "running"


# -- health ------------------------------------------------------------------------------------------------------------

LISTENER = """
import http.server, os
port = int(os.environ.get("PORT") or os.environ["HOLDFAST_PORT_8080"])
http.server.HTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def listens(session: Far, port: int) -> str:
    found = session.look(ports={"web": port})["standings"][0]["workload"]
    return str(found["listening"]["who"])


def test_a_port_is_ours_when_the_workload_listens_there(far: Far) -> None:
    port = free_port()
    instance = far.run(LISTENER, environment=[["PORT", str(port)]])["instance"]
    ask = {"instance": instance, "address": "127.0.0.1", "port": port}
    assert far.ask("listens", asks=[ask], within=10)["found"][0]["who"] == "ours"
    assert listens(far, port) == "ours"


def test_a_port_held_by_a_child_of_the_workload_is_ours(near: Far) -> None:
    port = free_port()
    near.run("import os, time\nif os.fork(): time.sleep(600)\n" + LISTENER, environment=[["PORT", str(port)]])
    eventually(lambda: listens(near, port) == "ours")


def test_a_port_held_by_another_is_never_ours(near: Far) -> None:
    with socket.create_server(("127.0.0.1", 0)) as impostor:
        near.run(SLEEPER)
        assert listens(near, impostor.getsockname()[1]) == "foreign"


def test_a_port_shared_with_another_is_not_ours(near: Far) -> None:
    port = free_port()
    script = (
        "import socket, time; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); "
        f"s.bind(('127.0.0.1', {port})); s.listen(); time.sleep(600)"
    )
    near.run(script)
    eventually(lambda: listens(near, port) == "ours")
    with socket.socket() as impostor:
        impostor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        impostor.bind(("127.0.0.1", port))
        impostor.listen()
        assert listens(near, port) == "foreign"
    assert listens(near, port) == "ours"


def test_who_listens_on_all_addresses_is_asked_unless_another_is_closer(near: Far) -> None:
    port = free_port()
    near.run(f"import socket, time; s = socket.create_server(('', {port}), reuse_port=True); time.sleep(600)")
    eventually(lambda: listens(near, port) == "ours")
    with socket.create_server(("127.0.0.1", port), reuse_port=True):
        assert listens(near, port) == "foreign"


def test_a_port_of_both_families_is_found(near: Far) -> None:
    port = free_port()
    near.run(
        "import socket, time; "
        f"s = socket.create_server(('', {port}), family=socket.AF_INET6, dualstack_ipv6=True); time.sleep(600)"
    )
    eventually(lambda: listens(near, port) == "ours")


def test_an_address_of_one_family_can_be_held_in_the_words_of_the_other() -> None:
    plain, mapped = socket.inet_aton("127.0.0.1"), socket.inet_pton(socket.AF_INET6, "::ffff:127.0.0.1")
    table = {80: [(plain, 1), (mapped, 2), (b"\0" * 4, 3), (b"\0" * 16, 4)]}
    assert host.answering(table, "127.0.0.1", 80) == {1, 2}
    assert host.answering(table, "127.0.0.2", 80) == {3}
    assert host.answering(table, "::1", 80) == {4}
    assert host.answering(table, "127.0.0.1", 81) == frozenset()


def test_both_ways_to_ask_the_kernel_agree() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as four,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
    ):
        asked, read = host._asked_listeners(), host._read_listeners()
        for found in (four, six):
            port = found.getsockname()[1]
            assert sorted(asked[port]) == sorted(read[port])


def test_a_port_that_nobody_fixed_is_told_to_the_workload(far: Far) -> None:
    port = {"container": 8080, "host": None, "address": "127.0.0.1", "protocol": "tcp"}
    started = far.run(LISTENER, ports=[port])
    eventually(lambda: listens(far, 8080) == "ours")
    assert far.workload["ports"] == {"8080": started["ports"]["8080"]}


def check(session: Far, *argv: str, timeout: float = 5) -> int | None:
    order = {"do": "check", "instance": session.workload["instance"], "argv": list(argv), "timeout": timeout}
    code: int | None = session.ask("ask", order=order, timeout=timeout + 5)["exit_code"]
    return code


def test_a_health_command_runs_as_the_workload_does(far: Far) -> None:
    release = far.release({"app.py": SLEEPER}, [far.python, "-S", "app.py"], environment=NEEDY)
    far.start(release, secrets={"env:TOKEN@": "hush"})
    script = "import os, sys; sys.exit(0 if os.environ['TOKEN'] == 'hush' and os.path.exists('app.py') else 3)"
    assert check(far, far.python, "-S", "-c", script) == 0
    assert check(far, far.python, "-S", "-c", "raise SystemExit(4)") == 4
    assert check(far, "no-such-program") == 127


def test_a_health_command_that_hangs_is_ended_with_its_group(far: Far) -> None:
    far.run(SLEEPER)
    forks = "import os, time; os.fork(); open('pids', 'a').write(str(os.getpid()) + '\\n'); time.sleep(600)"
    began = time.monotonic()
    assert check(far, far.python, "-S", "-c", forks, timeout=0.7) is None
    assert time.monotonic() - began < 3
    pids = (far.place / "releases" / far.workload["release"] / "tree/pids").read_text().split()
    eventually(lambda: len(pids) == 2 and not alive(map(int, pids)))


def test_health_commands_are_few_at_once(near: Far) -> None:
    near.run(SLEEPER)
    order = {"do": "check", "instance": near.workload["instance"], "argv": ["sleep", "60"], "timeout": 1}
    tokens = [near.ask("order", order=order)["token"] for _ in range(9)]
    with pytest.raises(Refusal) as refusal:
        near.ask("awaited", token=tokens[-1], timeout=5)
    assert refusal.value.code == "busy"
    assert near.ask("awaited", token=tokens[0], timeout=5) == {"exit_code": None}


# -- limits ------------------------------------------------------------------------------------------------------------


def test_memory_is_limited(near: Far) -> None:
    near.run("print('up', flush=True); held = bytearray(200 << 20)", memory=100 << 20)
    eventually(lambda: near.workload["exit_code"] == 1)
    assert "MemoryError" in near.output[-1]


def test_reserving_addresses_is_not_using_memory(near: Far) -> None:
    near.run("import mmap; mmap.mmap(-1, 1 << 30, prot=mmap.PROT_READ); print('fine')", memory=100 << 20)
    assert near.printed() == ["fine"]


def test_processors_are_limited(far: Far) -> None:
    far.run("import os; print(len(os.sched_getaffinity(0)))", cpus=1000)
    assert far.printed() == ["1"]


def test_no_core_is_dumped(near: Far) -> None:
    near.run("import resource; print(resource.getrlimit(resource.RLIMIT_CORE))")
    assert near.printed() == ["(0, 0)"]


@pytest.mark.parametrize(("declared", "groups"), [("nobody", None), ("65534:65534", None), ("nobody:games", 60)])
@pytest.mark.usefixtures("privileged")
def test_a_workload_runs_as_its_user(near: Far, declared: str, groups: int | None) -> None:
    near.root.parent.chmod(0o755)
    release = near.release({"run": "#!/bin/sh\nid -u; id -g; exec sleep 600"}, ["run"], user=declared)
    near.start(release)
    user, group = near.printed(2)
    assert user == "65534"
    assert group == str(groups or 65534)


@pytest.mark.usefixtures("privileged")
def test_a_workload_of_another_user_dies_with_its_supervisor_too(near: Far) -> None:
    near.root.parent.chmod(0o755)
    release = near.release({"run": "#!/bin/sh\nexec sleep 600"}, ["run"], user="nobody")
    instance = near.start(release)["instance"]
    os.kill(supervisor(near), signal.SIGKILL)
    eventually(lambda: host.living(instance) is None, within=20)


@pytest.mark.usefixtures("privileged")
def test_an_unknown_user_is_refused_beforehand(near: Far) -> None:
    first = near.run(SLEEPER)
    release = near.release({"app.py": SLEEPER}, [near.python, "app.py"], "2" * 64, user="nobody-at-all")
    with pytest.raises(Refusal, match="user nobody-at-all is not known"):
        near.start(release)
    assert near.workload["instance"] == first["instance"]


# -- by hand -----------------------------------------------------------------------------------------------------------


def ctl(session: Far, verb: str) -> subprocess.CompletedProcess[str]:
    argv = [session.python, str(HOST), "ctl", str(session.place), verb]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def let_go(session: Far) -> None:
    """A person finds the placement unheld."""
    session.close()
    Far.__init__(session, session.python, session.root)


def test_a_hand_can_swap_what_runs(far: Far) -> None:
    first = far.run(SLEEPER)
    other = far.release({"app.py": SLEEPER}, [far.python, "-S", "app.py"], "2" * 64)
    let_go(far)
    (far.place / "current").unlink()
    (far.place / "current").symlink_to(f"releases/{other}")
    assert far.workload["artifact"] == first["artifact"]
    swapped = ctl(far, "restart")
    assert swapped.returncode == 0, swapped.stderr
    assert far.workload["instance"] == swapped.stdout.strip()
    assert (far.workload["artifact"], far.workload["key"]) == ("sha256:" + "2" * 64, None)


def test_a_hand_can_stop_and_start(near: Far) -> None:
    near.run(SLEEPER, restart="always")
    let_go(near)
    assert ctl(near, "stop").returncode == 0
    assert near.workload["state"] == "stopped"
    assert json.loads(ctl(near, "status").stdout)["current"] == near.workload["release"]
    assert ctl(near, "start").returncode == 0
    assert near.workload["state"] == "running"


def test_a_hand_does_not_reach_into_an_action(near: Far) -> None:
    near.run(SLEEPER)
    done = ctl(near, "restart")
    assert (done.returncode, "another action holds" in done.stderr) == (1, True)


def test_strangers_to_the_command_line_are_told_its_use(python: str) -> None:
    done = subprocess.run([python, str(HOST), "dance"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.startswith("usage: host.py")) == (2, True)


# -- changed by hand ---------------------------------------------------------------------------------------------------


def test_a_changed_file_of_what_runs_makes_its_artifact_unknown(near: Far) -> None:
    workload = near.run(SLEEPER)
    (near.place / "releases" / workload["release"] / "tree/app.py").write_text("changed")
    found = near.look()["standings"][0]["workload"]
    assert (found["artifact"], found["configuration"]) == (None, workload["configuration"])
    assert found["differences"] == ["file app.py: found changed, wanted as unpacked"]


def test_a_changed_specification_of_what_runs_makes_its_configuration_unknown(near: Far) -> None:
    workload = near.run(SLEEPER)
    file = near.place / "releases" / workload["release"] / "specification.json"
    file.write_text(file.read_text().replace("2000", "2001"))
    found = near.look()["standings"][0]["workload"]
    assert (found["artifact"], found["configuration"]) == (workload["artifact"], None)
