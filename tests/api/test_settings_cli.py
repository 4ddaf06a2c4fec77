"""`holdfast settings`, and the reference and the commented file that are made of the same words."""

from __future__ import annotations

import gc
import json
import re
from pathlib import Path

import pytest

from api import settings_file
from api.cli.main import GARBAGE, main
from api.cli.settings import commented, reference
from api.notices import declared as notices
from api.settings import MEANINGS, read
from api.starter import beside
from desired_state.sources import declared as sources

ROOT = Path(__file__).parents[2]
COMMENTED = re.compile(r"^( *)# ?( *(?:- )?[a-z_]+: .*)$", re.MULTILINE)


def test_the_reference_is_what_the_code_says() -> None:
    """`holdfast settings --output markdown > docs/settings.md` renews it."""
    assert (ROOT / "docs" / "settings.md").read_text() == reference()


def test_every_setting_is_explained_in_the_reference() -> None:
    assert all(f"\n| `{name}` | " in reference() for name in MEANINGS)
    assert all(meaning.says.endswith(".") for meaning in MEANINGS.values())


def test_the_commented_file_sets_nothing(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(commented())
    assert settings_file.read(path) == {}


def test_what_is_commented_out_in_it_can_be_meant(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(re.sub(r"^# (?=[a-z_]+: )", "", commented(), flags=re.MULTILINE))
    assert set(settings_file.read(path)) == set(MEANINGS)


def test_no_default_points_at_another_machine() -> None:
    assert not [name for name in MEANINGS if re.search(r"://|@|\.[a-z]{2,3}\b", str(getattr(read({}), name)))]


def test_values_are_shown_with_their_origin_and_secrets_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("apiVersion: holdfast/v1\nkind: Settings\ntoken: hunter1\nconcurrency: 8\n")
    monkeypatch.setenv("HOLDFAST_SETTINGS", str(path))
    monkeypatch.setenv("HOLDFAST_DATABASE", "postgresql+psycopg://h:hunt@er2@db/x?password=hunter3&sslmode=require")
    assert main(["settings", "--output", "json"]) == 0
    told = capsys.readouterr().out
    assert "hunt" not in told
    found = json.loads(told)["settings"]
    assert found["token"] == {"value": "***", "from": f"{path}:3", "variable": "HOLDFAST_TOKEN"}
    assert found["concurrency"] == {"value": 8, "from": f"{path}:4", "variable": "HOLDFAST_CONCURRENCY"}
    assert found["database"]["value"] == "postgresql+psycopg://h:***@db/x?password=***&sslmode=require"
    assert found["listen"] == {"value": None, "from": "default", "variable": "HOLDFAST_LISTEN"}
    assert main(["settings"]) == 0
    assert "hunt" not in capsys.readouterr().out


def test_findings_are_data_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("apiVersion: holdfast/v1\nkind: Settings\nrole: boht\n")
    assert main(["settings", "--settings", str(path), "--output", "json"]) == 2
    problem = json.loads(capsys.readouterr().out)["problem"]
    assert problem["code"] == "BAD_SETTING"
    assert [(finding["line"], finding["path"]) for finding in problem["findings"]] == [(3, "role")]


def test_init_writes_examples_that_the_loader_of_documents_passes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    assert {path.name for path in (tmp_path / "holdfast").glob("*.example")} == set(beside())
    assert main(["validate"]) == 0


@pytest.mark.parametrize("uncommented", [False, True])
def test_the_examples_have_no_findings(tmp_path: Path, uncommented: bool) -> None:
    files = {name: content.decode() for name, content in beside().items()}
    assert set(files) == {"notices.yaml.example", "settings.yaml.example", "sources.yaml.example"}
    if uncommented:
        files = {name: COMMENTED.sub(r"\1\2", text) for name, text in files.items()}
    found = sources.read("sources.yaml", files["sources.yaml.example"].encode())
    assert [str(finding) for finding in found.findings] == []
    assert [source.type for source in found.sources] == ["git", "directory", "database"]
    assert all((source.statuses is not None) == uncommented for source in found.sources if source.git)
    (tmp_path / "notices.yaml").write_text(files["notices.yaml.example"])
    (_, _, mail) = notices.read(tmp_path / "notices.yaml").channels
    assert mail.mail is not None
    assert (mail.mail.user is not None) == uncommented


def test_whatever_runs_looks_for_garbage_seldom(capsys: pytest.CaptureFixture[str]) -> None:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    try:
        assert main(["settings"]) == 0
        assert gc.get_threshold() == GARBAGE
    finally:
        gc.set_threshold(*before)
