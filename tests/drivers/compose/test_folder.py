"""The files of a project: what was written is there after a crash, and what cannot be read is not believed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from drivers.compose import folder as folders
from drivers.compose.folder import Folder, Record
from drivers.errors import Busy
from stickers.names import ActionKey, target_id
from stickers.signature import Envelope
from tests.drivers.compose.samples import PLACE, made, placement

KEY = ActionKey("a" * 64)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path), PLACE)


def record() -> Record:
    piece, other = made(placement(environment=(("A", "1"),))), made(placement())
    return Record(piece=piece, pending=True, back=other, kept=(other,), key=KEY, before=("old",), fence=3)


def test_a_record_comes_back_as_it_was_to_the_byte_of_the_lock(folder: Folder) -> None:
    """What is kept goes into later locks, and compose compares."""
    folder.write_record("api", record())
    assert folder.record("api") == record()


def test_a_record_that_cannot_be_read_counts_as_none(folder: Folder) -> None:
    folder.write_record("api", record())
    path = folder.path / "services" / "api" / "record.json"
    for content in (b"", b"{", b"[]", b'{"format": "nobody.knows/v9"}', path.read_bytes()[:-20]):
        path.write_bytes(content)
        assert folder.record("api") == Record()


def test_whoever_was_there_before_was_not_made_by_the_action() -> None:
    assert record().key_of("new") == KEY
    assert record().key_of("old") is None


def test_a_crash_while_writing_leaves_what_was_there(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_record("api", record())
    folder.write_lock(b"one\n")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folders.os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        folder.write_record("api", replace(record(), fence=9))
    with pytest.raises(KeyboardInterrupt):
        folder.write_lock(b"two\n")
    assert folder.record("api").fence == 3
    assert folder.lock.read_bytes() == b"one\n"
    assert folder.services() == ("api",)


def test_a_lock_that_was_edited_is_written_again_before_it_is_used(folder: Folder) -> None:
    folder.write_lock(b"one\n")
    folder.lock.resolve().write_bytes(b"something else\n")
    folder.write_lock(b"one\n")
    assert folder.lock.read_bytes() == b"one\n"


def test_the_lock_that_holds_is_never_pruned(folder: Folder) -> None:
    for number in range(5):
        folder.write_lock(b"%d\n" % number)
    folder.write_lock(b"0\n")
    folder.prune(1)
    names = {path.read_bytes() for path in (folder.path / "locks").glob("*.yaml")}
    assert names == {b"0\n", b"4\n"}
    assert len(list((folder.path / "locks").iterdir())) == 4


def test_an_image_that_another_project_may_go_back_to_is_still_named(folder: Folder) -> None:
    other = Folder(str(folder.path.parent), replace(PLACE, target=target_id("shop", "web-2")))
    other.write_record("api", record())
    (folder.path.parent / "stray").touch()
    assert folder.images() == record().images


def test_one_holds_a_project_at_a_time(folder: Folder) -> None:
    handle = folder.hold()
    with pytest.raises(Busy):
        folder.hold()
    os.close(handle)
    os.close(folder.hold())


def test_a_sticker_that_cannot_be_read_is_seen_with_the_reason(folder: Folder) -> None:
    assert folder.worn("api") is None
    folder.wear("api", Envelope('{"payload":"x"}'))
    worn = folder.worn("api")
    assert worn is not None
    assert worn.problem is None
    (folder.path / "services" / "api" / "sticker.json").write_text("{}")
    worn = folder.worn("api")
    assert worn is not None
    assert worn.envelope is None
    assert worn.problem
