"""What failed among others is run once more, alone: on a busy machine a test may fail for want of time, and only one
that then passes is called so. `pytest -p tests.harness.again --failures FILE` keeps the names of what failed.

More than a few failures are no matter of a busy machine, and stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pytest

FEW: Final = 5
FAILURES: Final = 1  # pytest's word for: everything ran, and some of it failed

Run = Callable[[Sequence[str]], int]


def passed_alone(status: int, failed: Sequence[str], run: Run) -> tuple[str, ...] | None:
    """The tests that passed only when they were run again; None when the tests have failed."""
    if status == 0:
        return ()
    if status != FAILURES or not 0 < len(failed) <= FEW:
        return None
    return tuple(failed) if run(failed) == 0 else None


def told(tests: Sequence[str]) -> str:
    return "\n".join(("passed only when run again, alone:", *(f"  {test}" for test in tests)))


def read(file: Path) -> tuple[str, ...]:
    return tuple(file.read_text().split("\n")[:-1]) if file.exists() else ()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--failures", metavar="FILE", help="write the names of the tests that failed to FILE")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--failures") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Failures(Path(config.getoption("--failures"))))


class Failures:
    """In the controller, which hears of all tests, of those of a worker that died too."""

    def __init__(self, file: Path) -> None:
        self.file, self.tests = file, dict[str, None]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.tests[report.nodeid] = None

    def pytest_sessionfinish(self) -> None:
        self.file.write_text("".join(f"{test}\n" for test in self.tests))
