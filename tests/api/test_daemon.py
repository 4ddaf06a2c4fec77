"""The daemon as people run it: a real process, real workloads, the command line as its client."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.demo.fleet import Fleet
from tests.api.fleets import built


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return built(tmp_path, targets=2)


@contextlib.contextmanager
def daemon(fleet: Fleet) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that the test may kill; whatever still lives of it and of its workloads is ended by process id."""
    with (fleet.home / "daemon.log").open("ab") as log:
        process = subprocess.Popen(fleet.command("run"), stdout=log, stderr=log)
    try:
        fleet.wait("the daemon", lambda: answers(fleet))
        yield process
    finally:
        process.kill()
        process.wait()
        fleet.end_workloads()


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, int]]:
    """A fleet in sync and the process that holds it, shared by the tests that only ask."""
    fleet = built(tmp_path_factory.mktemp("held"), targets=2)
    with daemon(fleet) as process:
        fleet.wait("the first deployment", lambda: in_sync(fleet, "1.0.0"))
        yield fleet, process.pid


@pytest.fixture
def standing(held: tuple[Fleet, int]) -> Fleet:
    return held[0]


def answers(fleet: Fleet) -> bool:
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
        client.connect(str(fleet.state / "holdfast.sock"))
        return True
    return False


def in_sync(fleet: Fleet, release: str) -> bool:
    seen = fleet.verdicts()
    served = [fleet.serves(target) for target in fleet.ports]
    return set(seen.values()) == {"in sync"} and all(text.startswith(f"shop {release} ") for text in served)


def test_a_fleet_is_deployed_served_and_in_sync(standing: Fleet) -> None:
    assert standing.ask("plan", "staging")["waves"] == []
    assert standing.ask("drift")["placements"] == []


def test_evidence_of_what_is_in_sync_is_kept_signed_and_names_what_runs(standing: Fleet) -> None:
    cell = standing.placement("staging-1")
    evidence = standing.ask("evidence", cell["evidence"])
    assert evidence["signature"] == "valid"
    assert evidence["statement"]["instance"] == cell["instance"]
    assert evidence["statement"]["switched_at"] <= evidence["statement"]["proven_at"]


def test_a_daemon_that_was_killed_goes_on_by_looking(fleet: Fleet) -> None:
    with daemon(fleet) as first:
        fleet.wait("the first action", lambda: any(word != "missing" for word in fleet.verdicts().values()))
        first.kill()
        first.wait()
        with daemon(fleet):
            fleet.wait("the rest", lambda: in_sync(fleet, "1.0.0"))
            jobs = fleet.ask("job", "list", "staging")["jobs"]
            assert [job["state"] for job in jobs] == ["completed"]


def test_sigterm_drains_and_leaves_the_workloads_serving(fleet: Fleet) -> None:
    with daemon(fleet) as process:
        fleet.wait("the first deployment", lambda: in_sync(fleet, "1.0.0"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not (fleet.state / "holdfast.sock").exists()
        assert fleet.serves("staging-1").startswith("shop 1.0.0")


def test_sighup_has_files_read_again_and_ends_nothing(fleet: Fleet) -> None:
    with daemon(fleet) as process:
        fleet.wait("the first deployment", lambda: in_sync(fleet, "1.0.0"))  # not ended in its midst by the test's end
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None
        assert answers(fleet)


def test_a_second_daemon_is_told_who_holds_the_state(held: tuple[Fleet, int]) -> None:
    fleet, pid = held
    second = subprocess.run(fleet.command("run"), capture_output=True, text=True, timeout=60)
    assert second.returncode == 2
    assert f"process {pid}" in second.stderr
    assert second.stderr.count("\n") == 1
    assert answers(fleet)


def test_the_socket_is_for_its_owner_alone(standing: Fleet) -> None:
    assert stat.S_IMODE((standing.state / "holdfast.sock").stat().st_mode) == 0o600


def test_who_asks_is_told_by_the_kernel(fleet: Fleet) -> None:
    with daemon(fleet):
        fleet.wait("the first deployment", lambda: in_sync(fleet, "1.0.0"))
        fleet.holdfast("suspend", "staging", "--reason", "a test")
        suspended = fleet.ask("status", "staging")["environments"][0]["suspended"]
        assert suspended["reason"].startswith("a test")


def test_a_suspended_environment_is_looked_at_and_not_changed(fleet: Fleet) -> None:
    with daemon(fleet):
        fleet.wait("the first deployment", lambda: in_sync(fleet, "1.0.0"))
        fleet.holdfast("suspend", "staging", "--reason", "a test")
        fleet.kill("staging-1")
        fleet.wait("the drift", lambda: fleet.placement("staging-1")["verdict"] == "stopped")
        assert fleet.placement("staging-1")["blocked"]
        fleet.holdfast("resume", "staging")
        fleet.wait("the heal", lambda: in_sync(fleet, "1.0.0"))


def test_an_empty_tree_removes_nothing(fleet: Fleet) -> None:
    with daemon(fleet):
        fleet.wait("the first deployment", lambda: in_sync(fleet, "1.0.0"))
        for path in fleet.documents.iterdir():
            path.unlink()
        fleet.wait("the alarm", lambda: fleet.ask("status")["source"]["problem"] is not None)
        assert in_sync(fleet, "1.0.0")


def test_one_bad_file_keeps_the_last_accepted_state(fleet: Fleet) -> None:
    with daemon(fleet):
        fleet.wait("the first deployment", lambda: in_sync(fleet, "1.0.0"))
        (fleet.documents / "bad.yaml").write_text("kind: Nonsense\n")
        fleet.wait("the alarm", lambda: "bad.yaml" in (fleet.ask("status")["source"]["problem"] or ""))
        assert in_sync(fleet, "1.0.0")


def test_a_rollback_by_hand_returns_to_the_release_before(fleet: Fleet) -> None:
    with daemon(fleet):
        fleet.wait("the first deployment", lambda: in_sync(fleet, "1.0.0"))
        fleet.declare("staging", "1.1.0")
        fleet.wait("the next release", lambda: in_sync(fleet, "1.1.0"))
        fleet.holdfast("rollback", "staging", "--reason", "a test")
        fleet.wait("the way back", lambda: in_sync(fleet, "1.0.0"))
        time.sleep(0.5)
        assert in_sync(fleet, "1.0.0"), "a rollback is never undone by the next turn"


def test_a_plan_that_is_not_the_plan_any_more_is_refused(standing: Fleet) -> None:
    command = standing.command("sync", "staging", "--plan-hash", "0123456789ab")
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "PLAN_MOVED" in refused.stderr


def test_logs_show_what_a_workload_printed(standing: Fleet) -> None:
    assert "shop 1.0.0 listens" in standing.holdfast("logs", "staging-1", "web")


def test_a_wrong_name_is_one_line_with_the_nearest(standing: Fleet) -> None:
    wrong = subprocess.run(standing.command("why", "staging-11"), capture_output=True, text=True, timeout=60)
    assert wrong.returncode == 2
    assert "did you mean staging-1?" in wrong.stderr
    assert wrong.stderr.count("\n") == 1


def test_without_a_daemon_a_command_does_the_work_itself(fleet: Fleet) -> None:
    try:
        fleet.holdfast("sync", "staging")
        assert fleet.serves("staging-2").startswith("shop 1.0.0")
        assert fleet.ask("plan", "staging")["waves"] == []
    finally:
        fleet.end_workloads()


FORBIDDEN = (
    "sqlalchemy",
    "pydantic",
    "docker",
    "cryptography",
    "securesystemslib",
    "structlog",
    "yaml",
    "anyio",
    "starlette",
    "fastapi",
    "pydantic",
)


@pytest.mark.parametrize("words", [["--help"], ["status"]], ids=["--help", "status"])
def test_what_is_asked_often_imports_nothing_slow(standing: Fleet, words: list[str]) -> None:
    command = standing.command(*words) if words != ["--help"] else [sys.executable, "-m", "api.cli.main", "--help"]
    timed = [command[0], "-X", "importtime", *command[1:]]
    done = subprocess.run(timed, capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert imported.isdisjoint(FORBIDDEN)


def test_a_program_reads_the_same_answer_as_a_person(standing: Fleet) -> None:
    answer = json.loads(standing.holdfast("status", "--output", "json"))
    assert answer["environments"][0]["verdicts"] == {"in sync": 2}
    assert (standing.root("staging-1") / answer["installation"]).is_dir()
    assert "2 in sync" in standing.holdfast("status")


def test_without_a_daemon_what_is_shown_was_looked_at_now(fleet: Fleet) -> None:
    try:
        fleet.holdfast("sync", "staging")
        assert fleet.verdicts() == {"staging-1": "in sync", "staging-2": "in sync"}
        fleet.kill("staging-1")
        assert fleet.placement("staging-1")["verdict"] == "stopped"
        assert fleet.ask("job", "list", "staging")["jobs"][0]["state"] == "completed", "looking makes no job"
    finally:
        fleet.end_workloads()
