"""Commands about sources, over real repositories."""

from __future__ import annotations

from pathlib import Path

import pytest

from api import sources
from api.problem import Problem
from api.settings import BadSetting, Settings, read
from tests.api.houses import ask, environment, house, release, source, target
from tests.harness.gits import Work

FILES = {"deploy/all.yaml": "---\n".join((release(), environment(), target()))}


def git_source(work: Work, **more: object) -> str:
    return source("shop", git={"repository": work.url, "path": "deploy", "poll": "1s"} | more)


async def test_a_git_source_is_listed_with_its_revision_and_age(tmp_path: Path) -> None:
    work = Work(tmp_path)
    head = work.commit(FILES)
    async with house(tmp_path, git_source(work)) as made:
        await made.reconciler.begin_alone()
        [row] = (await ask(made, "sources"))["sources"]
        assert (row["name"], row["type"], row["revision"], row["fault"]) == ("shop", "git", head, None)
        assert row["environments"] == ["default/staging"]
        assert 0 <= row["age"] < 60
        assert not row["stale"]


async def test_a_rewritten_history_is_named_and_let_in_by_its_commit(tmp_path: Path) -> None:
    work = Work(tmp_path)
    older = work.commit(FILES)
    newer = work.commit({"deploy/more.yaml": target("web-2")})
    async with house(tmp_path, git_source(work)) as made:
        await made.reconciler.begin_alone()
        work.back(1)
        row = await ask(made, "refresh", source="shop")
        assert (row["fault"]["code"], row["fault"]["revision"], row["revision"]) == ("HistoryRewritten", older, newer)
        row = await ask(made, "refresh", source="shop", allow=older)
        assert (row["fault"], row["revision"]) == (None, older)
        row = await ask(made, "refresh", source="shop")
        assert row["fault"] is None


async def test_a_commit_elsewhere_in_the_repository_changes_no_environment(tmp_path: Path) -> None:
    work = Work(tmp_path)
    first = work.commit(FILES)
    async with house(tmp_path, git_source(work)) as made:
        await made.reconciler.begin_alone()
        second = work.commit({"src/app.py": "print()\n"})
        row = await ask(made, "refresh", source="shop")
        assert row["revision"] == second
        [seen] = (await ask(made, "status", environment="staging"))["environments"]
        assert (seen["revision"], seen["generation"]) == (first, 1)


async def test_an_unknown_source_is_told_with_the_nearest(tmp_path: Path) -> None:
    async with house(tmp_path, source("shop", directory={"path": str(tmp_path)})) as made:
        with pytest.raises(Problem, match="did you mean shop"):
            await ask(made, "source", source="shp")


def test_without_a_file_of_sources_there_is_the_one_directory() -> None:
    [(name, found)] = sources.read(Settings()).items()
    assert (name, found.type, found.describes) == ("documents", "directory", "holdfast")


def test_a_file_with_findings_begins_no_daemon(tmp_path: Path) -> None:
    file = tmp_path / "sources.yaml"
    file.write_text("apiVersion: holdfast/v1\nkind: Source\nname: shop\n")
    with pytest.raises(Problem, match="exactly one of git, directory, database") as caught:
        sources.read(Settings(sources=file))
    assert caught.value.code == "SOURCES_INVALID"


def test_a_file_of_sources_and_a_directory_of_documents_are_not_both_set(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="both"):
        read({"HOLDFAST_SOURCES": "s.yaml", "HOLDFAST_DOCUMENTS": "d"})


def test_a_program_that_a_source_needs_and_this_host_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, keys = tmp_path / "sources.yaml", str(tmp_path / "known_hosts")
    over_ssh = {"repository": "ssh://git@git.example.com/shop.git", "known_hosts": keys}
    file.write_text("\n---\n".join((source("shop", git=over_ssh), source("here", directory={"path": str(tmp_path)}))))
    found = sources.read(Settings(sources=file))
    assert list(sources.lacking(found)) == []
    monkeypatch.setenv("PATH", str(tmp_path))
    git, ssh = sources.lacking(found)
    assert git.startswith("there is no git program here, which the source shop needs")
    assert ssh.startswith("there is no ssh program here")
