"""`holdfast source`, `apply` and `export` as people type them, without a daemon."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from api import keys
from api.cli.main import main
from api.settings import Settings
from tests.api.houses import environment, release, source, target
from tests.harness.gits import Work


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOLDFAST_SOURCES", str(tmp_path / "sources.yaml"))
    monkeypatch.setenv("HOLDFAST_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("HOLDFAST_DOCUMENTS", raising=False)
    keys.init(Settings(state=tmp_path / "state").keys)
    return tmp_path


def declare(place: Path, *sources: str) -> None:
    (place / "sources.yaml").write_text("\n---\n".join(sources))


def test_documents_are_applied_and_exported_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    declare(place, source("team", database={}))
    (place / "docs").mkdir()
    (place / "docs" / "all.yaml").write_text("---\n".join((release(), environment(), target())))
    assert main(["apply", "-f", str(place / "docs"), "--dry-run"]) == 0
    assert "environment default/staging would be created" in capsys.readouterr().out
    assert main(["apply", "-f", str(place / "docs")]) == 0
    assert "revision 1" in capsys.readouterr().out
    assert main(["export", "staging", "-o", str(place / "out")]) == 0
    assert main(["validate", str(place / "out")]) == 0
    assert main(["export", "-o", str(place / "out")]) == 2  # nothing is overwritten
    capsys.readouterr()
    assert main(["apply", "-f", str(place / "out")]) == 0
    assert "Nothing to change" in capsys.readouterr().out


def test_findings_of_apply_name_the_file_and_the_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    declare(place, source("team", database={}))
    (place / "bad.yaml").write_text(environment(wanted="shop@9"))
    assert main(["apply", "-f", str(place / "bad.yaml")]) == 2
    assert f"{place}/bad.yaml:4" in capsys.readouterr().err


def test_sources_are_listed_with_what_is_wrong_and_an_exit_code(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = Work(place)
    head = work.commit({"deploy/all.yaml": "---\n".join((release(), environment(), target()))})
    declare(place, source("shop", git={"repository": work.url, "path": "deploy"}))
    assert main(["validate"]) == 0
    assert main(["source", "list"]) == 0
    out = capsys.readouterr().out
    assert head[:12] in out
    assert "taken" in out
    work.bare.rename(work.bare.with_suffix(".away"))
    assert main(["source", "show", "shop"]) == 1
    out = capsys.readouterr().out
    assert "SourceMissing" in out
    assert "The last accepted state stays in force." in out
    assert main(["source", "list", "--output", "json"]) == 1
    [row] = json.loads(capsys.readouterr().out)["sources"]
    assert row["revision"] == head


def test_doctor_examines_the_targets_of_every_source(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = Work(place)
    work.commit({"deploy/all.yaml": "---\n".join((release(), environment(), target()))})
    declare(place, source("shop", git={"repository": work.url, "path": "deploy"}), source("team", database={}))
    (place / "dev.yaml").write_text("---\n".join((release(), environment("dev"), target("dev-1", of="dev"))))
    assert main(["apply", "-f", str(place / "dev.yaml")]) == 0
    capsys.readouterr()
    main(["doctor", "--output", "json"])
    examined = json.loads(capsys.readouterr().out)["targets"]
    assert sorted(each["id"] for each in examined) == ["default/dev-1", "default/web-1"]
