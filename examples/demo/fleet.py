"""The demo's fleet: its documents, its artifacts, and the daemon that holds it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from api.client import ask
from api.problem import Problem
from api.settings import Settings

APP = Path(__file__).parent / "app" / "serve.py"
ENVIRONMENTS = {"development": 2, "staging": 4, "production": 3}
RELEASES = ("1.0.0", "1.1.0", "1.2.0-broken")


@dataclass
class Fleet:
    """Where the demo lives, and how it is asked. `ports` maps a target to the port its shop serves on."""

    KILLED: ClassVar = "kill -9 of the shop on staging-2"
    SWAPPED: ClassVar = "staging-3 is pointed back at the release kept beside, its sticker untouched"

    home: Path
    environments: dict[str, int] = field(default_factory=lambda: dict(ENVIRONMENTS))  # name -> how many targets
    ports: dict[str, int] = field(default_factory=dict)
    releases: dict[str, str] = field(default_factory=dict)  # environment -> version
    port: int = field(default_factory=lambda: _port(8420))  # of the dashboard

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def password(self) -> Path:
        """Where the dashboard's password lies; its user is `admin`."""
        return self.home / "password"

    @property
    def repository(self) -> str:
        return "demo.invalid/shop/web"  # a name; the bytes come from the layout beside

    @property
    def documents(self) -> Path:
        return self.home / "holdfast"

    @property
    def state(self) -> Path:
        return self.home / "state"

    def root(self, target: str) -> Path:
        return self.home / "hosts" / target

    def holdfast(self, *words: str, check: bool = True) -> str:
        """One command line, as a person would type it; its output."""
        done = subprocess.run(self.command(*words), capture_output=True, text=True)
        if check and done.returncode not in (0, 10):
            raise SystemExit(f"holdfast {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def ask(self, *words: str) -> Any:
        return json.loads(self.holdfast(*words, "--output", "json"))

    def command(self, *words: str) -> list[str]:
        where = ["--documents", str(self.documents), "--state", str(self.state)]
        return [sys.executable, "-m", "api.cli.main", *words, *where]

    # -- what is declared -------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Pack the releases of the shop and write the documents of three environments."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.documents.mkdir(parents=True)
        for release in RELEASES:
            self._write_release(release, self._packed(release))
        for environment, count in self.environments.items():
            self._write_targets(environment, count)
            self.declare(environment, RELEASES[0])
        self.holdfast("keys", "init")
        self.password.touch(mode=0o600)
        self.password.write_text(secrets.token_urlsafe(12) + "\n")

    def _packed(self, release: str) -> str:
        source = self.home / "build" / release
        source.mkdir(parents=True)
        shutil.copy(APP, source / "serve.py")
        (source / "release").write_text(release + "\n")
        return str(self.ask("artifact", "pack", str(source), str(self.home / "artifacts"))["digest"])

    def _write_release(self, release: str, digest: str) -> None:
        (self.documents / f"shop-{release}.yaml").write_text(
            "apiVersion: holdfast/v1\nkind: Release\nname: shop\n"
            f'version: "{release}"\ncomponents:\n  web: {self.repository}@{digest}\n'
        )

    def declare(self, environment: str, release: str) -> None:
        """Write the environment's document, as a person edits it; the daemon sees the file change."""
        self.releases[environment] = release
        path = self.documents / f"{environment}.yaml"
        path.with_suffix(".tmp").write_text(
            f"apiVersion: holdfast/v1\nkind: Environment\nname: {environment}\nrelease: shop@{release}\n"
            "sync: {mode: automatic, heal: automatic, interval: 5s}\n"
            "strategy: {kind: rolling, wave: 50%, max_failures: 0}\nrollback: automatic\n"
            f"components:\n  web:\n{self._component()}"
            "    restart: never   # so that what is killed is Holdfast's to heal, and nobody else's\n"
        )
        path.with_suffix(".tmp").rename(path)

    def _component(self) -> str:
        """How the shop runs everywhere."""
        return "    command: [python3, serve.py]\n"

    def _write_targets(self, environment: str, count: int) -> None:
        documents = [self._target(environment, f"{environment}-{number}") for number in range(1, count + 1)]
        (self.documents / f"{environment}-targets.yaml").write_text("---\n".join(documents))

    def _target(self, environment: str, target: str) -> str:
        port = self.ports[target] = free_port()
        head = f"apiVersion: holdfast/v1\nkind: Target\nname: {target}\nenvironment: {environment}\n"
        return head + self._placement(target, port)

    def _placement(self, target: str, port: int) -> str:
        """How the target is reached, and what is its own."""
        self.root(target).mkdir(parents=True)
        return (
            "driver: process\n"
            f"connection: {{via: local, root: {self.root(target)}, artifacts: 'oci:{self.home / 'artifacts'}'}}\n"
            f"components:\n  web:\n    ports: ['127.0.0.1:{port}:{port}']\n"
            f"    environment: {{PORT: '{port}', TARGET: {target}}}\n"
            f"    health: {{http: {{port: {port}, path: /health}}, interval: 200ms, successes: 3, deadline: 5s}}\n"
        )

    # -- what runs --------------------------------------------------------------------------------------------------

    @contextmanager
    def held(self) -> Iterator[None]:
        """The daemon, for as long as the block lasts; then it is drained and the fleet is ended by process id."""
        with (self.home / "daemon.log").open("wb") as log:
            command = self.command("serve", "--listen", f"127.0.0.1:{self.port}")
            environment = os.environ | {"HOLDFAST_ADMIN_PASSWORD_FILE": str(self.password)}
            daemon = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            self.wait("the daemon", (self.state / "holdfast.sock").exists)
            yield
        finally:
            daemon.terminate()
            daemon.wait(timeout=60)
            self.end_workloads()

    def end_workloads(self) -> None:
        """End every workload, then its supervisor, by process id."""
        for target in self.ports:
            for place in self._places(target):
                self._stop(place)
                with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it has ended by itself
                    os.kill(_pid(json.loads((place / "supervisor" / "pid").read_text())["supervisor"]), signal.SIGTERM)

    def _places(self, target: str) -> list[Path]:
        return [found.parent for found in sorted(self.root(target).glob("*/*/releases"))]

    def _stop(self, place: Path) -> None:
        """Whoever was killed in the middle of a change holds the place for a moment more."""
        for left in reversed(range(20)):
            try:
                self._by_hand(place, "stop")
                return
            except subprocess.CalledProcessError:
                if not left:
                    raise
                time.sleep(0.5)

    def _by_hand(self, place: Path, verb: str) -> None:
        host = Path(__file__).parents[2] / "drivers" / "process" / "host.py"
        subprocess.run([sys.executable, str(host), "ctl", str(place), verb], check=True, capture_output=True)

    # -- hands that break things ------------------------------------------------------------------------------------

    def kill(self, target: str) -> None:
        """kill -9 of the workload."""
        os.kill(_pid(self.placement(target)["instance"]), signal.SIGKILL)

    def forge(self, target: str) -> None:
        """Let the sticker claim another release; its signature stays what it was."""
        path = self._places(target)[0] / "sticker.json"
        sticker = json.loads(path.read_text())
        sticker["envelope"] = claiming_another(sticker["envelope"])
        path.write_text(json.dumps(sticker))

    def swap(self, target: str) -> None:
        """Point `current` at the release that is kept beside, and restart what runs."""
        place = self._places(target)[0]
        serving = (place / "current").resolve()
        other = next(kept for kept in sorted((place / "releases").iterdir()) if kept.resolve() != serving)
        (place / "swap").symlink_to(f"releases/{other.name}")
        (place / "swap").rename(place / "current")
        self._by_hand(place, "restart")

    def broken(self, by: Callable[[str], None], target: str, *verdicts: str) -> dict[str, Any]:
        """Break the target by hand; the first judgement of it among these, with the seconds it took as `after`.
        Whoever looks while the hands are still at work may judge otherwise before."""
        number = self._judged(target)[0]["number"]
        by(target)

        def news() -> list[dict[str, Any]]:
            return [cell for cell in self._judged(target) if cell["number"] > number and cell["verdict"] in verdicts]

        after = self.wait(f"{target} to be judged", lambda: bool(news()), 30)
        return news()[-1] | {"after": after}

    def _judged(self, target: str) -> list[dict[str, Any]]:
        """How the target's placement stood, newest first."""
        environment = target.rpartition("-")[0]
        return _ours(self.ask("history", environment, "--target", target)["placements"])

    def placement(self, target: str) -> dict[str, Any]:
        return _ours(self.ask("why", target)["placements"])[0]

    def serves(self, target: str) -> str:
        """What the target's shop answers over HTTP, or that it does not."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[target]}/", timeout=2) as answer:
                return str(answer.read().decode().strip())
        except (OSError, urllib.error.URLError) as error:
            return f"does not answer ({getattr(error, 'reason', error)})"

    def verdicts(self) -> dict[str, str]:
        """target -> verdict of every placement, as `status` says it; asked without starting an interpreter each time,
        since who waits asks often."""
        settings, found = Settings(documents=self.documents, state=self.state), {}
        for environment in self.environments:
            with contextlib.suppress(Problem):
                answer = ask(settings, "status", environment=environment)
                for cell in _ours(answer["environments"][0]["placements"]):
                    found[cell["target"].partition("/")[2]] = cell["verdict"]
        return found

    def wait(self, what: str, ready: Callable[[], bool], seconds: float = 60) -> float:
        """Until it is so; answers how many seconds it took."""
        began = time.monotonic()
        while not ready():
            if time.monotonic() - began > seconds:
                raise SystemExit(f"waited {seconds:g} s for {what}; see {self.home / 'daemon.log'}")
            time.sleep(0.1)
        return time.monotonic() - began


def claiming_another(envelope: dict[str, Any]) -> dict[str, Any]:
    """The envelope with a payload that claims another release, under the signature of the true one."""
    payload = base64.b64decode(envelope["payload"]).replace(b"shop@1.", b"shop@9.")
    return envelope | {"payload": base64.b64encode(payload).decode()}


def _pid(instance: str) -> int:
    """The process id in `pid:start time`."""
    return int(instance.partition(":")[0])


def _port(wished: int) -> int:
    """The port that people remember, or any other while that one is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wished))
        except OSError:
            return free_port()
        return wished


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ours(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """An engine may hold other containers, too."""
    return [cell for cell in cells if cell["component"] == "web"]
