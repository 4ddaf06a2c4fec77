"""Documents that the database owns: written whole or not at all, by whom it may be, and given back as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.house import House
from api.people.principal import Grant, Principal, Verb
from api.problem import Problem
from reconciler.store import documents, environments
from stickers.names import EnvironmentId
from tests.api.houses import ask, environment, house, release, source, target

STAGING = EnvironmentId("default/staging")
FILES = {"all.yaml": "---\n".join((release(), environment(), target()))}
DATABASE = source("team", database={})


async def refused(made: House, code: str, *who: Principal, **arguments: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        await ask(made, "apply", *who, **arguments)
    assert caught.value.code == code, caught.value
    return caught.value


async def test_what_is_applied_is_desired_and_owned_by_the_database(tmp_path: Path) -> None:
    async with house(tmp_path, DATABASE) as made:
        answer = await ask(made, "apply", files=FILES)
        assert [change["change"] for change in answer["changes"]] == ["created"] * 3
        assert (answer["environments"], answer["revision"], answer["fault"]) == ([STAGING], 1, None)
        row = await made.store.read(lambda c: environments.load(c, STAGING))
        assert row is not None
        assert (row.release, row.source, row.revision) == ("shop@1", "team", "1")
        [kept, *_] = await made.store.read(documents.all)
        assert kept.written_by == "ann"


async def test_the_same_again_writes_nothing_and_a_dry_run_neither(tmp_path: Path) -> None:
    async with house(tmp_path, DATABASE) as made:
        answer = await ask(made, "apply", files=FILES, dry_run=True)
        assert len(answer["changes"]) == 3
        assert await made.store.read(documents.all) == ()
        await ask(made, "apply", files=FILES)
        assert (await ask(made, "apply", files=FILES))["changes"] == []
        assert await made.store.read(documents.revision) == 1


async def test_findings_are_named_where_they_stand_and_nothing_is_written(tmp_path: Path) -> None:
    async with house(tmp_path, DATABASE) as made:
        bad = environment().replace("release: shop@1", "release: shop@2")
        problem = await refused(made, "FINDINGS", files={"rel.yaml": release(), "bad.yaml": bad})
        [finding] = problem.extra["findings"]
        assert (finding["code"], finding["file"], finding["line"]) == ("RELEASE_UNKNOWN", "bad.yaml", 4)
        assert await made.store.read(documents.all) == ()


async def test_a_part_is_checked_together_with_what_is_there(tmp_path: Path) -> None:
    async with house(tmp_path, DATABASE) as made:
        await ask(made, "apply", files=FILES)
        answer = await ask(made, "apply", files={"x.yaml": release("2") + "---\n" + environment(wanted="shop@2")})
        assert [change["change"] for change in answer["changes"]] == ["created", "changed"]
        row = await made.store.read(lambda c: environments.load(c, STAGING))
        assert row is not None
        assert (row.release, row.generation) == ("shop@2", 2)


async def test_a_release_never_changes(tmp_path: Path) -> None:
    async with house(tmp_path, DATABASE) as made:
        await ask(made, "apply", files=FILES)
        other = {"r.yaml": release(digest="sha256:" + "b" * 64)}
        assert "RELEASE_CHANGED" in str((await refused(made, "FINDINGS", files=other)).extra)


async def test_whoever_read_an_older_revision_writes_nothing(tmp_path: Path) -> None:
    async with house(tmp_path, DATABASE) as made:
        await ask(made, "apply", files=FILES)
        await ask(made, "apply", files={"t.yaml": target("web-2")})
        await refused(made, "STALE", files={"t.yaml": target("web-3")}, revision=1)
        await ask(made, "apply", files={"t.yaml": target("web-3")}, revision=2)


async def test_an_environment_of_another_source_is_a_finding(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "all.yaml").write_text(FILES["all.yaml"])
    async with house(tmp_path, source("here", directory={"path": str(tree)}), DATABASE) as made:
        await made.reconciler.begin_alone()
        problem = await refused(made, "FINDINGS", files={"mine.yaml": FILES["all.yaml"]})
        assert "OWNED_TWICE" in str(problem.extra)
        assert "source here owns" in problem.detail


async def test_a_person_writes_only_where_they_may(tmp_path: Path) -> None:
    bob = Principal(actor="bob", grants=(Grant(verb=Verb.TARGET_EDIT, where="default/dev"),))
    async with house(tmp_path, DATABASE) as made:
        await refused(made, "FORBIDDEN", bob, files=FILES)
        assert await made.store.read(documents.all) == ()
        dev = {"dev.yaml": "---\n".join((release(), environment("dev"), target(of="dev")))}
        await ask(made, "apply", bob, files=dev)
        await refused(made, "FORBIDDEN", bob, files={"t.yaml": target("web-1", of="staging") + "---\n" + environment()})


async def test_without_a_source_that_is_the_database_it_says_what_to_declare(tmp_path: Path) -> None:
    async with house(tmp_path, source("here", directory={"path": str(tmp_path)})) as made:
        await refused(made, "NO_DATABASE_SOURCE", files=FILES)


async def test_what_is_exported_applies_without_a_change(tmp_path: Path) -> None:
    async with house(tmp_path, DATABASE) as made:
        await ask(made, "apply", files=FILES | {"dev.yaml": environment("dev") + "---\n" + target("d", of="dev")})
        answer = await ask(made, "export")
        assert len(answer["files"]) == 5
        assert (await ask(made, "apply", files=answer["files"]))["changes"] == []
        one = await ask(made, "export", environment="dev")
        names = ["default/environments/dev.yaml", "default/releases/shop@1.yaml", "default/targets/d.yaml"]
        assert sorted(one["files"]) == names


async def test_what_is_removed_is_declared_no_more_and_stays_in_force(tmp_path: Path) -> None:
    async with house(tmp_path, DATABASE) as made:
        dev = environment("dev") + "---\n" + target("d", of="dev")
        await ask(made, "apply", files=FILES | {"dev.yaml": dev})
        answer = await ask(made, "apply", files={"dev.yaml": dev}, remove=True)
        assert [change["change"] for change in answer["changes"]] == ["removed", "removed"]
        row = await made.store.read(lambda c: environments.load(c, EnvironmentId("default/dev")))
        assert row is not None
        assert row.undeclared_at is not None
