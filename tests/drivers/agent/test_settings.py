"""The host's file: read strictly, and what it lets is exactly what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivers.agent.duty.settings import BadSettings, Command, Settings, read

WHOLE = """apiVersion: holdfast/v1
kind: Agent
state: /var/lib/agent
kinds: [docker, process]
commands:
  reload: {argv: [/usr/sbin/nginx, -s, "{0}"], arguments: ["reload|reopen"], within: 30s, environment: {LANG: C}}
uploads:
  pages: {directory: /srv/www/pages, largest: 64Ki, mode: "0640"}
resolves: [vault]
servers: ["https://one.example.com:8421"]
proxy: http://proxy.example.com:3128
upgrade: {directory: /opt/agent, repository: registry.example.com/agent, within: 1m}
at_once: 8
way: polling
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    return path


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    found = read(written(tmp_path, WHOLE))
    assert found.kinds == ["docker", "process"]
    assert found.commands["reload"].filled(("reload",)) == ("/usr/sbin/nginx", "-s", "reload")
    assert (found.uploads["pages"].largest, found.uploads["pages"].bits) == (65536, 0o640)


def test_nothing_is_let_that_is_not_said() -> None:
    assert (Settings().kinds, Settings().commands, Settings().uploads, Settings().upgrade) == ([], {}, {}, None)


@pytest.mark.parametrize(
    ("line", "wrong", "where"),
    [
        ("kind: Agent", "kind: Settings", ":2:7:"),
        ("state: /var/lib/agent", "state: var/lib", ":3:8:"),
        ("state: /var/lib/agent", "state: /var/../etc", ":3:8:"),
        ("[/usr/sbin/nginx,", "[nginx,", ":6:18:"),
        ('"{0}"', '"{1}"', ":6:11:"),
        ('["reload|reopen"]', '["("]', ":6:"),
        ("within: 30s", "within: 30", ":6:"),
        ("{LANG: C}", '{"LANG=C": C}', ":6:"),
        ("largest: 64Ki", "largest: 64Gi", ":8:"),
        ('mode: "0640"', 'mode: "4755"', ":8:"),
        ("resolves: [vault]", "resolves: [vualt]", ":9:12:"),
        ("https://one.example.com:8421", "http://one.example.com", ":10:11:"),
        ("way: polling", "way: carrier-pigeon", ":14:6:"),
        ("http://proxy.example.com:3128", "http://name:word@proxy.example.com:3128", ":11:8:"),
        ("registry.example.com/agent,", "registry.example.com/agent:latest,", ":12:"),
        ("at_once: 8", "at_once: 0", ":13:10:"),
        ("at_once: 8", "at_onec: 8", ":13:1:"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, line: str, wrong: str, where: str) -> None:
    with pytest.raises(BadSettings, match=r"agent\.yaml") as caught:
        read(written(tmp_path, WHOLE.replace(line, wrong)))
    assert where in str(caught.value)


def test_a_password_of_a_proxy_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(BadSettings) as caught:
        read(written(tmp_path, WHOLE.replace("http://proxy", "http://name:hunter22@proxy")))
    assert "hunter22" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="cannot be read"):
        read(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("text", ["", "a: 1\n---\nb: 2\n"])
def test_one_document_is_expected(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadSettings):
        read(written(tmp_path, text))


def test_only_a_word_of_its_own_is_filled() -> None:
    command = Command(argv=["/bin/echo", "--x={0}", "{0}"], arguments=[".*"])
    assert command.filled(("a b",)) == ("/bin/echo", "--x={0}", "a b")


@pytest.mark.parametrize("arguments", [(), ("a", "b"), ("B",), ("a\n",), ("a\0",)])
def test_an_argument_is_wholly_what_its_pattern_describes(arguments: tuple[str, ...]) -> None:
    assert Command(argv=["/bin/echo", "{0}"], arguments=["[a-z]+"]).refused(arguments) is not None


def test_a_runtime_that_is_none_is_told_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text("kinds: [doker]\n")
    with pytest.raises(BadSettings, match=r"agent\.yaml:1:9: kinds\[0\]: found 'doker'.*did you mean docker\?"):
        read(tmp_path / "agent.yaml")
