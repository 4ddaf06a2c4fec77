"""The source lost or emptied: whatever the cause, what was accepted stays in force, each cause has a code of its own,
and the next good read is taken."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from api.house import House
from reconciler.store import environments
from stickers.names import EnvironmentId
from tests.api.houses import ask, environment, house, release, source, target
from tests.harness.gits import Served, Work, git, served

STAGING = EnvironmentId("default/staging")
FILES: dict[str, str | bytes | None] = {
    "deploy/release.yaml": release(),
    "deploy/environment.yaml": environment(),
    "deploy/target.yaml": target(),
}


@dataclass(frozen=True, kw_only=True)
class Scene:
    work: Work
    web: Served
    made: House


def status(code: int) -> Callable[[Scene], None]:
    def answered(scene: Scene) -> None:
        scene.web.status = code
        scene.web.location = f"http://localhost:{scene.web.port}/shop.git/info/refs?service=git-upload-pack"

    return answered


def slow(scene: Scene) -> None:
    scene.web.pause = 1.0  # seconds for each byte


def gone(scene: Scene) -> None:
    scene.work.bare.rename(scene.work.bare.with_suffix(".away"))


def closed(scene: Scene) -> None:
    scene.web.closed = True


def deleted(scene: Scene) -> None:
    git(scene.work.bare, "update-ref", "-d", "refs/heads/main")


def emptied(scene: Scene) -> None:
    scene.work.commit(dict.fromkeys(FILES) | {"deploy/readme.md": "nothing here any more"})


def file_deleted(scene: Scene) -> None:
    scene.work.commit({"deploy/release.yaml": None})


def path_deleted(scene: Scene) -> None:
    scene.work.commit(dict.fromkeys(FILES))


def set_back(scene: Scene) -> None:
    scene.work.back(3)


def one_bad_of_ten(scene: Scene) -> None:
    more: dict[str, str | bytes | None] = {f"deploy/t{number}.yaml": target(f"t{number}") for number in range(9)}
    scene.work.commit(more | {"deploy/t4.yaml": "kind: Target\nname: [\n"})


def large(scene: Scene) -> None:
    scene.work.commit({"deploy/large.bin": os.urandom(3 << 20)})


CAUSES: Final[dict[str, Callable[[Scene], None]]] = {
    "SourceForbidden": status(403),
    "SourceUnauthenticated": status(401),
    "SourceDown": closed,
    "SourceRedirected": status(301),
    "SourceMissing": gone,
    "SourceSlow": slow,
    "BranchMissing": deleted,
    "SourceEmpty": emptied,
    "DocumentsInvalid": file_deleted,
    "PathMissing": path_deleted,
    "HistoryRewritten": set_back,
    "SourceTooLarge": large,
}


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    work = Work(tmp_path)
    work.commit(FILES)
    for number in range(3):
        work.commit({"deploy/environment.yaml": environment() + f"# {number}\n"})
    for web in _web(work):
        said: dict[str, Any] = {"repository": web.url(), "path": "deploy", "insecure": True}
        async with house(tmp_path, source("shop", git=said | {"size": "1Mi", "deadline": "3s"})) as made:
            await made.reconciler.begin_alone()
            yield Scene(work=work, web=web, made=made)


def _web(work: Work) -> Iterator[Served]:
    with served(work.bare.parent) as web:
        yield web


@pytest.mark.parametrize("code", CAUSES)
async def test_each_cause_has_its_own_code_and_takes_nothing_away(scene: Scene, code: str) -> None:
    made = scene.made
    before = await made.store.read(lambda c: (environments.load(c, STAGING), environments.desired(c, STAGING)))
    accepted = (await ask(made, "source", source="shop"))["revision"]
    CAUSES[code](scene)
    row = await ask(made, "refresh", source="shop")
    assert row["fault"] is not None
    assert row["fault"]["code"] == code, row["fault"]
    assert row["revision"] == accepted
    assert row["age"] >= 0
    after = await made.store.read(lambda c: (environments.load(c, STAGING), environments.desired(c, STAGING)))
    assert after == before


async def test_one_bad_file_of_ten_keeps_what_was_accepted_until_it_is_mended(scene: Scene) -> None:
    made = scene.made
    one_bad_of_ten(scene)
    row = await ask(made, "refresh", source="shop")
    assert row["fault"]["code"] == "DocumentsInvalid"
    assert "t4.yaml:" in row["fault"]["message"]
    assert row["fault"]["revision"] == scene.work.head()
    scene.work.commit({"deploy/t4.yaml": target("t4")})
    row = await ask(made, "refresh", source="shop")
    assert (row["fault"], row["revision"]) == (None, scene.work.head())
    desired = await made.store.read(lambda c: environments.desired(c, STAGING))
    assert desired is not None
    assert len(desired.targets) == 10
