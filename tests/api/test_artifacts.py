"""`holdfast artifacts` as people type it, without a daemon and with one."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from examples.demo.fleet import Fleet
from tests.api.fleets import built
from tests.api.test_daemon import daemon, in_sync

CANARY = "c4nary-value-of-a-secret"


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return built(tmp_path, targets=1)


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


def test_no_value_of_a_secret_is_kept_or_shown(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", CANARY)
    document = fleet.documents / "staging.yaml"
    document.write_text(document.read_text() + '    environment: {TOKEN: {secret: "env:SHOP_TOKEN"}}\n')
    with daemon(fleet):
        fleet.wait("the first deployment", lambda: in_sync(fleet, "1.0.0"))
        told = json.dumps(fleet.ask("artifacts", "staging:1"))
    assert "env:SHOP_TOKEN" in told
    assert CANARY not in told
    holding = [path for path in fleet.state.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert holding == []
    assert CANARY not in (fleet.home / "daemon.log").read_text()


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
