"""One booted machine for all tests of a process, and a root of its own on it for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.harness.machine import Machine, NoMachine, running_machine


@pytest.fixture(scope="session")
def booted() -> Iterator[Machine | str]:
    """The machine, or why there is none."""
    try:
        with running_machine() as machine:
            yield machine
    except NoMachine as error:
        yield str(error)


@pytest.fixture
def machine(booted: Machine | str) -> Iterator[Machine]:
    """Nothing of ours is on it before the test, and nothing afterwards."""
    if isinstance(booted, str):
        pytest.skip(f"no machine that systemd has booted: {booted}")
    try:
        yield booted
    finally:
        booted.clear()


@pytest.fixture
def root(machine: Machine) -> Path:
    return machine.shared / uuid4().hex[:8] / "target"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An image layout that nobody has filled yet."""
    return tmp_path / "images"
