"""The compose program, version 2 as plugin of `docker` or by itself, or version 1: found once, and told of one project
and one lock file at a time.

It runs in a session of its own and is seen to its end, bounded by a limit of its own, so that no late effect of it
falls into somebody else's action. It inherits the hold on the project: when we die it goes on, and nobody acts until it
has ended. Values of secrets are variables of its environment and stand in no file and on no command line.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import anyio

from drivers.compose.folder import Folder
from drivers.errors import OutcomeUnknown, Refused

LIMIT: Final = 180.0  # seconds for one run; stopping adds the graces
ASKED: Final = 20.0  # seconds for the program to say its version
KNOWN: Final = ("PATH", "HOME", "XDG_RUNTIME_DIR", "TMPDIR")  # of our own environment; no COMPOSE_ or DOCKER_ variable

_VERSION: Final = re.compile(r"v?(\d{1,4})\.(\d{1,4})\.(\d{1,6})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    argv: tuple[str, ...]
    version: tuple[int, int, int]

    def up(self, folder: Folder, services: Sequence[str], *, start: bool) -> list[str]:
        """Brings these services, and no others, to what the lock says; what is as it says is left alone."""
        words = ["up", "--no-deps", "--no-build", "--detach" if start else "--no-start"]
        pull = ["--pull", "never"] if self.version >= (2, 0, 0) else []  # the image is there, verified
        return [*self._project(folder), *words, *pull, *services]

    def down(self, folder: Folder) -> list[str]:
        """Takes the project's own networks away; volumes stay."""
        return [*self._project(folder), "down"]

    def _project(self, folder: Folder) -> list[str]:
        where = ["--file", str(folder.lock), "--project-directory", str(folder.path)]
        return [*self.argv, "--ansi", "never", "--project-name", folder.place.project, *where]


async def found(program: str | None) -> Program:
    """The program that is there; `Refused` says what is missing."""
    for argv in _candidates(program):
        with suppress(OSError, TimeoutError):
            with anyio.fail_after(ASKED):
                answer = await anyio.run_process(
                    [*argv, "version", "--short"], stdin=subprocess.DEVNULL, check=False, env=_environment({})
                )
            told = _VERSION.match(answer.stdout.decode(errors="replace").strip())
            if answer.returncode == 0 and told is not None:
                return Program(argv=argv, version=(int(told[1]), int(told[2]), int(told[3])))
    missing = f"{program} is not" if program else "neither docker compose nor docker-compose is"
    raise Refused(f"{missing} a compose program that can be run here: install one, or name it as program")


def _candidates(program: str | None) -> Iterator[tuple[str, ...]]:
    if program is not None:
        yield (program,)
        return
    if shutil.which("docker"):
        yield ("docker", "compose")
    if shutil.which("docker-compose"):
        yield ("docker-compose",)


async def run(
    argv: Sequence[str], folder: Folder, *, engine: str, values: Mapping[str, str], hold: int, grace: float = 0.0
) -> str | None:
    """Run it to its end; None when it went well, else its own words. Out of its limit it is ended: `OutcomeUnknown`."""
    environment = _environment(values) | {"DOCKER_HOST": engine}
    with anyio.CancelScope(shield=True), folder.log.open("wb") as log:
        process = await anyio.open_process(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=log,  # a file, since a pipe would break, and the program with it, when we are gone
            stderr=log,
            cwd=folder.path,
            env=environment,
            start_new_session=True,
            pass_fds=(hold,),
        )
        with anyio.move_on_after(LIMIT + grace):
            if await process.wait() == 0:
                return None
            return _words(folder.said(), values) or f"compose ended with {process.returncode}"
        await _end(process.pid, process)
    raise OutcomeUnknown(f"compose did not end within {LIMIT + grace:g} s and was ended")


async def _end(group: int, process: anyio.abc.Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(group, number)
        with anyio.move_on_after(10):
            await process.wait()
            return


def _environment(values: Mapping[str, str]) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KNOWN if name in os.environ}
    return kept | {"LANG": "C.UTF-8", "COMPOSE_IGNORE_ORPHANS": "1"} | dict(values)


def _words(said: str, values: Mapping[str, str]) -> str:
    """The last lines that say something, in one, without any value of a secret."""
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    text = "; ".join(lines[-3:])
    for value in values.values():
        text = text.replace(value, "…") if value else text
    return text[-300:]
