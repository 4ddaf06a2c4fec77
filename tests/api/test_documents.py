"""The commands that need no daemon, as a person types them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.cli.lines import COMMANDS
from api.cli.main import main
from tests.harness.registry import NoRegistry, running_registry

DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_starter_tree_has_no_findings(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init"]) == 0
    assert main(["validate"]) == 0
    assert "no findings" in capsys.readouterr().out


def test_init_writes_nothing_where_something_is(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["init"])
    before = {path: path.read_bytes() for path in home.rglob("*.yaml")}
    assert main(["init"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in home.rglob("*.yaml")} == before


def test_a_finding_names_file_line_and_nearest_word(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["init"])
    path = home / "holdfast" / "environments" / "staging.yaml"
    path.write_text(path.read_text().replace("strategy:", "stratgey:"))
    assert main(["validate"]) == 2
    error = capsys.readouterr().err
    assert "environments/staging.yaml:" in error
    assert "did you mean strategy?" in error


def test_findings_are_data_for_programs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "holdfast").mkdir()
    (home / "holdfast" / "a.yaml").write_text("kind: Relase\n")
    assert main(["validate", "--output", "json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert {"file", "line", "column", "path", "code", "found", "expected"} <= set(answer["findings"][0])


def test_no_tree_is_one_clear_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "nowhere"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_schema_names_every_kind_of_document(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert {"Release", "Environment", "Target"} <= set(json.loads(capsys.readouterr().out)["$defs"])


def test_a_release_of_pinned_images_needs_no_registry(home: Path) -> None:
    command = ["release", "create", "shop@1.0.0", f"api=registry.example.com/shop/api@{DIGEST}", "--file", "r.yaml"]
    assert main(command) == 0
    assert DIGEST in (home / "r.yaml").read_text()


@pytest.fixture(scope="module")
def private() -> Iterator[str]:
    """An image of a registry that asks who it is."""
    with tempfile.TemporaryDirectory() as directory:
        users = Path(directory) / "users"
        users.write_text("shop:$2b$04$abcdefghijklmnopqrstuu/RcPheG5Bboq6i7MyIjQPaaSOeR71ra\n")
        try:
            with running_registry(users) as address:
                yield address
        except NoRegistry as reason:
            pytest.skip(str(reason))


def test_a_tag_of_a_private_registry_is_asked_for_with_its_credentials(
    private: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["release", "create", "shop@1.0.0", f"api={private}/shop/api:v1"]
    assert main(command) == 2
    assert "wants credentials" in capsys.readouterr().err
    monkeypatch.setenv("LOGIN", "shop:s3cret:with:colons")
    assert main([*command, "--credentials", f"{private}=env:LOGIN"]) == 2
    assert "wants credentials" not in (said := capsys.readouterr().err)
    assert "s3cret" not in said


def test_credentials_that_name_no_secret_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["release", "create", "shop@1.0.0", "api=registry.example.com/shop/api:v1"]
    assert main([*command, "--credentials", "registry.example.com=hunter2"]) == 2
    assert "HOST=REFERENCE" in capsys.readouterr().err


def test_a_release_file_is_never_overwritten(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "r.yaml").write_text("precious")
    command = ["release", "create", "shop@1.0.0", f"api=registry.example.com/shop/api@{DIGEST}", "--file", "r.yaml"]
    assert main(command) == 2
    assert (home / "r.yaml").read_text() == "precious"


@pytest.mark.parametrize("component", ["api", "api=", "API=x/y@" + DIGEST, "api=x/Y@" + DIGEST, "api=x/y@sha256:12"])
def test_what_is_no_component_is_refused(home: Path, component: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["release", "create", "shop@1.0.0", component]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_same_directory_packs_to_the_same_digest(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "app").mkdir()
    (home / "app" / "file").write_text("content")
    main(["artifact", "pack", "app", "one"])
    main(["artifact", "pack", "app", "two"])
    first, second = capsys.readouterr().out.split()
    assert first == second


def test_keys_are_made_once_and_rotated(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "init"]) == 0
    assert main(["keys", "init"]) == 2
    assert main(["keys", "rotate"]) == 0
    capsys.readouterr()
    main(["keys", "list", "--output", "json"])
    assert sorted(key["retired"] for key in json.loads(capsys.readouterr().out)["keys"]) == [False, True]


def test_a_sticker_that_is_none_is_called_unreadable(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["keys", "init"])
    (home / "s.json").write_text("{}")
    assert main(["sticker", "verify", "s.json"]) == 1
    assert "unreadable" in capsys.readouterr().out


def test_without_keys_every_command_says_what_makes_them(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 2
    assert "holdfast keys init" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.path))
def test_every_command_helps_with_examples_and_exit_codes(command: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command.path, "--help"])  # type: ignore[attr-defined]
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert "examples:" in text
    assert "exit codes:" in text


def test_every_command_leads_to_a_function() -> None:
    from importlib import import_module

    for command in COMMANDS:
        module, _, function = command.run.partition(":")
        assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize(
    ("words", "hint"),
    [(["plna", "staging"], "did you mean plan?"), (["job", "lsit"], "did you mean list?"), (["xyzzy"], "'xyzzy'\n")],
)
def test_a_misspelt_command_names_the_nearest(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert hint in capsys.readouterr().err
