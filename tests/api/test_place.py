"""A place is one process's, whatever its state directory is called, and the next process there is known as its heir."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from api.place import Place
from api.problem import Problem


def test_the_same_directory_is_the_same_place_and_another_is_not(tmp_path: Path) -> None:
    names = []
    for directory in ("a", "a", "b"):
        (tmp_path / directory).mkdir(exist_ok=True)
        place = Place(tmp_path / directory)
        names.append(place.name)
        place.release()
    assert names[0] == names[1] != names[2]


def test_a_second_process_is_told_who_lives_there(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with pytest.raises(Problem, match=r"^process \d+ of Holdfast lives in ") as refused:
        Place(tmp_path)
    assert refused.value.code == "STORE_LOCKED"
    place.release()
    Place(tmp_path).release()


def test_a_copied_directory_on_another_machine_is_another_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Place(tmp_path)
    here.release()
    shutil.copytree(tmp_path, tmp_path / "copy")
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    there = Place(tmp_path / "copy")
    there.release()
    assert here.name.partition("/")[2] != there.name.partition("/")[2]


def test_a_file_that_does_not_read_is_drawn_anew(tmp_path: Path) -> None:
    (tmp_path / "replica").write_text("nonsense")
    Place(tmp_path).release()
    assert len((tmp_path / "replica").read_text().split()[0]) == 16
