"""People and the audit log at the command line, where no daemon runs."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from api.cli.lines import COMMANDS
from api.cli.main import main


@pytest.fixture
def state(blank: Path, tmp_path: Path) -> Path:
    shutil.copytree(blank, tmp_path / "state")
    return tmp_path / "state"


class Line:
    """A command line on one state directory."""

    def __init__(self, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._state, self._capsys = state, capsys

    def __call__(self, *words: str) -> tuple[int, str]:
        code = main([*words, "--state", str(self._state), "--documents", str(self._state / "none")])
        said = self._capsys.readouterr()
        return code, said.out + said.err

    def json(self, *words: str) -> Any:
        code, said = self(*words, "--output", "json")
        assert code == 0, said
        return json.loads(said)


@pytest.fixture
def line(state: Path, capsys: pytest.CaptureFixture[str]) -> Line:
    return Line(state, capsys)


def test_people_are_added_granted_listed_and_disabled(line: Line, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("correct horse battery\n")
    file = str(tmp_path / "password")
    added = line.json("user", "add", "ada", "--grant", "operator", "--in", "staging", "--password-file", file)
    assert added["password"] is None
    assert line("user", "grant", "ada", "auditor") == (0, "ada has auditor everywhere\n")
    assert line("user", "revoke", "ada", "auditor") == (0, "ada has no more auditor everywhere\n")
    assert line("user", "disable", "ada")[0] == 0
    [ada] = line.json("user", "list")["users"]
    assert ada["grants"] == [{"what": "operator", "place": "default/staging"}]
    assert ada["disabled_at"]
    assert line("user", "enable", "ada")[0] == 0


def test_a_random_password_is_shown_once(line: Line) -> None:
    assert "password, shown this once: " in line("user", "add", "ada")[1]
    assert "password" not in line("user", "list")[1].replace("password  ", "")


def test_a_token_is_printed_alone_so_that_a_script_can_take_it(
    line: Line, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["token", "create", "ci", "read", "--in", "staging", "--state", str(state)])
    said = capsys.readouterr()
    assert said.out.startswith("holdfast_")
    assert len(said.out.split()) == 1
    id = said.out.split("_")[1]
    assert id in line("token", "list")[1]
    assert line("token", "revoke", id) == (0, f"ci ({id}) is revoked\n")


def test_what_cannot_be_meant_is_said_in_one_line(line: Line) -> None:
    for words in (
        ("user", "grant", "nobody", "viewer"),
        ("user", "add", "Ada"),
        ("user", "add", "ada", "--password-file", "/nowhere"),
        ("token", "create", "ci", "everything"),
        ("token", "revoke", "x"),
        ("audit", "verify", "--against", "/nowhere"),
    ):
        code, said = line(*words)
        assert (code, said.count("\n")) == (2, 1), said


def test_who_runs_the_command_is_told_who_they_are(line: Line) -> None:
    assert line.json("whoami")["grants"]["*"]
    assert "everywhere: read" in line("whoami")[1]


def test_an_edited_log_fails_verification_and_names_the_entry(line: Line, state: Path) -> None:
    for number in range(3):
        line("user", "add", f"u{number}")
    assert line("audit", "verify") == (0, "installation: 3 entries, each as it was written\n")
    with closing(sqlite3.connect(state / "holdfast.db")) as database, database:
        database.execute("drop trigger audit_no_update")
        database.execute("update audit set actor = 'nobody' where seq = 2")
    code, said = line("audit", "verify")
    assert (code, said) == (1, "installation: entry 2: its content is not what was written\n")


def test_a_log_that_was_cut_is_found_against_its_export(line: Line, state: Path, tmp_path: Path) -> None:
    for number in range(3):
        line("user", "add", f"u{number}")
    code, export = line("audit", "export")
    assert (code, export.count("\n")) == (0, 4)
    (tmp_path / "audit.jsonl").write_text(export)
    assert line("audit", "verify", "--against", str(tmp_path / "audit.jsonl"))[0] == 0
    with closing(sqlite3.connect(state / "holdfast.db")) as database, database:
        database.execute("drop trigger audit_no_delete")
        database.execute("delete from audit where seq > 1")
    assert line("audit", "verify")[0] == 0
    code, said = line("audit", "verify", "--against", str(tmp_path / "audit.jsonl"))
    assert code == 1
    assert "installation: entry 2: the chain ends here" in said


def test_pages_of_the_log_lead_on(line: Line) -> None:
    for number in range(3):
        line("user", "add", f"u{number}")
    first = line.json("audit", "list", "--limit", "2")
    assert [each["subject"] for each in first["entries"]] == ["u2", "u1"]
    rest = line.json("audit", "list", "--limit", "2", "--before", first["next"])
    assert ([each["subject"] for each in rest["entries"]], rest["next"]) == (["u0"], None)
    assert "u2" in line("audit", "list")[1]


def test_every_command_has_an_example_and_says_its_exit_codes() -> None:
    for command in COMMANDS:
        if command.path[0] in ("user", "token", "audit", "whoami"):
            assert command.examples
            assert command.exits
