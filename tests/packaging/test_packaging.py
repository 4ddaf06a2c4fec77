"""What is shipped: five packages that are ours alone, locks that name no host, a tree that speaks of the project."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("stickers", "desired_state", "drivers", "reconciler", "api")
TRACKED = [
    ROOT / name
    for name in subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if (ROOT / name).is_file()
]
SOURCES = [path for path in TRACKED if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in PACKAGES]


def test_no_other_distribution_claims_one_of_the_five_names() -> None:
    claimed = {
        (dist.metadata["Name"], file.parts[0])
        for dist in distributions()
        if dist.metadata["Name"] != "holdfast"
        for file in dist.files or ()
        if file.parts and file.parts[0] in PACKAGES
    }
    assert claimed == set()


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_names_versions_and_hashes_and_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "--hash=sha256:" in text
    assert not re.search(r"https?://|--index|--extra-index|--find-links", text)


def test_every_declared_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = (ROOT / "requirements.lock").read_text()
    for line in project["dependencies"]:
        name = re.match(r"[A-Za-z0-9_-]+", line)
        assert name is not None
        assert re.search(rf"^{name[0]}(\[|==)", locked, re.MULTILINE), line


def test_every_declared_dependency_is_imported() -> None:
    module_of = {
        "pyyaml": "yaml",
        "uvloop": "use_uvloop",
        "python-nomad": "nomad",
        "python-multipart": r"request\.form",
        "opentelemetry-api": "opentelemetry",
    }
    text = "\n".join(path.read_text() for path in SOURCES)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"]:
        name = re.match(r"[A-Za-z0-9_-]+", line)
        assert name is not None
        module = module_of.get(name[0], name[0].replace("-", "_"))
        assert re.search(rf"\b{module}\b", text), line


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_left_unfinished(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError|not yet implemented", text)
    assert path.stem not in {"util", "utils", "helper", "helpers", "common", "misc"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    if "versions" not in path.parts:
        assert ast.get_docstring(ast.parse(path.read_text()))


def test_the_readme_names_only_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert named <= targets
