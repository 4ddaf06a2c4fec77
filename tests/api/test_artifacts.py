"""`holdfast artifacts` as people type it, without a daemon and with one."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from examples.demo.fleet import Fleet
from tests.api.test_daemon import daemon, in_sync


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    made = Fleet(tmp_path, environments={"staging": 1})
    made.build()
    return made


def test_the_files_of_a_job_are_shown_by_the_daemon_and_alone(fleet: Fleet) -> None:
    with daemon(fleet):
        fleet.wait("the first deployment", lambda: in_sync(fleet, "1.0.0"))
        told = fleet.ask("artifacts", "staging:1")
        raw = fleet.holdfast("artifacts", "staging:1", "--kind", "manifest", "--output", "raw")
        shown = fleet.holdfast("artifacts", "staging:1")
    assert [(file["kind"], file["direction"]) for file in told["files"]] == [
        ("manifest", "forward"),
        ("env-file", "forward"),
    ]
    assert told["files"][0]["digest"] == f"sha256:{hashlib.sha256(raw.encode()).hexdigest()}"
    assert [change["target"] for change in json.loads(raw)["changes"]] == ["default/staging-1"]
    assert "manifest.json" in shown
    assert fleet.ask("artifacts", "staging:1") == told


def test_what_is_not_there_and_what_is_not_one_file_is_said(fleet: Fleet) -> None:
    with daemon(fleet):
        fleet.wait("the first deployment", lambda: in_sync(fleet, "1.0.0"))
        for words, code in {
            ("--kind", "cake", "--output", "json"): "BAD_ARGUMENT",
            ("--target", "nowhere", "--output", "json"): "NO_ARTIFACT",
            ("--name", "other.env", "--output", "json"): "NO_ARTIFACT",
            ("--output", "raw"): "2 files are meant, and raw shows one",
            ("--output", "raw", "--back"): "no such file of its way back",
        }.items():
            done = subprocess.run(fleet.command("artifacts", "staging:1", *words), capture_output=True, text=True)
            assert done.returncode == 2
            assert code in done.stdout + done.stderr
