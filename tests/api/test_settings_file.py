"""The file of settings: where it stands between default and command line, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.settings import BadSetting, Settings, gather, read

HEAD = "apiVersion: holdfast/v1\nkind: Settings\n"


def written(directory: Path, text: str) -> Path:
    path = directory / "settings.yaml"
    path.write_text(HEAD + text)
    return path


def test_what_stands_in_the_file_is_taken(tmp_path: Path) -> None:
    path = written(tmp_path, "state: /var/lib/h\nconcurrency: 8\nhooks: on\ntoken: t\n")
    found = read({"HOLDFAST_SETTINGS": str(path)})
    assert found == Settings(state=Path("/var/lib/h"), concurrency=8, hooks="on", token="t")


def test_environment_wins_over_file_and_command_line_over_both(tmp_path: Path) -> None:
    path = written(tmp_path, "listen: 127.0.0.1:1\nrole: api\ndatabase: a\n")
    environ = {"HOLDFAST_ROLE": "loop", "HOLDFAST_DATABASE": "b"}
    found = gather(environ, file=path, database="c")
    assert (found.settings.listen, found.settings.role, found.settings.database) == ("127.0.0.1:1", "loop", "c")
    assert found.origins == {"listen": f"{path}:3", "role": "HOLDFAST_ROLE", "database": "command line"}


def test_the_command_line_names_another_file_than_the_environment(tmp_path: Path) -> None:
    path = written(tmp_path, "role: api\n")
    assert read({"HOLDFAST_SETTINGS": "/nowhere"}, file=path).role == "api"


def test_every_finding_says_where_and_what_would_be_right(tmp_path: Path) -> None:
    path = written(tmp_path, "stat: /x\nconcurrency: '64'\nplain_http: true\nlisten: [a]\nhistory_days: 0\nstate: ''\n")
    with pytest.raises(BadSetting) as caught:
        read({}, file=path)
    found = [str(finding).removeprefix(str(path)) for finding in caught.value.findings]
    assert found == [
        ":3:1: stat: found the key stat; expected a setting; did you mean state?",
        ":4:14: concurrency: found '64'; expected a number from 1 to 10000",
        ":5:13: plain_http: found true; expected one of off, on",
        ":6:9: listen: found a list; expected a text",
        ":7:15: history_days: found 0; expected a number from 1 to 10000",
        ":8:8: state: found ''; expected a path",
    ]


def test_a_finding_shows_no_secret(tmp_path: Path) -> None:
    path = written(tmp_path, "token: 31337\ndatabase: [postgresql://h:hunter2@db/x]\n")
    with pytest.raises(BadSetting) as caught:
        read({}, file=path)
    assert "31337" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("state: /x\n", "expected holdfast/v1"),
        ("apiVersion: holdfast/v1\nkind: Setings\n", "expected Settings"),
        ("# nothing\n", "expected a map with apiVersion and kind"),
        (HEAD + "---\n" + HEAD, "a second document"),
        (HEAD + "role: api\nrole: loop\n", "a second time"),
        (HEAD + "settings: /other\n", "--settings"),
    ],
)
def test_a_file_that_is_none_of_settings_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(content)
    with pytest.raises(BadSetting, match=said):
        read({}, file=path)


def test_a_file_that_is_named_and_not_there_is_an_error() -> None:
    with pytest.raises(BadSetting, match=r"/nowhere/s\.yaml, cannot be read: No such file"):
        read({"HOLDFAST_SETTINGS": "/nowhere/s.yaml"})


def test_the_file_is_no_name_to_be_misspelt() -> None:
    with pytest.raises(BadSetting, match="did you mean HOLDFAST_SETTINGS"):
        read({"HOLDFAST_SETTING": "/x"})


def test_two_ways_to_say_where_documents_are_name_both_places(tmp_path: Path) -> None:
    path = written(tmp_path, "sources: /etc/s.yaml\n")
    with pytest.raises(BadSetting, match=r"settings\.yaml:3\).*\(HOLDFAST_DOCUMENTS\)"):
        read({"HOLDFAST_DOCUMENTS": "/d"}, file=path)
