"""A house that follows a repository served over HTTP, with its own HTTP door for webhooks and processes of this machine
as its targets: what is pushed is brought."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio
import httpx2

from api import keys, logging, sources, wiring
from api.house import House
from api.http import webhooks
from api.http.app import application, gated
from api.http.caps import Caps
from api.http.guard import NobodyKnown
from api.http.serving import on_port
from api.settings import Settings
from reconciler.events import Event, Progressed, SourceRead
from stickers.names import Artifact
from tests.harness import apps
from tests.harness.gits import Work, served

SECRET: Final = "a webhook's secret of the tests"
SOURCE: Final = "shop"
HOST: Final = Path(__file__).parents[2] / "drivers" / "process" / "host.py"


@dataclass(kw_only=True, eq=False)
class Pushed:
    """The events with the time of each, and the ways to push and to call."""

    home: Path
    work: Work
    targets: int
    ports: list[int]
    events: list[tuple[float, Event]] = field(default_factory=list)
    door: int = 0
    house: House | None = None

    def documents(self, version: str, image: Artifact) -> dict[str, str | bytes | None]:
        head = {"apiVersion": "holdfast/v1"}
        release = head | {"kind": "Release", "name": "shop", "version": version, "components": {"web": str(image)}}
        component = {"stop_grace": "1s"}
        wave = {"kind": "all-at-once"}
        environment = {"kind": "Environment", "name": "staging", "release": f"shop@{version}", "strategy": wave}
        files = [
            (f"release-{version}", release),
            ("staging", head | environment | {"components": {"web": component}}),
            *((f"target-{number}", head | self._target(number)) for number in range(self.targets)),
        ]
        return {f"deploy/{name}.yaml": json.dumps(said) for name, said in files}

    def _target(self, number: int) -> dict[str, Any]:
        root, images = self.home / "hosts" / str(number), self.home / "images"
        there = {"via": "local", "root": str(root), "artifacts": f"oci:{images}"}
        port = self.ports[number]
        check = {"http": {"port": port, "path": "/health"}, "interval": "50ms", "successes": 1, "deadline": "20s"}
        own = {"ports": [f"127.0.0.1:{port}:{port}"], "environment": {"PORT": str(port)}, "health": check}
        what = {"kind": "Target", "name": f"web-{number}", "environment": "staging", "driver": "process"}
        return what | {"connection": there, "components": {"web": own}}

    async def call(self) -> int:
        """The webhook, as a forge sends it after a push; what was answered."""
        body, sent = json.dumps({"after": self.work.head()}).encode(), str(int(time.time()))
        mac = hmac.new(SECRET.encode(), sent.encode() + b"." + body, hashlib.sha256).hexdigest()
        headers = {"X-Holdfast-Timestamp": sent, "X-Holdfast-Signature": f"sha256={mac}"}
        async with httpx2.AsyncClient(trust_env=False) as client:
            url = f"http://127.0.0.1:{self.door}/hooks/{SOURCE}"
            return (await client.post(url, content=body, headers=headers)).status_code

    async def first(self, what: Callable[[Event], bool], since: float, within: float = 60.0) -> float:
        """How long after `since` the first such event was."""
        with anyio.fail_after(within):
            while True:
                for at, event in self.events:
                    if at >= since and what(event):
                        return at - since
                await anyio.sleep(0.005)

    async def serves(self, version: str, within: float = 60.0) -> None:
        with anyio.fail_after(within):
            for port in self.ports:
                while not await self._answers(port, version):  # noqa: ASYNC110 - a process tells no event
                    await anyio.sleep(0.05)

    async def _answers(self, port: int, version: str) -> bool:
        with contextlib.suppress(httpx2.HTTPError, OSError):
            async with httpx2.AsyncClient(trust_env=False, timeout=2) as client:
                return (await client.get(f"http://127.0.0.1:{port}/")).text == f"shop {version}\n"
        return False


def is_action(event: Event) -> bool:
    """A driver has begun with something on a target."""
    return isinstance(event, Progressed)


def is_read(event: Event) -> bool:
    return isinstance(event, SourceRead)


@contextlib.asynccontextmanager
async def pushed(home: Path, targets: int = 1, poll: str = "1h") -> AsyncIterator[Pushed]:
    """It runs, and has brought version 1.0.0 to every target; whatever was started is ended."""
    work = Work(home)
    made = Pushed(home=home, work=work, targets=targets, ports=_free_ports(targets))
    work.commit(made.documents("1.0.0", apps.pack(home / "images", "1.0.0")))
    (home / "secret").write_text(SECRET)
    write, logging.write = logging.write, lambda event: made.events.append((time.perf_counter(), event))
    try:
        with served(work.bare.parent) as web:
            settings = Settings(state=home / "state", sources=home / "sources.yaml", log_level="error")
            git = {"repository": web.url(), "insecure": True, "path": "deploy", "poll": poll}
            webhook = {"kind": "generic", "secret": {"secret": f"file:{home / 'secret'}"}}
            said = {"apiVersion": "holdfast/v1", "kind": "Source", "name": SOURCE, "git": git, "webhook": webhook}
            (home / "sources.yaml").write_text(json.dumps(said))
            assert sources.read(settings)
            keys.init(settings.keys)
            async with wiring.built(settings) as made.house, _running(made):
                await made.serves("1.0.0")
                yield made
    finally:
        logging.write = write
        _end_workloads(home)


@contextlib.asynccontextmanager
async def _running(made: Pushed) -> AsyncIterator[None]:
    assert made.house is not None
    app = gated(application(made.house, NobodyKnown(), more=[webhooks.router]), Caps())
    server = on_port(app, "127.0.0.1", 0)
    async with anyio.create_task_group() as group:
        made.door = await group.start(server.run_until_stopped)
        await group.start(made.house.reconciler.run)
        try:
            yield
        finally:
            made.house.reconciler.stop()
            server.should_exit = True
            group.cancel_scope.deadline = anyio.current_time() + 5


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def _end_workloads(home: Path) -> None:
    """Every workload, then its supervisor, by process id."""
    for place in sorted((home / "hosts").glob("*/*/*/supervisor")):
        words = [sys.executable, str(HOST), "ctl", str(place.parent), "stop"]
        subprocess.run(words, capture_output=True, check=False, timeout=20)
        with contextlib.suppress(OSError, ValueError, KeyError):  # it has ended by itself
            supervisor: str = json.loads((place / "pid").read_text())["supervisor"]  # its id, a colon, its start
            os.kill(int(supervisor.partition(":")[0]), signal.SIGTERM)
