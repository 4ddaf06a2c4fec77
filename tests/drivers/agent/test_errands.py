"""Commands and uploads: by the names the host gave, with arguments and paths it lets through."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drivers.agent import protocol
from drivers.agent.duty.settings import Command, Settings, UploadTo
from drivers.agent.protocol import Answer, Code, Errand, Result, Upload, UploadedFile, Verb
from drivers.contract import Ended
from stickers import digest
from tests.drivers.agent.memory import make, through_agent
from tests.drivers.agent.scene import Scene, running
from tests.drivers.memory_bench import MemoryBench


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "pages"
    place.mkdir()
    return place


@pytest.fixture
async def scene(tmp_path: Path, place: Path) -> AsyncIterator[Scene]:
    bench = MemoryBench()
    echo = "import os, sys; print(sys.argv[1:], sorted(os.environ))"
    settings = Settings(
        kinds=["memory"],
        commands={
            "echo": Command(
                argv=[sys.executable, "-c", echo, "{0}", "x"], arguments=["[a-z ;]+"], environment={"WORD": "1"}
            ),
            "sleep": Command.model_validate(
                {"argv": [sys.executable, "-c", "import time; time.sleep(60)"], "within": "1s"}
            ),
            "missing": Command(argv=["/nowhere/at/all"]),
            "count": Command(argv=[sys.executable, "-c", f"open({str(tmp_path / 'count')!r}, 'a').write('x')"]),
        },
        uploads={"pages": UploadTo(directory=str(place), largest=100)},
    )
    async with running(tmp_path / "state", through_agent(bench.target), make=make(bench), settings=settings) as scene:
        yield scene


async def execute(scene: Scene, name: str, *arguments: str) -> tuple[Result, Answer]:
    body = protocol.body(Errand(name=name, arguments=arguments))
    return await scene.answer(scene.task(Verb.EXECUTE_COMMAND, body), body)


async def upload(scene: Scene, *files: UploadedFile) -> tuple[Result, Answer]:
    body = protocol.body(Upload(name="pages", files=files))
    return await scene.answer(scene.task(Verb.UPLOAD_FILES, body), body)


def file(path: str, content: bytes = b"hello", **said: Any) -> UploadedFile:
    plain = {"path": path, "content": base64.b64encode(content).decode(), "digest": digest.of_bytes(content)}
    return UploadedFile(**plain | said)


def ended(answer: Answer) -> Ended:
    return protocol.read_body(Ended, answer.body)


async def test_an_argument_is_one_word_and_the_environment_is_the_declared_one(scene: Scene) -> None:
    _, answer = await execute(scene, "echo", "a; rm b")
    assert (ended(answer).exit_code, ended(answer).said.splitlines()[0]) == (
        0,
        "['a; rm b', 'x'] ['LC_CTYPE', 'PATH', 'WORD']",
    )


async def test_a_command_ends_at_its_deadline(scene: Scene) -> None:
    _, answer = await execute(scene, "sleep")
    assert ended(answer).exit_code is None


async def test_a_command_that_is_not_there_fails(scene: Scene) -> None:
    result, _ = await execute(scene, "missing")
    assert result.code is Code.FAILED


async def test_a_command_that_is_not_named_is_not_let(scene: Scene) -> None:
    assert (await execute(scene, "rm"))[0].code is Code.NOT_ALLOWED


async def test_a_command_sent_again_under_its_key_is_not_run_again(scene: Scene, tmp_path: Path) -> None:
    body = protocol.body(Errand(name="count"))
    first = scene.task(Verb.EXECUTE_COMMAND, body)
    await scene.answer(first, body)
    result, _ = await scene.answer(scene.task(Verb.EXECUTE_COMMAND, body, key=first.key), body)
    assert result.code is Code.DONE
    assert (tmp_path / "count").read_text() == "x"


async def test_files_are_put_below_their_directory(scene: Scene, place: Path) -> None:
    result, _ = await upload(scene, file("index.html"), file("css/site.css", b"body", mode=0o600))
    assert result.code is Code.DONE, result.detail
    assert (place / "index.html").read_bytes() == b"hello"
    assert (place / "css/site.css").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("path", ["../out", "a/../../out", "/out", "", "a//b", ".", "a/.", "a\0b", "x" * 300])
async def test_a_path_that_leads_elsewhere_is_refused(scene: Scene, place: Path, path: str) -> None:
    result, _ = await upload(scene, file("fine"), file(path))
    assert result.code is Code.FAILED
    assert list(place.rglob("*")) == []
    assert not (place.parent / "out").exists()


@pytest.mark.parametrize("how", ["folder", "above"])
async def test_no_link_is_followed(scene: Scene, place: Path, tmp_path: Path, how: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    if how == "above":
        place.rmdir()
        place.symlink_to(outside)
    else:
        (place / "css").symlink_to(outside)
    result, _ = await upload(scene, file("css/site.css"))
    assert result.code is Code.FAILED
    assert list(outside.iterdir()) == []


async def test_a_link_in_the_files_place_is_replaced_and_not_written_through(
    scene: Scene, place: Path, tmp_path: Path
) -> None:
    (tmp_path / "precious").write_text("precious")
    (place / "index.html").symlink_to(tmp_path / "precious")
    result, _ = await upload(scene, file("index.html"))
    assert result.code is Code.DONE
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (place / "index.html").is_symlink()


async def test_one_bad_file_keeps_all_out(scene: Scene, place: Path) -> None:
    (place / "b").mkdir()
    for bad in (
        file("b"),
        file("c", digest=digest.of_bytes(b"other")),
        replace(file("d"), content="no base64!"),
        file("e", b"x" * 101),
    ):
        result, _ = await upload(scene, file("a"), bad)
        assert result.code in (Code.FAILED, Code.NOT_ALLOWED)
        assert [path.name for path in place.iterdir()] == ["b"]
    assert os.listdir(place / "b") == []
