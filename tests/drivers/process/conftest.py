"""Hosts of the process driver's tests: a root of their own, and the interpreters that stand for plain hosts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.drivers.process.far import Far
from tests.drivers.process.yard import Yard
from tests.harness import leftovers


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory outside pytest's own, since nothing of it may outlive the test; nor may any process."""
    directory = Path(tempfile.mkdtemp(prefix="hf-process-"))
    try:
        yield directory / "target"
    finally:
        killed = leftovers.end(directory)
        shutil.rmtree(directory)
    assert not killed, "processes that no supervisor ended had to be killed"


def oldest() -> str | None:
    """The oldest Python we promise to run on, where this machine has it."""
    pyenv = shutil.which("pyenv")
    roots = (
        [subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout.strip()] if pyenv else []
    )
    found = [str(path) for root in roots for path in sorted(Path(root).glob("versions/3.8.*/bin/python"))]
    return found[-1] if found else shutil.which("python3.8")


@pytest.fixture(params=["this", "3.8"])
def python(request: pytest.FixtureRequest) -> str:
    """This interpreter, and the oldest one."""
    if request.param == "this":
        return sys.executable
    found = oldest()
    if found is None:
        pytest.skip("no Python 3.8 on this machine: neither pyenv nor PATH has one")
    return found


@pytest.fixture
def far(python: str, root: Path) -> Iterator[Far]:
    """A session of the host's side, in a process of its own under the interpreter."""
    session = Far(python, root)
    try:
        yield session
    finally:
        session.close()


@pytest.fixture
def near(root: Path) -> Iterator[Far]:
    """The same under this interpreter alone, for what does not depend on it."""
    session = Far(sys.executable, root)
    try:
        yield session
    finally:
        session.close()


@pytest.fixture
def privileged() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An image layout that nobody has filled yet."""
    return tmp_path / "images"


@pytest.fixture
async def yard(root: Path, images: Path) -> AsyncIterator[Yard]:
    found = Yard(root, images)
    try:
        yield found
    finally:
        await found.driver.aclose()
