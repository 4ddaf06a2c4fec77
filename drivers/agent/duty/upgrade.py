"""The agent in place of itself, by digest, and back again where the new one does not report.

    directory/versions/<digest>/      each version as it was unpacked, with the program holdfast-agent in it
    directory/current                 the link to the one that runs, and that is started with the host
    directory/trial.json              an upgrade on its way

The former one stays as the watcher: it lets go of everything, starts the new one beside itself, and waits until that
has been welcomed by a server. Only then is the link switched, and the former one becomes the new one. Whatever happens
before, a crash, a silence, the end of the watcher or of the host, the link still leads to the former one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import anyio
import anyio.to_thread

from drivers.agent import protocol
from drivers.agent.duty.carry import Done, Job
from drivers.agent.duty.settings import UpgradeFrom
from drivers.agent.protocol import Upgrade
from drivers.errors import InvalidAction, Refused
from drivers.process import host as files
from stickers.names import Artifact, InvalidName

PROGRAM: Final = "holdfast-agent"
VARIABLE: Final = "HOLDFAST_AGENT_TRIAL"  # tells the new one that it is being tried, and for which task
TRYING, REPORTED, FAILED = "trying", "reported", "failed"
ENDS_WITHIN: Final = 20.0  # seconds that the new one has to drain, before it is started for good
PAUSE: Final = 0.1
LARGEST: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One upgrade on its way, for the task `task`."""

    task: str
    to: str  # the directory of the new version
    version: str
    state: str = TRYING
    why: str = ""


class Upgrades:
    """What the verb does. `leave` has this process let go of everything and watch over the trial; `welcomed` waits
    until a server has welcomed this process."""

    def __init__(
        self, settings: UpgradeFrom, leave: Callable[[Trial], None], welcomed: Callable[[], Any], environ: Any = None
    ) -> None:
        self._settings, self._leave, self._welcomed = settings, leave, welcomed
        self._environ = os.environ if environ is None else environ
        self._place = Place(Path(settings.directory))

    async def upgrade(self, job: Job) -> Done:
        asked = job.work
        assert isinstance(asked, Upgrade)
        trial = self._place.trial() if job.again else None
        if trial is not None and trial.task == job.task.id:
            return await self._came_of(trial)
        trial = Trial(task=job.task.id, to=str(await self._unpacked(asked)), version=asked.version)
        self._place.keep(trial)
        self._leave(trial)
        await anyio.sleep_forever()  # the next run answers
        raise AssertionError

    async def _came_of(self, trial: Trial) -> Done:
        """What has become of it, by the word of whoever watched."""
        if trial.state == TRYING and self._environ.get(VARIABLE) == trial.task:
            await self._welcomed()
            self._place.keep(replace(trial, state=REPORTED))
            await anyio.sleep_forever()
        self._place.forget()
        if trial.state == REPORTED and self._place.current() == trial.to:
            await anyio.to_thread.run_sync(self._place.collect)
            return Done(body=protocol.body(trial.version), detail=f"version {trial.version} has reported")
        if trial.state == FAILED:
            raise Refused(f"version {trial.version} was undone: {trial.why}")
        raise Refused(f"version {trial.version} was undone: the host or its agent ended before it had reported")

    async def _unpacked(self, asked: Upgrade) -> Path:
        """The version in a directory of its own, verified; fetched unless it is there."""
        from drivers.oci.artifacts import fetch
        from drivers.oci.unpack import unpack

        try:
            artifact = Artifact.parse(asked.artifact)
        except InvalidName as error:
            raise InvalidAction(f"artifact: {error}") from None
        tree = self._place.version(artifact)
        if tree.exists():
            return tree
        with TemporaryDirectory(dir=self._place.made(), prefix=".new-") as beside:
            layers, unpacked = Path(beside) / "layers", Path(beside) / "tree"
            layers.mkdir()
            fetched = await fetch(artifact, self._settings.artifacts, layers)
            await anyio.to_thread.run_sync(partial(unpack, fetched.layers, unpacked))
            program = unpacked / PROGRAM
            if not program.is_file() or program.is_symlink() or not os.access(program, os.X_OK):
                raise Refused(f"{artifact} holds no program {PROGRAM}")
            await anyio.to_thread.run_sync(files.sync_filesystem, str(unpacked))
            unpacked.rename(tree)
            files.sync_folder(str(tree.parent))
        return tree


class Place:
    """The directory of versions."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._trial, self._current = directory / "trial.json", directory / "current"

    def made(self) -> Path:
        versions = self.directory / "versions"
        versions.mkdir(mode=0o755, parents=True, exist_ok=True)
        return versions

    def version(self, artifact: Artifact) -> Path:
        return self.directory / "versions" / artifact.digest.removeprefix("sha256:")[:24]

    def trial(self) -> Trial | None:
        try:
            return Trial(**json.loads(files.read_file(str(self._trial), LARGEST)[0]))
        except (OSError, ValueError, TypeError):
            return None

    def keep(self, trial: Trial) -> None:
        said = {name: getattr(trial, name) for name in ("task", "to", "version", "state", "why")}
        try:
            files.write_file(str(self._trial), json.dumps(said).encode(), 0o600)
        except OSError as error:
            raise Refused(f"{self.directory}: {error.strerror}") from None

    def forget(self) -> None:
        self._trial.unlink(missing_ok=True)

    def current(self) -> str | None:
        try:
            return str(self.directory / os.readlink(self._current))
        except OSError:
            return None

    def collect(self) -> None:
        """Take away all versions but the one that runs and the youngest beside it."""
        current, versions = self.current(), list((self.directory / "versions").iterdir())
        others = sorted((one for one in versions if str(one) != current), key=lambda one: one.stat().st_mtime)
        for old in others[:-1]:
            files.remove_tree(str(old))

    def switch(self, tree: str) -> None:
        files.point(str(self._current), f"versions/{Path(tree).name}")


def watched(settings: UpgradeFrom, trial: Trial, arguments: Sequence[str]) -> tuple[str, ...]:
    """Start the new one beside this process, which has let go of everything, and wait until it has reported. Answers
    what this process becomes: the new one, or itself again."""
    place, ends = Place(Path(settings.directory)), time.monotonic() + settings.within.total_seconds()
    program = f"{trial.to}/{PROGRAM}"
    try:
        new = subprocess.Popen(
            [program, *arguments],
            env=os.environ | {VARIABLE: trial.task},
            start_new_session=True,
            preexec_fn=_ends_with_us,
        )
    except OSError as error:
        return _undone(place, trial, f"it cannot be started: {error.strerror}")
    with _told_to_end() as told:
        while (found := place.trial()) is None or found.state != REPORTED:
            if told():
                _end(new)
                raise SystemExit(0)  # the host goes down: the former one is started with it
            if new.poll() is not None:
                return _undone(place, trial, f"it ended with {new.returncode} before it had reported")
            if time.monotonic() > ends:
                _end(new)
                return _undone(place, trial, f"it had not reported after {settings.within.total_seconds():g} s")
            time.sleep(PAUSE)
        place.switch(trial.to)
        _end(new)
    return (str(place.directory / "current" / PROGRAM), *arguments)


def _ends_with_us() -> None:
    """Where the watcher is ended, nobody could undo the new one, and the former one is to have its journal."""
    files.prctl(files.PDEATHSIG, signal.SIGKILL)


def _undone(place: Place, trial: Trial, why: str) -> tuple[str, ...]:
    with suppress(Refused):
        place.keep(replace(trial, state=FAILED, why=why))
    return (sys.executable, *sys.orig_argv[1:])


def _end(process: subprocess.Popen[bytes]) -> None:
    """With everything it has started in its own group."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(ENDS_WITHIN)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _told_to_end:  # noqa: N801 - read as a word
    """Whether somebody has asked this process to end."""

    def __enter__(self) -> Callable[[], bool]:
        self._told = False
        self._before = {one: signal.signal(one, self._tell) for one in (signal.SIGTERM, signal.SIGINT)}
        return lambda: self._told

    def _tell(self, number: int, frame: object) -> None:
        self._told = True

    def __exit__(self, *_: object) -> None:
        for one, before in self._before.items():
            signal.signal(one, before)
