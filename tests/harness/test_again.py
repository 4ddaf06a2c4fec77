"""What failed among others is run once more, alone, when it is little."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.harness.again import FEW, passed_alone, read, told

ONE = "tests/test_one.py::test_it[a b::c]"
TWO = "tests/test_two.py::test_it"


class Runs:
    """Runs that end as it is said, and are remembered."""

    def __init__(self, status: int) -> None:
        self.status, self.asked = status, list[Sequence[str]]()

    def __call__(self, tests: Sequence[str]) -> int:
        self.asked.append(tests)
        return self.status


def test_nothing_runs_again_when_all_have_passed() -> None:
    run = Runs(0)
    assert passed_alone(0, (), run) == ()
    assert run.asked == []


def test_a_few_that_pass_alone_pass_and_are_named() -> None:
    run = Runs(0)
    assert passed_alone(1, (ONE, TWO), run) == (ONE, TWO)
    assert run.asked == [(ONE, TWO)]
    assert told((ONE, TWO)) == f"passed only when run again, alone:\n  {ONE}\n  {TWO}"


def test_what_fails_alone_too_has_failed() -> None:
    assert passed_alone(1, (ONE,), Runs(1)) is None


@pytest.mark.parametrize("status", [2, 3, 4, 5])
def test_a_run_that_did_not_come_to_its_end_has_failed(status: int) -> None:
    run = Runs(0)
    assert passed_alone(status, (ONE,), run) is None
    assert run.asked == []


@pytest.mark.parametrize("many", [0, FEW + 1])
def test_more_than_a_few_and_failures_without_a_name_are_not_run_again(many: int) -> None:
    run = Runs(0)
    assert passed_alone(1, tuple(f"{TWO}_{number}" for number in range(many)), run) is None
    assert run.asked == []


PROBE = """
import os, pytest

@pytest.fixture
def broken():
    yield
    raise OSError

def test_passes(): pass
@pytest.mark.parametrize("it", ["a b::c"])
def test_fails(it): raise ValueError
def test_whose_end_fails(broken): pass
def test_whose_worker_dies(): os._exit(3)
"""


def test_the_names_of_what_failed_are_kept_whatever_it_failed_by(tmp_path: Path) -> None:
    (tmp_path / "test_probe.py").write_text(PROBE)
    words = ["-p", "tests.harness.again", "--failures", str(tmp_path / "failed"), "-p", "no:cacheprovider", "-n", "1"]
    root = Path(__file__).resolve().parents[2]
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path), *words, str(tmp_path)],
        cwd=root,
        stdout=subprocess.DEVNULL,
        timeout=120,
    )
    names = ("test_fails[a b::c]", "test_whose_end_fails", "test_whose_worker_dies")
    assert {test.partition("::")[2] for test in read(tmp_path / "failed")} == set(names)


def test_without_a_file_nothing_is_known_to_have_failed(tmp_path: Path) -> None:
    assert read(tmp_path / "failed") == ()
