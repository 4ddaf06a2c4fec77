"""The README says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from api.cli.lines import COMMANDS
from reconciler.core import machine
from reconciler.core.drift import Verdict

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("table", [machine.JOB, machine.TASK], ids=["job", "task"])
def test_its_diagrams_are_made_from_the_machines(table: machine.Table) -> None:  # type: ignore[type-arg]
    assert f"```mermaid\n{machine.diagram(table)}```" in README


def test_every_command_it_shows_exists() -> None:
    known = {" ".join(command.path) for command in COMMANDS}
    for line in re.findall(r"`?holdfast ([a-z]+(?: [a-z]+)?)", README):
        words = line.split()
        assert words[0] in {command.split()[0] for command in known} or words[0] in ("is", "holds", "keeps"), line


@pytest.mark.parametrize("verdict", Verdict)
def test_it_explains_every_verdict(verdict: Verdict) -> None:
    assert re.search(rf"^\|[^|]*\b{verdict}\b", README, re.MULTILINE)


def test_every_test_it_names_is_there() -> None:
    for name in re.findall(r"`(tests/[a-z_/*.]+)`", README):
        assert list(ROOT.glob(name)), name
