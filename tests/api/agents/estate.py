"""A fleet behind agents as people run one: a signer, a daemon that listens for agents, and an agent for each host, each
a process of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from api import client
from api.cli.main import main
from api.settings import Settings
from api.signer.place import Place
from examples.demo.fleet import free_port
from tests.api.fleets import BuiltHere

ROOT = Path(__file__).parents[3]
WAYS = {"staging-2": "polling"}  # how agents speak with the daemon, where it is not left to them
UNAPPROVED = "1.3.0"  # a release that the signer is never shown
POLICY = """\
apiVersion: holdfast/v1
kind: SignerPolicy
ask: {{users: [{uid}]}}
documents: {{directory: {documents}}}
rules:
  - name: staging
    environments: [default/staging]
    verbs: [deploy, rollback, write-sticker, inspect, health-check, read-log, examine, execute-command, upload-files,
            hold, trust]
    commands: [greet]
    uploads: [pages]
    hold: 1h
  - {{name: agents, environments: [default/staging], verbs: [upgrade], repositories: [demo.invalid/agent]}}
"""
HOST = """\
state: {state}
kinds: [process]
way: {way}
commands:
  greet: {{argv: [/bin/echo, hello, "{{0}}"], arguments: ["[a-z]+"]}}
  reboot: {{argv: [/bin/echo, "this host lets it, and the signer does not"]}}
uploads:
  pages: {{directory: {pages}}}
upgrade: {{directory: {versions}, repository: demo.invalid/agent, artifacts: "oci:{artifacts}", within: 60s}}
"""
STARTS = 30.0  # seconds


@dataclass
class Estate(BuiltHere):
    """Every target has an agent of its own, called as the target."""

    door: int = field(default_factory=free_port)
    listen: str = "127.0.0.1"
    called: str = "localhost"
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def signer(self) -> Place:
        return Place(self.home / "signer")

    def _placement(self, target: str, port: int) -> str:
        return super()._placement(target, port).replace("via: local", "via: agent")

    def build(self) -> None:
        super().build()
        self._write_release(UNAPPROVED, self._packed(UNAPPROVED))
        self.signer.init()
        self.pages.mkdir()
        self.signer.policy.write_text(POLICY.format(uid=os.getuid(), documents=self.approved))
        self.approve()

    @property
    def pages(self) -> Path:
        return self.home / "pages"

    @property
    def approved(self) -> Path:
        """The documents as the signer reads them, where the server cannot write."""
        return self.home / "approved"

    def approve(self) -> None:
        shutil.copytree(self.documents, self.approved, dirs_exist_ok=True)

    def released(self, release: str) -> None:
        """As it is meant to go: what is declared is approved, too."""
        self.declare("staging", release)
        self.approve()

    # -- processes ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Signer, daemon and agents; ended by process id, and with them all that they have started."""
        try:
            self.sign()
            self.serve()
            with ThreadPoolExecutor() as hosts:
                list(hosts.map(self.come, list(self.ports)))
            yield
        finally:
            for name in reversed(list(self.running)):
                self.end(name, signal.SIGTERM)
            self.end_workloads()

    def sign(self) -> None:
        words = ("-m", "api.cli.main", "signer", "run", "--directory", str(self.signer.directory))
        self.begin("signer", sys.executable, *words)
        self.wait("the signer", self.signer.socket.exists, STARTS)

    def sign_again(self) -> None:
        self.end("signer", signal.SIGTERM)
        self.sign()

    def holdfast(self, *words: str, check: bool = True) -> str:
        """As a person types it, without an interpreter for each line."""
        with redirect_stdout(StringIO()) as said, redirect_stderr(StringIO()) as complained:
            code = main(self.command(*words)[3:])
        assert not check or code in (0, 10), complained.getvalue()
        return said.getvalue() if check else said.getvalue() + complained.getvalue()

    def said(self, *words: str) -> str:
        """What a command says, whatever comes of it."""
        return self.holdfast(*words, check=False)

    def serve(self) -> None:
        self.begin("daemon", *self.command("run"))
        self.wait("the daemon", (self.state / "holdfast.sock").exists, STARTS)
        self.wait("the door", lambda: "listening_for_agents" in self.log("daemon"), STARTS)

    def come(self, agent: str) -> None:
        self.join(agent)
        self.tend(agent)

    def join(self, agent: str) -> None:
        """As an operator and a host do it."""
        settings = self.home / f"{agent}.yaml"
        here = {"state": self.home / "agents" / agent, "pages": self.pages}
        here |= {"way": WAYS.get(agent, "auto")}
        here |= {"versions": self.home / "versions" / agent, "artifacts": self.home / "artifacts"}
        settings.write_text(HOST.format(**here))
        token = self.home / f"{agent}.token"
        token.touch(mode=0o600)
        asked = {"name": agent, "targets": [agent], "kinds": ["process"], "shared": False}
        token.write_text(client.ask(Settings(state=self.state), "agent_invite", **asked)["token"])
        words = ("join", self.url, "--token-file", str(token), "--settings", str(settings))
        done = subprocess.run(self.program(agent, *words), cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def tend(self, agent: str) -> None:
        self.begin(agent, *self.program(agent, "run", "--settings", str(self.home / f"{agent}.yaml")))

    @property
    def url(self) -> str:
        """As agents reach the daemon."""
        return f"https://{self.called}:{self.door}"

    def program(self, agent: str, *words: str) -> list[str]:
        """The agent's own, as it is started on its host."""
        return [sys.executable, "-m", "drivers.agent.host", *words]

    def begin(self, name: str, *words: str) -> None:
        environment = os.environ | {
            "HOLDFAST_AGENTS_LISTEN": f"{self.listen}:{self.door}",
            "HOLDFAST_AGENTS_URL": self.url,
            "HOLDFAST_SIGNER": str(self.signer.socket),
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        with (self.home / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log, env=environment)

    def end(self, name: str, by: signal.Signals) -> int:
        process = self.running.pop(name)
        process.send_signal(by)
        try:
            return process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait(10)

    def log(self, name: str) -> str:
        path = self.home / f"{name}.log"
        return path.read_text() if path.exists() else ""

    # -- what is seen ------------------------------------------------------------------------------------------------

    def in_sync(self, release: str) -> bool:
        return set(self.verdicts().values()) == {"in sync"} and all(
            self.serves(target).startswith(f"shop {release} ") for target in self.ports
        )

    def signed(self) -> list[dict[str, Any]]:
        from api.signer import ledger

        return [dict(line) for line in ledger.lines(self.signer.ledger) if line["outcome"] != "opened"]
