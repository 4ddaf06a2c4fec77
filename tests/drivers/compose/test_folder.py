"""The files of a project: what was written is there after a crash, and what cannot be read is not believed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from drivers.compose import host
from drivers.compose.folder import Folder, Record
from drivers.compose.lock import Place
from drivers.errors import Busy, InvalidAction
from drivers.process.line import Doors, Line
from drivers.process.parcel import parcel
from stickers.names import ActionKey, target_id
from stickers.signature import Envelope
from tests.drivers.compose.samples import PLACE, made, placement
from tests.drivers.process.conftest import python

__all__ = ["python"]  # a fixture: this interpreter, and the oldest one

KEY = ActionKey("a" * 64)


def folder_at(root: Path, place: Place = PLACE) -> Folder:
    return Folder(Line(host.Session(), Doors("projects")), str(root), place)


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Folder]:
    found = folder_at(tmp_path)
    await found.hold()
    yield found
    await found.line.aclose()


def record() -> Record:
    piece, other = made(placement(environment=(("A", "1"),))), made(placement())
    return Record(piece=piece, pending=True, back=other, kept=(other,), key=KEY, before=("old",), fence=3)


async def test_a_record_comes_back_as_it_was_to_the_byte_of_the_lock(folder: Folder) -> None:
    """What is kept goes into later locks, and compose compares."""
    await folder.write_record("api", record())
    assert await folder.record("api") == record()


async def test_a_record_that_cannot_be_read_counts_as_none(folder: Folder) -> None:
    await folder.write_record("api", record())
    path = Path(folder.path) / "services" / "api" / "record.json"
    for content in (b"", b"{", b"[]", b'{"format": "nobody.knows/v9"}', path.read_bytes()[:-20]):
        path.write_bytes(content)
        assert await folder.record("api") == Record()


def test_whoever_was_there_before_was_not_made_by_the_action() -> None:
    assert record().key_of("new") == KEY
    assert record().key_of("old") is None


async def test_a_crash_while_writing_leaves_what_was_there(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    await folder.write_record("api", record())
    await folder.write_lock(b"one\n")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        await folder.write_record("api", replace(record(), fence=9))
    with pytest.raises(KeyboardInterrupt):
        await folder.write_lock(b"two\n")
    assert (await folder.record("api")).fence == 3
    assert Path(folder.lock).read_bytes() == b"one\n"
    assert set(await folder.records()) == {"api"}


async def test_a_lock_that_was_edited_is_written_again_before_it_is_used(folder: Folder) -> None:
    await folder.write_lock(b"one\n")
    Path(folder.lock).resolve().write_bytes(b"something else\n")
    await folder.write_lock(b"one\n")
    assert Path(folder.lock).read_bytes() == b"one\n"


async def test_the_lock_that_holds_is_never_pruned(folder: Folder) -> None:
    for number in range(5):
        await folder.write_lock(b"%d\n" % number)
    await folder.write_lock(b"0\n")
    await folder.prune(1)
    names = {path.read_bytes() for path in (Path(folder.path) / "locks").glob("*.yaml")}
    assert names == {b"0\n", b"4\n"}
    assert len(list((Path(folder.path) / "locks").iterdir())) == 4


async def test_an_image_that_another_project_may_go_back_to_is_still_named(folder: Folder) -> None:
    other = folder_at(Path(folder.path).parent, replace(PLACE, target=target_id("shop", "web-2")))
    await other.hold()
    await other.write_record("api", record())
    (Path(folder.path).parent / "stray").touch()
    assert await folder.images() == record().images


async def test_one_holds_a_project_at_a_time(folder: Folder) -> None:
    other = folder_at(Path(folder.path).parent)
    with pytest.raises(Busy):
        await other.hold()
    await folder.line.aclose()
    await other.hold()
    await other.line.aclose()


async def test_nothing_is_changed_by_who_does_not_hold_the_project(folder: Folder) -> None:
    other = folder_at(Path(folder.path).parent)
    with pytest.raises(InvalidAction, match="without holding"):
        await other.write_lock(b"one\n")


@pytest.mark.parametrize("name", ["../api", "api/..", "", ".api"])
async def test_no_request_leaves_the_directory_of_its_project(folder: Folder, name: str) -> None:
    with pytest.raises(InvalidAction):
        await folder.write_record(name, record())
    with pytest.raises(InvalidAction):
        await replace_project(folder, name).hold()


def replace_project(folder: Folder, name: str) -> Folder:
    found = folder_at(Path(folder.path).parent)
    found.where = {**found.where, "project": name}
    return found


def test_the_far_side_brings_nothing_that_a_host_lacks(python: str) -> None:
    argv = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        "import sys; exec(sys.stdin.read(), {'__name__': 'far'}); print(*sys.modules)",
    ]
    source = parcel("process.host", "compose.host")
    done = subprocess.run(argv, input=source, capture_output=True, cwd="/", env={}, timeout=30)
    tops = {name.partition(".")[0] for name in done.stdout.decode().split()}
    assert "drivers" in tops, done.stderr
    assert tops - set(sys.stdlib_module_names) <= {"drivers", "__main__"}


async def test_a_sticker_that_cannot_be_read_is_seen_with_the_reason(folder: Folder) -> None:
    assert await folder.worn("api") is None
    await folder.wear("api", Envelope('{"payload":"x"}'))
    worn = await folder.worn("api")
    assert worn is not None
    assert worn.problem is None
    (Path(folder.path) / "services" / "api" / "sticker.json").write_text("{}")
    worn = await folder.worn("api")
    assert worn is not None
    assert worn.envelope is None
    assert worn.problem
