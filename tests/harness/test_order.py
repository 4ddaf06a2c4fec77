"""Tests are dealt so that no worker is left alone with what is dear."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.harness.order import DEAREST, dealt

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Named:
    nodeid: str


TESTS = [
    Named(f"{file}::test_{number}")
    for file, count in (
        ("tests/api/test_keys.py", 4),
        ("tests/drivers/docker/test_conformance.py", 5),
        ("tests/simulation/test_simulation.py", 3),
        ("tests/stickers/test_names.py", 18),
    )
    for number in range(count)
]


def test_every_test_is_dealt_once() -> None:
    assert Counter(dealt(TESTS, 3)) == Counter(TESTS)


def test_each_worker_begins_with_something_dear_and_ends_with_something_cheap() -> None:
    hands = [dealt(TESTS, 3)[first : first + 10] for first in (0, 10, 20)]
    assert [hand[0].nodeid.partition("::")[0] for hand in hands] == [
        "tests/simulation/test_simulation.py",
        "tests/drivers/docker/test_conformance.py",
        "tests/api/test_keys.py",
    ]
    assert {hand[-1].nodeid.partition("::")[0] for hand in hands} == {"tests/stickers/test_names.py"}


def test_a_file_keeps_its_order() -> None:
    names = [one for one in TESTS if "docker" in one.nodeid]
    assert [one for one in dealt(TESTS, 2) if "docker" in one.nodeid] == names


def test_what_is_called_dear_is_there() -> None:
    assert [path for path in DEAREST if not (ROOT / path).exists()] == []


def test_who_has_the_dearest_is_dealt_nothing_else_until_the_others_have_as_much() -> None:
    files = (
        "tests/simulation/test_simulation.py",
        "tests/drivers/compose/test_conformance.py",
        "tests/api/test_push.py",
    )
    tests = [Named(f"{file}::test") for file in (*files, "tests/stickers/test_names.py")]
    assert [one.nodeid.partition("::")[0] for one in dealt(tests, 2)] == [
        files[0],
        "tests/stickers/test_names.py",
        *files[1:],
    ]
