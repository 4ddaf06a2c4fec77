"""Each page of the documentation holds: its documents load, and the errors it tells of are those that are raised."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest

import drivers
from desired_state.load import load
from desired_state.sources.base import Tree
from drivers import registry
from drivers.errors import DriverError

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "kinds").glob("*.md"))
SOURCES = "\n".join(
    path.read_text() for floor in ("drivers", "desired_state", "api") for path in sorted((ROOT / floor).rglob("*.py"))
)
KINDS = set(registry.BUILT_IN) - {"memory"}
each = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def errors(page: Path) -> list[tuple[str, str]]:
    """Code and sentence of each row."""
    return re.findall(r"^\| `([A-Z_]+)` \| `(.+?)` \|", page.read_text(), re.MULTILINE)


def codes() -> set[str]:
    for module in walk_packages(drivers.__path__, "drivers."):
        if module.name.endswith((".errors", ".line")):
            import_module(module.name)
    return {error.code for error in _below(DriverError)}


def _below(error: type[DriverError]) -> Iterator[type[DriverError]]:
    yield error
    for one in error.__subclasses__():
        yield from _below(one)


def test_every_kind_has_a_page() -> None:
    assert {page.stem for page in PAGES} >= KINDS


@each
def test_its_documents_load_without_a_finding(page: Path) -> None:
    (text,) = blocks(page)
    models = {kind: registry.connection_model(kind) for kind in registry.BUILT_IN}
    found = load(Tree(files={"fleet.yaml": text.encode()}, revision="1"), models)
    assert [str(finding) for finding in found.findings] == []
    (environment,) = found.environments.values()
    assert environment.placements
    if page.stem in KINDS:
        assert {target.driver for target in environment.targets} == {page.stem}


@each
def test_each_error_it_tells_of_can_be_raised_in_these_words(page: Path) -> None:
    assert errors(page)
    known = codes()
    for code, sentence in errors(page):
        assert code in known, f"{page.name}: {code}"
        for piece in sentence.split("…"):
            assert piece.strip() in SOURCES, f"{page.name}: {piece}"
