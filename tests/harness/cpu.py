"""What each test costs in CPU seconds, of its worker and of the children that ended in it: `pytest -p tests.harness.cpu
--cpu FILE`. Unlike durations these hardly depend on what else the machine is doing.

What runs on beside a test (engine, registry, database, a program in a thread of another worker) is not in it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

SHOWN = 25
SPENT = "CPU seconds"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cpu", metavar="FILE", help="write the CPU seconds of every test to FILE, and show the dearest")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--cpu"):
        config.pluginmanager.register(Meter(config))


def spent() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Meter:
    """In a worker it measures, in the controller it adds up; without workers it does both."""

    def __init__(self, config: pytest.Config) -> None:
        self.file = Path(config.getoption("--cpu"))
        self.mark = spent()
        self.tests: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])  # CPU and wall, seconds

    def pytest_runtest_logstart(self) -> None:
        self.mark = spent()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        now = spent()
        report.user_properties.append((SPENT, now - self.mark))  # travels to the controller
        self.mark = now
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        sums = self.tests[report.nodeid]
        sums[0] += sum(value for name, value in report.user_properties if name == SPENT)  # type: ignore[misc]
        sums[1] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        tests = sorted(self.tests.items(), key=lambda each: -each[1][0])
        self.file.write_text("".join(f"{cpu:.2f}\t{wall:.2f}\t{name}\n" for name, (cpu, wall) in tests))
        files: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for name, sums in tests:
            for at in (0, 1):
                files[name.split("::")[0]][at] += sums[at]
        write = terminalreporter.write_line
        write(f"{sum(cpu for _, (cpu, _) in tests):.1f} CPU seconds; the dearest files and tests (CPU, wall):")
        for rows in (sorted(files.items(), key=lambda each: -each[1][0]), tests):
            for name, (cpu, wall) in rows[:SHOWN]:
                write(f"{cpu:8.2f} {wall:8.2f}  {name}")
            write("")
