"""The signer reads documents itself, and remembers everything that was ever declared there."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from api.house import resolves_nothing
from api.problem import Problem
from api.runtimes import ConnectionModels
from api.signer import declared
from api.signer.declared import Documents, Memory
from api.signer.judge import placement_name, target_name
from api.signer.policy import Documents as Where
from desired_state.model import DesiredState
from tests.api.signer.trees import documents, state, written

pytestmark = pytest.mark.anyio


def read_from(tree: Path, place: Path) -> Documents:
    sources = declared.sources(Where(directory=str(tree)), place, resolves_nothing)
    place.mkdir(exist_ok=True)
    return Documents(sources, Memory(place / declared.FILE), ConnectionModels(), lambda: datetime.now(UTC))


def knows(found: Documents, said: DesiredState) -> bool:
    return all(found.target(target_name(one)) for one in said.targets) and all(
        found.placement(placement_name(one)) for one in said.placements
    )


async def test_what_is_declared_is_known_as_the_server_knows_it(tmp_path: Path) -> None:
    written(tmp_path / "tree", documents())
    found = read_from(tmp_path / "tree", tmp_path / "place")
    await found.read()
    assert knows(found, state(documents()))
    assert not knows(found, state(documents("2")))


async def test_what_once_was_declared_is_known_after_a_restart(tmp_path: Path) -> None:
    written(tmp_path / "tree", documents())
    await read_from(tmp_path / "tree", tmp_path / "place").read()
    written(tmp_path / "tree", documents("2"))
    found = read_from(tmp_path / "tree", tmp_path / "place")
    await found.read()
    assert knows(found, state(documents()))
    assert knows(found, state(documents("2")))


async def test_a_line_of_memory_that_was_cut_off_is_learnt_again(tmp_path: Path) -> None:
    written(tmp_path / "tree", documents())
    await read_from(tmp_path / "tree", tmp_path / "place").read()
    file = tmp_path / "place" / declared.FILE
    file.write_bytes(file.read_bytes()[:-5])
    found = read_from(tmp_path / "tree", tmp_path / "place")
    assert not knows(found, state(documents()))
    await found.read()
    assert knows(found, state(documents()))


async def test_what_is_not_declared_any_more_is_gone(tmp_path: Path) -> None:
    written(tmp_path / "tree", documents())
    found = read_from(tmp_path / "tree", tmp_path / "place")
    one = state(documents()).placements[0]
    assert found.is_gone(one.id, one.environment) is None
    await found.read()
    assert found.is_gone(one.id, one.environment) is False
    written(tmp_path / "tree", documents(target=False))
    await found.read()
    assert found.is_gone(one.id, one.environment) is True


async def test_while_the_documents_err_nothing_is_known_to_be_gone(tmp_path: Path) -> None:
    written(tmp_path / "tree", documents())
    found = read_from(tmp_path / "tree", tmp_path / "place")
    await found.read()
    written(tmp_path / "tree", {**documents(), "staging.yaml": "kind: [", "web-1.yaml": ""})
    await found.read()
    one = state(documents()).placements[0]
    assert found.is_gone(one.id, one.environment) is not True
    assert found.faults
    assert knows(found, state(documents()))


async def test_a_bare_repository_is_read_at_its_branch(tmp_path: Path) -> None:
    work, bare = tmp_path / "work", tmp_path / "bare.git"
    written(work, documents())

    def git(*words: str) -> None:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main")
        subprocess.run(["git", *who, *words], check=True, capture_output=True, cwd=work)

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    git("clone", "--quiet", "--bare", str(work), str(bare))
    file = tmp_path / "sources.yaml"
    file.write_text(f"apiVersion: holdfast/v1\nkind: Source\nname: shop\ngit: {{repository: 'file://{bare}'}}\n")
    place = tmp_path / "place"
    sources = declared.sources(Where(sources=str(file)), place, resolves_nothing)
    found = Documents(sources, Memory(place / declared.FILE), ConnectionModels(), lambda: datetime.now(UTC))
    await found.read()
    assert found.faults == []
    assert knows(found, state(documents()))


def test_what_is_in_the_servers_database_is_no_source(tmp_path: Path) -> None:
    file = tmp_path / "sources.yaml"
    file.write_text("apiVersion: holdfast/v1\nkind: Source\nname: shop\ndatabase: {}\n")
    with pytest.raises(Problem, match="shop is a database"):
        declared.sources(Where(sources=str(file)), tmp_path / "place", resolves_nothing)
