"""The host's side, under this Python and the oldest one: roots, releases, stickers, locks and fences."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from drivers.process import host
from tests.drivers.process.far import Far, Refusal, eventually

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"


def test_a_root_is_signed_by_its_first_target(far: Far) -> None:
    far.ask("hold")
    assert json.loads((far.root / "owner.json").read_text()) == {
        "format": host.FORMAT,
        "installation": "inst",
        "target": "default/t1",
    }


def test_a_root_of_another_target_is_refused(near: Far) -> None:
    near.ask("hold")
    near.where["target"] = "default/t2"
    with pytest.raises(Refusal, match="belongs to target default/t1 of installation inst"):
        near.ask("hold")


def test_a_root_of_another_installation_cannot_be_seen(near: Far) -> None:
    near.ask("hold")
    assert "belongs to target" in near.look(installation="other")["unseen"]


def test_a_directory_with_things_in_it_is_not_taken_for_a_root(near: Far) -> None:
    near.root.mkdir()
    (near.root / "precious").write_text("not ours")
    with pytest.raises(Refusal, match="not empty and nobody's: it holds precious"):
        near.ask("hold")
    assert [path.name for path in near.root.iterdir()] == ["precious"]


def test_of_two_that_sign_a_root_at_once_one_is_refused(root: Path) -> None:
    claims = [host.Claim(str(root), "inst", f"default/t{number}") for number in (1, 2)]
    root.mkdir()
    claims[0]._sign()
    with pytest.raises(host.Trouble, match="belongs to target default/t1"):
        claims[1]._sign()


@pytest.mark.parametrize("component", ["../etc", "a/b", "A", "", ".x", "a.b", "a\0"])
def test_a_placement_stays_inside_its_root(near: Far, component: str) -> None:
    near.where["component"] = component
    with pytest.raises(Refusal) as refusal:
        near.ask("hold")
    assert refusal.value.code == "invalid"


@pytest.mark.parametrize("installation", ["..", "a/b", "", "-x", "x/../y"])
def test_an_installation_is_a_name_and_no_path(near: Far, installation: str) -> None:
    near.where["installation"] = installation
    with pytest.raises(Refusal, match="is not an installation id"):
        near.ask("hold")


def test_a_placement_that_is_a_link_is_refused(near: Far, tmp_path: Path) -> None:
    near.ask("hold")
    near.where["component"] = "api"
    (near.root / "inst/api").symlink_to(tmp_path)
    with pytest.raises(Refusal, match="is not a directory"):
        near.ask("hold")


def test_a_held_placement_is_busy_for_another(far: Far) -> None:
    far.ask("hold")
    other = Far(far.python, far.root)
    with pytest.raises(Refusal) as refusal:
        other.ask("hold")
    other.close()
    assert refusal.value.code == "busy"


def test_a_killed_holder_holds_nothing(far: Far) -> None:
    other = Far(far.python, far.root)
    other.ask("hold")
    other.process.kill()
    other.close()
    far.ask("hold")


def test_nothing_is_changed_without_holding(near: Far) -> None:
    with pytest.raises(Refusal, match="changed without holding it"):
        near.ask("wear", content="x")


def test_a_lower_fence_than_was_seen_changes_nothing(far: Far) -> None:
    far.ask("hold")
    far.ask("wear", content="first", fence=7)
    with pytest.raises(Refusal) as refusal:
        far.ask("wear", content="second", fence=6)
    assert refusal.value.code == "stale_fence"
    assert (far.place / "sticker.json").read_text() == "first"
    assert far.standing["fence"] == 7


def test_a_journal_that_cannot_be_read_is_no_reason_to_forget_its_fence(near: Far) -> None:
    near.ask("hold")
    near.ask("wear", content="x", fence=7)
    (near.place / "journal.json").write_text("{")
    with pytest.raises(Refusal, match=r"journal.json cannot be read"):
        near.ask("wear", content="y", fence=8)
    assert "journal.json cannot be read" in near.look()["unseen"]


def test_what_makes_no_sense_is_refused_and_the_session_goes_on(far: Far) -> None:
    for request in ({"do": "dance"}, {"do": "look"}, {"do": "hold", "root": 5}, {"do": "hold", "root": "relative"}):
        with pytest.raises(Refusal) as refusal:
            far.ask(**request)
        assert refusal.value.code == "invalid"
    assert far.look() == {"standings": []}


def test_no_root_yet_means_that_nothing_stands_there(far: Far) -> None:
    assert far.look() == {"standings": []}


# -- releases ----------------------------------------------------------------------------------------------------------


def test_a_sealed_release_is_found_by_its_content(far: Far) -> None:
    release = far.release({"app.py": SLEEPER}, ["app.py"])
    specification = json.loads((far.place / "releases" / release / "specification.json").read_text())
    content = {
        "artifact": "sha256:" + "1" * 64,
        "configuration": host.configuration_digest(specification["configuration"]),
    }
    assert far.ask("find", **content) == {"release": release}
    assert far.ask("find", **{**content, "artifact": "sha256:" + "2" * 64}) == {"release": None}


@pytest.mark.parametrize("change", ["content", "removed", "executable", "link", "replaced"])
def test_a_release_whose_files_were_changed_is_not_found(near: Far, change: str) -> None:
    release = near.release({"app.py": SLEEPER, "lib/a.txt": "one"}, ["app.py"])
    file = near.place / "releases" / release / "tree/lib/a.txt"
    match change:
        case "content":
            file.write_text("two")
        case "removed":
            file.unlink()
        case "executable":
            file.chmod(0o644)
        case "link":
            file.unlink()
            file.symlink_to("/etc/passwd")
        case "replaced":
            file.parent.rename(file.parent.with_name("old"))
    assert found(near, release) is None


def test_a_file_written_with_the_same_content_and_times_back_is_no_change(near: Far) -> None:
    release = near.release({"app.py": SLEEPER}, ["app.py"])
    file = near.place / "releases" / release / "tree/app.py"
    file.write_text(SLEEPER)
    assert found(near, release) == release


def test_a_file_changed_with_its_times_put_back_is_seen(near: Far) -> None:
    release = near.release({"app.py": SLEEPER}, ["app.py"])
    file = near.place / "releases" / release / "tree/app.py"
    before = file.stat()
    file.write_text(SLEEPER.replace("600", "601"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert found(near, release) is None


def test_what_a_workload_writes_beside_itself_is_no_change(near: Far) -> None:
    release = near.release({"app.py": SLEEPER}, ["app.py"])
    (near.place / "releases" / release / "tree/__pycache__").mkdir()
    assert found(near, release) == release


def test_an_edited_specification_is_another_configuration(near: Far) -> None:
    release = near.release({"app.py": SLEEPER}, ["app.py"])
    file = near.place / "releases" / release / "specification.json"
    file.write_text(file.read_text().replace("2000", "2001"))
    assert found(near, release) is None


def test_a_damaged_release_stays_until_its_successor_stands(near: Far) -> None:
    first = near.release({"app.py": SLEEPER}, ["app.py"])
    second = near.release({"app.py": SLEEPER}, ["app.py"])
    assert (first, second) == (first, first + ".1")
    assert {path.name for path in (near.place / "releases").iterdir()} == {first, second}


def test_half_unpacked_trees_are_debris_and_cleaned_by_the_next(near: Far) -> None:
    near.ask("hold")
    half = Path(near.ask("stage")["staging"])
    assert near.standing["debris"] == [f"releases/{half.name}"]
    near.ask("stage")
    assert not half.exists()


def test_only_what_was_staged_here_can_be_sealed(near: Far, tmp_path: Path) -> None:
    near.ask("hold")
    with pytest.raises(Refusal, match="was not staged here"):
        near.ask("seal", staging=str(tmp_path), specification=near.specification(["x"], "1" * 64, {}))


def test_collecting_keeps_what_serves_and_the_latest_others(near: Far) -> None:
    releases = [near.release({"app.py": SLEEPER}, ["app.py"], str(number) * 64) for number in range(1, 6)]
    for age, release in enumerate(reversed(releases)):
        os.utime(near.place / "releases" / release, (time.time() - age, time.time() - age))
    near.ask("switch", release=releases[0])
    near.ask("collect", keep=2)
    assert {path.name for path in (near.place / "releases").iterdir()} == {releases[0], releases[3], releases[4]}
    assert [kept[0][7] for kept in near.standing["kept"]] == ["5", "4"]


def test_collecting_never_takes_what_runs(near: Far) -> None:
    running = near.run(SLEEPER)
    other = near.release({"app.py": SLEEPER}, ["app.py"], "2" * 64)
    near.ask("switch", release=other)
    near.ask("collect", keep=0)
    assert {path.name for path in (near.place / "releases").iterdir()} == {running["release"], other}


def test_what_serves_is_never_dropped(near: Far) -> None:
    release = near.release({"app.py": SLEEPER}, ["app.py"])
    near.ask("switch", release=release)
    near.ask("drop", release=release)
    assert (near.place / "releases" / release).is_dir()


def test_a_link_that_leads_elsewhere_serves_nothing(near: Far, tmp_path: Path) -> None:
    near.release({"app.py": SLEEPER}, ["app.py"])
    (near.place / "current").symlink_to(tmp_path)
    assert near.standing["workload"] is None


@pytest.mark.parametrize(
    "word", ["nowhere-to-be-found", "data.txt", "../../../../../../../bin/sh", "pyproject.toml", "/"]
)
def test_a_command_that_cannot_be_started_is_refused_beforehand(near: Far, word: str) -> None:
    release = near.release({"app.py": SLEEPER}, [word])
    (near.place / "releases" / release / "tree/data.txt").write_text("no program")
    with pytest.raises(Refusal) as refusal:
        near.ask("fits", release=release)
    assert refusal.value.code == "refused"


# -- stickers ----------------------------------------------------------------------------------------------------------


def test_a_sticker_is_read_back_as_it_was_worn(far: Far) -> None:
    far.ask("hold")
    far.ask("wear", content='{"worn": "ü"}')
    assert far.look()["standings"][0]["sticker"] == {"text": '{"worn": "ü"}'}
    far.ask("bare")
    assert far.look() == {"standings": []}


def test_a_sticker_that_is_a_link_is_neither_read_nor_written_through(near: Far, tmp_path: Path) -> None:
    near.ask("hold")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("secret")
    (near.place / "sticker.json").symlink_to(elsewhere)
    assert "cannot be read" in near.standing["sticker"]["problem"]
    near.ask("wear", content="ours")
    assert (elsewhere.read_text(), near.standing["sticker"]) == ("secret", {"text": "ours"})


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * (host.STICKER_BYTES + 1)])
def test_a_sticker_that_is_not_one_is_a_problem_and_no_crash(near: Far, content: bytes) -> None:
    near.ask("hold")
    (near.place / "sticker.json").write_bytes(content)
    assert near.standing["sticker"]["problem"]


WRITER = """
import sys; sys.path.insert(0, sys.argv[1])
import host, itertools
for number in itertools.count():
    host.write_file(sys.argv[2], ('{"number": %d, "padding": "%s"}' % (number, "x" * 20000)).encode(), 0o644)
    if not number: print("begun", flush=True)
"""


def test_a_sticker_is_whole_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    random.seed(1)
    path = tmp_path / "sticker.json"
    for _ in range(25):
        argv = [sys.executable, "-I", "-S", "-c", WRITER, str(Path(host.__file__).parent), str(path)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(random.uniform(0, 0.01))
            writer.kill()
        assert json.loads(path.read_text())["padding"] == "x" * 20000
    assert path.stat().st_mode & 0o777 == 0o644


def noting(calls: list[str], name: str, real: Callable[..., object]) -> Callable[..., object]:
    def call(*arguments: object) -> object:
        calls.append(name)
        return real(*arguments)

    return call


def test_a_stickers_place_is_brought_to_the_disk_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "rename"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, noting(calls, name, real))
    host.write_file(str(tmp_path / "x"), b"content", 0o644)
    assert calls == ["fsync", "rename", "fsync"]


# -- what was read once ------------------------------------------------------------------------------------------------


def test_a_file_rewritten_within_one_tick_is_read_again(tmp_path: Path) -> None:
    eyes, path = host.Eyes(), str(tmp_path / "x")
    for number in range(200):
        host.write_file(path, b"%03d" % number, 0o644, durable=False)
        assert eyes._read(path, lambda content: int(content)) == number


def test_a_file_written_this_moment_may_be_another_at_the_next_look(tmp_path: Path) -> None:
    eyes, path, calls = host.Eyes(), tmp_path / "x", list[str]()
    path.write_text("1")
    for _ in range(2):
        eyes._read(str(path), noting(calls, "parse", int))
    assert len(calls) == 2


def test_an_unchanged_file_is_read_once(tmp_path: Path) -> None:
    eyes, path, calls = host.Eyes(), tmp_path / "x", list[str]()
    path.write_text("1")
    os.utime(path, (1, 1))
    for _ in range(3):
        eyes._read(str(path), noting(calls, "parse", int))
    assert calls == ["parse"]


def test_a_large_tree_is_not_compared_at_every_look(tmp_path: Path) -> None:
    for number in range(800):
        (tmp_path / f"{number}").write_text("x")
    sweep = host.Sweep(str(tmp_path), host.inventory(str(tmp_path)))
    assert sweep.look() == ()
    (tmp_path / "7").write_text("y")
    assert sweep.look() == ()
    assert sweep.look(now=True) == ("file 7: found changed, wanted as unpacked",)


def test_a_run_of_before_the_reboot_does_not_run(near: Far) -> None:
    near.run(SLEEPER)
    state = near.place / "supervisor/state.json"
    os.kill(supervisor(near), signal.SIGSTOP)
    try:
        state.write_text(state.read_text().replace(host.boot(), "another-boot"))
        assert near.workload["state"] == "stopped"
    finally:
        os.kill(supervisor(near, boot="another-boot"), signal.SIGCONT)


def test_another_process_with_the_same_number_is_not_the_workload(near: Far) -> None:
    instance = near.run(SLEEPER)["instance"]
    assert host.living(instance) is not None
    pid, _, ticks = instance.partition(":")
    assert host.living(f"{pid}:{int(ticks) + 1}") is None


@pytest.mark.parametrize("content", ["", "{", '{"format": "holdfast.process/v1", "runs": [{}]}'])
def test_a_state_that_is_none_is_written_anew_by_the_next_order(near: Far, content: str) -> None:
    first = near.run(SLEEPER)
    (near.place / "supervisor/state.json").write_text(content)
    assert near.workload["state"] == "stopped"
    second = near.start(first["release"])
    assert near.workload["instance"] == second["instance"]
    assert host.living(first["instance"]) is None


def test_the_pulse_beats_for_stickers_switches_and_deaths_only(near: Far) -> None:
    near.run(SLEEPER)

    def beat() -> object:
        return near.ask("pulse", targets=[near.where])["targets"]

    beats = [beat()]
    assert beat() == beats[0]
    near.ask("wear", content="x")
    beats.append(beat())
    os.kill(int(near.workload["instance"].partition(":")[0]), signal.SIGKILL)
    eventually(lambda: near.workload["exit_code"] == 137)
    beats.append(beat())
    os.kill(supervisor(near), signal.SIGKILL)
    eventually(lambda: near.standing["supervisor"] is None)
    beats.append(beat())
    assert len({json.dumps(found) for found in beats}) == 4


def found(session: Far, release: str) -> str | None:
    """The release by the content it was sealed with."""
    artifact, configuration = "sha256:" + "1" * 64, {"restart": "never", "stop_grace": 2000}
    answer = session.ask("find", artifact=artifact, configuration=host.configuration_digest(configuration))
    assert answer["release"] in (None, release)
    return answer["release"]  # type: ignore[no-any-return]


def supervisor(session: Far, boot: str | None = None) -> int:
    state = json.loads((session.place / "supervisor/state.json").read_text())
    assert state["boot"] == (boot or host.boot())
    return int(state["supervisor"].partition(":")[0])
