"""What measured numbers mean for a target."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from drivers import diagnosis
from drivers.contract import Grade
from drivers.diagnosis import GIBI, MEBI

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("free", "size", "grade"),
    [
        (100 * MEBI, 100 * GIBI, Grade.MISSING),
        (1 * GIBI, 100 * GIBI, Grade.WARNING),
        (1 * GIBI, 2 * GIBI, Grade.OK),
        (50 * GIBI, 100 * GIBI, Grade.OK),
    ],
)
def test_room_is_judged_by_what_a_release_needs(free: int, size: int, grade: Grade) -> None:
    assert diagnosis.disk("/srv", free=free, size=size).grade is grade


def test_inodes_that_run_out_are_told() -> None:
    found = diagnosis.disk("/srv", free=50 * GIBI, size=100 * GIBI, inodes_free=10, inodes=1000)
    assert found.grade is Grade.WARNING
    assert "10 of 1000 inodes" in found.sentence


@pytest.mark.parametrize(
    ("off", "grade", "said"),
    [
        (0.0, Grade.OK, "agrees"),
        (3.0, Grade.OK, "3 s from ours"),
        (60.0, Grade.WARNING, "60 s ahead of ours"),
        (-60.0, Grade.WARNING, "60 s behind ours"),
    ],
)
def test_a_clock_is_judged_by_how_far_it_is_off(off: float, grade: Grade, said: str) -> None:
    found = diagnosis.clock(NOW + timedelta(seconds=off), NOW, NOW)
    assert found.grade is grade
    assert said in found.sentence


def test_the_time_the_question_took_is_no_fault_of_the_clock() -> None:
    assert diagnosis.clock(NOW + timedelta(seconds=20), NOW, NOW + timedelta(seconds=40)).grade is Grade.OK


@pytest.mark.parametrize(("version", "grade"), [((3, 7, 9), Grade.MISSING), ((3, 8, 0), Grade.OK), ((3, 14), Grade.OK)])
def test_an_old_python_is_missing(version: tuple[int, ...], grade: Grade) -> None:
    assert diagnosis.python("/usr/bin/python3", version).grade is grade


def test_whatever_is_not_ok_says_what_helps() -> None:
    bad = (
        diagnosis.disk("/", free=0, size=GIBI),
        diagnosis.clock(NOW, NOW + timedelta(hours=1), NOW + timedelta(hours=1)),
        diagnosis.python("/p", (3, 6)),
    )
    assert all(found.remedy for found in bad)
