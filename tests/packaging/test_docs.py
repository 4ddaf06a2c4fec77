"""The pages in docs name only what there is: commands, settings, metrics, files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from api.cli.lines import COMMANDS
from api.settings import FILE, MEANINGS, PREFIX
from api.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
SETTINGS = {FILE, *(PREFIX + name.upper() for name in MEANINGS)}
TOLD_TO_HOOKS = {"HOLDFAST_KEY"}
OF_COMPOSE = {"HOLDFAST_IMAGE", "HOLDFAST_DATABASE_PASSWORD"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_it_shows_exists(page: Path) -> None:
    known = {" ".join(command.path) for command in COMMANDS}
    for line in re.findall(r"^(?:docker .* |\$ )?holdfast ([a-z]+(?: [a-z][a-z-]*)?)", _code(page), re.MULTILINE):
        words = line.split()
        assert words[0] in known or " ".join(words[:2]) in known, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_it_names_exists(page: Path) -> None:
    named = set(re.findall(r"HOLDFAST_[A-Z_]*[A-Z]", page.read_text()))
    assert named <= SETTINGS | TOLD_TO_HOOKS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_it_leads_to_is_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_every_metric_that_is_counted_is_listed() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    for family in Metrics()._registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        assert f"`{name}`" in text


def test_the_compose_file_sets_only_what_there_is() -> None:
    named = set(re.findall(r"HOLDFAST_[A-Z_]*[A-Z]", (ROOT / "deploy" / "compose.yaml").read_text()))
    assert named <= SETTINGS | OF_COMPOSE


def _code(page: Path) -> str:
    """What stands in fences and between backticks."""
    text = page.read_text()
    fences = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line.partition("#")[0] for fence in fences for line in fence.splitlines()]
    return "\n".join([*lines, *(" ".join(words.split()) for words in re.findall(r"`([^`]+)`", rest))])
