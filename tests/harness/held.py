"""A real daemon over documents that a test writes: started, killed, started again, and asked over its socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

from api import keys
from api.client import ask
from api.problem import Problem
from api.settings import Settings
from reconciler import failpoints
from stickers.names import Artifact

PATIENCE: Final = 180.0  # seconds; the machine may be loaded
ENVIRONMENT: Final = "fleet"


class Held:
    """One installation in a directory of its own, with one environment, `fleet`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.settings = Settings(documents=home / "documents", state=home / "state")
        self.settings.documents.mkdir(parents=True)
        self.process: subprocess.Popen[bytes] | None = None
        keys.init(self.settings.keys)

    # -- what is declared -------------------------------------------------------------------------------------------

    def release(self, version: str, components: Mapping[str, Artifact]) -> None:
        artifacts = {name: str(artifact) for name, artifact in components.items()}
        self._write(f"release-{version}", _document("Release", "shop", version=version, components=artifacts))

    def environment(self, version: str, components: Mapping[str, Any], **more: Any) -> None:
        words: dict[str, Any] = {"release": f"shop@{version}", "components": components} | more
        self._write("environment", _document("Environment", ENVIRONMENT, **words))

    def targets(self, targets: Mapping[str, Mapping[str, Any]]) -> None:
        """Name -> what is said of it beside its name and environment."""
        self._write(
            "targets", *(_document("Target", name, environment=ENVIRONMENT, **targets[name]) for name in targets)
        )

    def _write(self, name: str, *documents: Mapping[str, Any]) -> None:
        """In one step, as editors do; JSON is YAML."""
        path = self.settings.documents / f"{name}.yaml"
        path.with_suffix(".tmp").write_text("\n---\n".join(json.dumps(document, indent=1) for document in documents))
        path.with_suffix(".tmp").rename(path)

    # -- the daemon -------------------------------------------------------------------------------------------------

    def command(self, *words: str) -> list[str]:
        where = ["--documents", str(self.settings.documents), "--state", str(self.settings.state)]
        return [sys.executable, "-m", "api.cli.main", *words, *where]

    def start(self, failpoint: str | None = None) -> None:
        """Begin a daemon; with a failpoint it will be dead when it gets there."""
        assert self.process is None
        environment = os.environ | {"HOLDFAST_HOOKS": "on"} | ({failpoints.VARIABLE: failpoint} if failpoint else {})
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command("run"), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    def died(self) -> bool:
        """Wait until the daemon is gone; whether SIGKILL took it."""
        assert self.process is not None
        try:
            return self.process.wait(PATIENCE) == -signal.SIGKILL
        except subprocess.TimeoutExpired:
            return False
        finally:
            self.kill()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
            client.connect(str(self.settings.socket))
            return True
        return False

    # -- what it says -----------------------------------------------------------------------------------------------

    def ask(self, command: str, **arguments: Any) -> Any:
        """What the daemon answers; None while it does not listen."""
        with suppress(Problem):
            return ask(self.settings, command, **arguments) if self.listens() else None
        return None

    def placements(self) -> list[dict[str, Any]]:
        """What is ours; others' containers on the same engine are theirs."""
        answer = self.ask("status", environment=ENVIRONMENT)
        cells = answer["environments"][0]["placements"] if answer else []
        return [cell for cell in cells if cell["verdict"] != "unmanaged"]

    def jobs(self) -> list[dict[str, Any]]:
        """The newest first."""
        answer = self.ask("jobs", limit=100)
        return list(answer["jobs"]) if answer else []

    def in_sync(self, version: str, count: int) -> bool:
        """So many placements wear a valid sticker of the release, as it was declared, and no job is under way."""
        cells = self.placements()
        right = ("in sync", "valid", f"shop@{version}")
        fine = [cell for cell in cells if (cell["verdict"], cell["trust"], cell["release"]) == right]
        return len(fine) == len(cells) == count and all(job["ok"] is not None for job in self.jobs())

    @property
    def installation(self) -> str | None:
        """Its id, as labels bear it; None when no daemon has ever run."""
        database = self.settings.state / "holdfast.db"
        with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            row = connection.execute("SELECT id FROM installation").fetchone()
            return str(row[0]) if row else None
        return None

    def wait(self, what: str, ready: Callable[[], bool], seconds: float = PATIENCE) -> float:
        """Until it is so; the seconds it took."""
        began = time.monotonic()
        while not ready():
            if time.monotonic() - began > seconds:
                raise AssertionError(f"waited {seconds:g} s for {what}: {self.placements()} {self.jobs()}\n{self.log}")
            time.sleep(0.2)  # asking costs the daemon what it needs for its work
        return time.monotonic() - began

    @property
    def log(self) -> str:
        return (self.home / "log").read_text(errors="replace")[-3000:]


def _document(kind: str, name: str, **words: Any) -> dict[str, Any]:
    return {"apiVersion": "holdfast/v1", "kind": kind, "name": name, **words}
