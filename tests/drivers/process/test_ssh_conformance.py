"""The process driver keeps the contract of drivers on a host that is reached through a real SSH server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from desired_state.model import Target
from drivers.conformance import Bench, Conformance
from drivers.process.driver import ProcessDriver
from drivers.secrets import file
from tests.drivers.process.test_conformance import ProcessBench
from tests.harness.sshd import Sshd, free_port, sshd_or_skip


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with sshd_or_skip() as started:
        yield started


class SshBench(ProcessBench):
    """The same root, signals and `ctl`: the host is this machine, and only the driver goes the long way round."""

    def __init__(self, root: Path, images: Path, server: Sshd) -> None:
        super().__init__(root, images)
        self.server, self.tools = server, replace(self.tools, secret=file.read)
        self.drivers: list[ProcessDriver] = []

    def _target(self, name: str, root: Path, **way: Any) -> Target:
        plain = super()._target(name, root)
        connection = {**plain.connection, **self.server.connection(**way)}
        return Target(id=plain.id, environment=plain.environment, driver="process", connection=connection)

    def unreachable(self) -> Target:
        return self._target("far", self.root, port=free_port())

    def driver(self) -> ProcessDriver:
        self.drivers.append(super().driver())
        return self.drivers[-1]


class TestProcessOverSsh(Conformance):
    @pytest.fixture
    async def bench(self, root: Path, images: Path, server: Sshd) -> AsyncIterator[Bench]:
        bench = SshBench(root, images, server)
        try:
            yield bench
        finally:
            for driver in bench.drivers:
                await driver.aclose()
            bench.close()
