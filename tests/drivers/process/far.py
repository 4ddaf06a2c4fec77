"""The host's side of the process driver as a test drives it: JSON lines to a process of its own."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from drivers.process import host

HOST = Path(host.__file__)
Json = dict[str, Any]


class Refusal(Exception):
    """What the host answered instead."""

    def __init__(self, error: Json) -> None:
        super().__init__(error["text"])
        self.code, self.text, self.missing = error["code"], error["text"], error["missing"]


class Far:
    """A session that holds one placement, `web` of target `default/t1`, and a few verbs that take several requests."""

    def __init__(self, python: str, root: Path, *, installation: str = "inst", component: str = "web") -> None:
        self.python, self.root = python, root
        self.where: Json = {
            "root": str(root),
            "installation": installation,
            "target": "default/t1",
            "component": component,
            "slot": "live",
            "fence": 1,
        }
        argv = [python, "-I", "-S", *host.started_by(str(HOST)), "session"]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={}, umask=0o077
        )

    @property
    def place(self) -> Path:
        return Path(self.where["root"]).resolve() / f"{self.where['installation']}/{self.where['component']}"

    def ask(self, do: str, **fields: Any) -> Json:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **self.where, **fields}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise Refusal(answer["error"])
        found: Json = answer["answer"]
        return found

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)

    # -- several requests --------------------------------------------------------------------------------------------

    def release(self, files: Mapping[str, str], command: list[str], artifact: str = "1" * 64, **declared: Any) -> str:
        """A sealed release of these files, held and ready to be started."""
        self.ask("hold")
        staged = self.ask("stage")
        Path(staged["tree"]).mkdir()
        for name, content in files.items():
            path = Path(staged["tree"], name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            path.chmod(0o755)
        found = self.ask(
            "seal", staging=staged["staging"], specification=self.specification(command, artifact, declared)
        )
        return str(found["release"])

    def specification(self, command: list[str], artifact: str, declared: Json) -> Json:
        names = {name: self.where[name] for name in ("installation", "target", "component", "slot")}
        configuration = {"restart": "never", "stop_grace": 2000, **declared}
        return {**names, "artifact": f"shop/web@sha256:{artifact}", "configuration": configuration, "command": command}

    def order(self, **order: Any) -> Json:
        return self.ask("awaited", token=self.ask("order", order=order)["token"], timeout=20)

    def start(self, release: str, *, replace: bool = True, **fields: Any) -> Json:
        self.ask("ensure", python=self.python)
        return self.order(do="start", release=release, replace=replace, key="key-1", **fields)

    def run(self, script: str, **declared: Any) -> Json:
        """Start a Python script as the workload."""
        return self.start(self.release({"app.py": script}, [self.python, "-S", "app.py"], **declared))

    def look(self, **ask: Any) -> Json:
        """The one target, as `observe` would see it."""
        names = {name: self.where[name] for name in ("root", "installation", "target")}
        found: Json = self.ask("look", targets=[{**names, "address": "127.0.0.1", **ask}])["targets"][0]
        return found

    @property
    def standing(self) -> Json:
        return self.ask("standing")

    @property
    def workload(self) -> Json:
        found: Json = self.standing["workload"]
        return found

    @property
    def output(self) -> list[str]:
        found: list[str] = self.ask("log", tail=1000)["lines"]
        return found

    def printed(self, count: int = 1) -> list[str]:
        """Lines of output, once there are so many."""
        eventually(lambda: len(self.output) >= count)
        return self.output


def eventually(condition: Callable[[], object], within: float = 30.0) -> None:
    """Waits for what other processes do, which no virtual clock can hurry."""
    until = time.monotonic() + within
    while not condition():
        assert time.monotonic() < until, "what was waited for did not come"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
