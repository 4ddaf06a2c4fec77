"""The pages about agents and their signer: each file in them is read, and each command, setting and code is one."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from api.cli.lines import COMMANDS
from api.settings import PREFIX, Settings
from api.signer import policy
from drivers.agent.duty import settings
from drivers.agent.protocol import DEGRADED, OFFLINE, Code, Verb

ROOT = Path(__file__).parents[2]
AGENTS, SIGNER = (ROOT / "docs" / f"{name}.md" for name in ("agents", "signer"))
PAGES = pytest.mark.parametrize("page", [AGENTS, SIGNER], ids=lambda page: page.name)


def block(page: Path) -> str:
    [found] = re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_hosts_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text(block(AGENTS))
    found = settings.read(tmp_path / "agent.yaml")
    assert (found.kinds, list(found.commands), list(found.uploads)) == (["docker"], ["reload"], ["pages"])


def test_the_signers_policy_is_read() -> None:
    found, findings = policy.parsed("policy.yaml", block(SIGNER).encode())
    assert findings == ()
    assert found is not None


@PAGES
def test_each_command_it_names_is_one(page: Path) -> None:
    paths = {command.path for command in COMMANDS}
    named = {
        tuple(words.split()) for words in re.findall(r"holdfast ((?:agent|signer|authority) [a-z-]+)", page.read_text())
    }
    assert len(named) > 3
    assert named <= paths


@PAGES
def test_each_setting_it_names_is_one(page: Path) -> None:
    named = {name.lower() for name in re.findall(rf"{PREFIX}([A-Z_]+)", page.read_text())}
    assert named
    assert named <= {each.name for each in fields(Settings)}


def test_each_answer_of_an_agent_is_told() -> None:
    told = set(re.findall(r"`([A-Z_]+)`", AGENTS.read_text().partition("| answer |")[2]))
    assert told == set(Code) - {Code.DONE, Code.FAILED, Code.CANCELLED}


def test_each_verb_is_told() -> None:
    said = re.search(r"Verbs are (.*?)\. The policy", SIGNER.read_text(), re.DOTALL)
    assert said is not None
    assert set(Verb) <= set(re.findall(r"`([a-z-]+)`", said[1]))


def test_the_ages_are_those_that_count() -> None:
    assert f"degraded ({DEGRADED:.0f} s of silence), offline ({OFFLINE:.0f} s)" in AGENTS.read_text()
