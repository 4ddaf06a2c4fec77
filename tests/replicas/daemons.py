"""Real daemons on one PostgreSQL and one tree of documents, holding processes on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import psycopg

from api import keys
from api.settings import Settings
from drivers.process import host
from reconciler import failpoints
from tests.drivers.process.far import free_port
from tests.harness import apps
from tests.harness.held import Held

LEASE: Final = 3  # seconds
COMPONENT: Final = "web"
VERSIONS: Final = ("1.0.0", "2.0.0", "3.0.0")


class Replica(Held):
    """One daemon with a state of its own; documents, keys and the database are shared."""

    def __init__(self, home: Path, name: str, address: str) -> None:
        self.home, self.name = home, name
        self.process: subprocess.Popen[bytes] | None = None
        self.settings = Settings(
            documents=home / "documents",
            state=home / name,
            database=address,
            key_directory=home / "keys",
            lease_seconds=LEASE,
        )

    def start(self, failpoint: str | None = None) -> None:
        assert self.process is None
        said = {
            "HOLDFAST_DATABASE": self.settings.database,
            "HOLDFAST_KEY_DIRECTORY": str(self.settings.key_directory),
            "HOLDFAST_LEASE_SECONDS": str(LEASE),
        }
        environment = os.environ | said | ({failpoints.VARIABLE: failpoint} if failpoint else {})
        with (self.home / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command("run"), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    @property
    def log(self) -> str:
        return (self.home / f"{self.name}.log").read_text(errors="replace")[-4000:]

    def stopped(self) -> bool:
        """Whether the process is halted by a signal."""
        assert self.process is not None
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "T"

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


class Estate:
    """Targets of one environment, and the replicas that hold them."""

    def __init__(self, home: Path, address: str, targets: int = 2) -> None:
        self.home, self.address = home, address
        self.ports = {f"web-{number}": free_port() for number in range(targets)}
        self.first = Replica(home, "first", address)
        self.second = Replica(home, "second", address)
        self.first.settings.documents.mkdir(parents=True)
        keys.init(home / "keys")
        for version in VERSIONS:
            self.first.release(version, {COMPONENT: apps.pack(home / "images", version)})
        self.first.targets({name: self._target(name, port) for name, port in self.ports.items()})

    def _target(self, name: str, port: int) -> dict[str, Any]:
        connection = {
            "via": "local",
            "root": str(self.home / "hosts" / name),
            "artifacts": f"oci:{self.home / 'images'}",
        }
        check = {"http": {"port": port, "path": "/health"}, "interval": "50ms", "successes": 2, "deadline": "20s"}
        own = {"ports": [f"127.0.0.1:{port}:{port}"], "environment": {"PORT": str(port)}, "health": check}
        return {"driver": "process", "connection": connection, "components": {COMPONENT: own}}

    def declare(self, version: str) -> None:
        self.first.environment(
            version,
            {COMPONENT: {"stop_grace": "1s"}},
            sync={"mode": "automatic", "heal": "automatic", "interval": "1s"},
            strategy={"kind": "rolling", "wave": 1},
        )

    def serves(self, target: str) -> str | None:
        """The version that answers there."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[target]}/", timeout=2) as answer:
                return str(answer.read().decode().split()[1])
        except OSError:
            return None

    @property
    def served(self) -> set[str | None]:
        return {self.serves(target) for target in self.ports}

    def asked(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.address.replace("+psycopg", ""), autocommit=True) as c:
            return c.execute(statement.encode()).fetchall()

    def settled(self, version: str) -> bool:
        """The version is served everywhere, and no job is under way."""
        return self.served == {version} and self.asked("select count(*) from job where ended_at is null") == [(0,)]

    def wait(self, what: str, ready: Callable[[], bool], seconds: float = 180) -> float:
        began = time.monotonic()
        while not ready():
            if time.monotonic() - began > seconds:
                raise AssertionError(
                    f"waited {seconds:g} s for {what}: {self.served}\n{self.first.log}\n{self.second.log}"
                )
            time.sleep(0.1)
        return time.monotonic() - began

    def instances(self) -> Mapping[str, int]:
        """target -> how many workloads run there."""
        found = dict.fromkeys(self.ports, 0)
        for process in host.processes():
            mark = host.mark_of(process.pid) or ""
            if process.lives and process.pid == process.group:
                for target in self.ports:
                    found[target] += str(self.home / "hosts" / target) + "/" in mark
        return found

    def clear(self) -> None:
        """The daemons first, then what they held, by process id."""
        for replica in (self.first, self.second):
            replica.kill()
        ours = [each.pid for each in host.processes() if str(self.home) in (host.mark_of(each.pid) or "")]
        supervisors = [
            json.loads(found.read_text())["supervisor"] for found in self.home.glob("hosts/*/*/*/supervisor/pid")
        ]
        for pid in (*(int(each.partition(":")[0]) for each in supervisors), *ours):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def estate(home: Path, address: str) -> Iterator[Estate]:
    made = Estate(home, address)
    try:
        yield made
    finally:
        made.clear()
