"""Files that are read again while the daemon runs, and what stays in force when they cannot be taken."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from api import sources
from api.problem import Problem
from api.reread import Reread, Rereading
from tests.api.houses import ask, environment, house, release, source, target


async def until(true: Callable[[], Any]) -> None:
    """Until it is true; an awaitable is awaited."""
    for _ in range(1000):
        answer = true()
        if await answer if hasattr(answer, "__await__") else answer:
            return
        await anyio.sleep(0.02)
    raise AssertionError("it never became true")


class Reader:
    """What a test watches: how often it was taken, and what was told."""

    def __init__(self, file: Path) -> None:
        self.file, self.taken, self.told = file, [""], list[str | None]()
        self.rereading = Rereading(
            Reread(name="a file", files=[file], take=self._take, told=self.told.append), looks=0.02
        )

    async def _take(self) -> None:
        text = self.file.read_text()
        if text == "bad":
            raise Problem("BAD", "nobody can read this")
        self.taken.append(text)

    async def until(self, text: str) -> None:
        await until(lambda: self.taken[-1] == text)


async def test_a_file_is_taken_again_after_it_has_changed_and_not_before(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("first")
    reader = Reader(file)
    async with anyio.create_task_group() as group:
        group.start_soon(reader.rereading.run)
        await anyio.sleep(0.1)
        assert reader.taken == [""]
        file.write_text("second, longer")
        await reader.until("second, longer")
        group.cancel_scope.cancel()


async def test_a_file_is_taken_again_when_somebody_asks(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("as it was")
    reader = Reader(file)
    reader.rereading.ask()
    async with anyio.create_task_group() as group:
        group.start_soon(reader.rereading.run)
        await reader.until("as it was")
        group.cancel_scope.cancel()


async def test_what_cannot_be_taken_is_told_once_and_no_more_when_it_is_mended(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("first")
    reader = Reader(file)
    async with anyio.create_task_group() as group:
        group.start_soon(reader.rereading.run)
        file.write_text("bad")
        await until(lambda: reader.told)
        await anyio.sleep(0.1)
        file.write_text("mended")
        await reader.until("mended")
        assert reader.told == ["nobody can read this", None]
        group.cancel_scope.cancel()


async def test_a_file_that_is_still_being_written_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("0")
    reader = Reader(file)
    each = reader.rereading._files[0]
    for number in range(1, 4):
        file.write_text("written" * number)
        await reader.rereading._look(each, False)
    assert reader.taken == [""]
    await reader.rereading._look(each, False)
    assert reader.taken == ["", "written" * 3]


# -- the file of sources ----------------------------------------------------------------------------------------------


def directory(place: Path, name: str, of: str) -> str:
    there = place / name
    there.mkdir()
    documents = (release(name=f"{of}-shop"), environment(of, f"{of}-shop@1"), target(f"{of}-1", of))
    (there / "all.yaml").write_text("---\n".join(documents))
    return source(name, directory={"path": str(there)})


async def _environments(place: Path, *declared: str, after: tuple[str, ...]) -> dict[str, bool]:
    """By environment whether it is declared, once other sources were declared while a reconciler was at work."""
    async with house(place, *declared) as made, anyio.create_task_group() as group:

        async def shown() -> dict[str, bool]:
            return {row["id"]: row["undeclared_at"] is None for row in (await ask(made, "status"))["environments"]}

        async def declares(count: int) -> bool:
            return sum((await shown()).values()) == count

        await group.start(made.reconciler.run)
        await until(lambda: declares(len(declared)))
        (place / "sources.yaml").write_text("\n---\n".join(after))
        await sources.take_again(made)
        await until(lambda: declares(len(after)))
        assert len((await ask(made, "sources"))["sources"]) == len(after)
        seen = await shown()
        group.cancel_scope.cancel()
    return seen


async def test_a_source_that_is_declared_later_is_followed(tmp_path: Path) -> None:
    one, two = directory(tmp_path, "one", "staging"), directory(tmp_path, "two", "prod")
    assert await _environments(tmp_path, one, after=(one, two)) == {"default/staging": True, "default/prod": True}


async def test_a_source_that_is_declared_no_more_lets_its_environments_be_undeclared(tmp_path: Path) -> None:
    one, two = directory(tmp_path, "one", "staging"), directory(tmp_path, "two", "prod")
    assert await _environments(tmp_path, one, two, after=(one,)) == {"default/staging": True, "default/prod": False}


async def test_a_source_that_is_declared_as_before_is_followed_on(tmp_path: Path) -> None:
    one, two = directory(tmp_path, "one", "staging"), directory(tmp_path, "two", "prod")
    async with house(tmp_path, one) as made:
        before = made.reconciler.sources["one"]
        (tmp_path / "sources.yaml").write_text("\n---\n".join((one, two)))
        await sources.take_again(made)
        assert made.reconciler.sources["one"] is before
        assert set(made.reconciler.sources) == set(made.sources) == {"one", "two"}


async def test_a_file_of_sources_with_findings_keeps_the_last_good_one_and_is_told(tmp_path: Path) -> None:
    one = directory(tmp_path, "one", "staging")
    async with house(tmp_path, one) as made:
        file = tmp_path / "sources.yaml"

        def told(problem: str | None) -> None:
            made.reconciler.misdeclared = problem

        reread = Reread(name="sources", files=[file], take=lambda: sources.take_again(made), told=told)
        rereading = Rereading(reread)
        file.write_text(one + "\n---\nnonsense: true\n")
        await rereading._look(reread, True)
        problem = (await ask(made, "status"))["source"]["problem"]
        assert "the file of sources has findings" in problem
        assert set(made.sources) == {"one"}
        file.write_text(one)
        os.utime(file)
        await rereading._look(reread, True)
        assert "findings" not in ((await ask(made, "status"))["source"]["problem"] or "")
