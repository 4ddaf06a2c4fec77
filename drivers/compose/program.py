"""The compose program, version 2 as plugin of `docker` or by itself, or version 1: found once, and told of one project
and one lock file at a time.

It is run on the engine's own host, in a session of its own, and seen to its end, bounded by a limit of its own, so that
no late effect of it falls into somebody else's action. It inherits the hold on the project: when we die, or the
connection does, it goes on, and nobody acts until it has ended. Values of secrets are variables of its environment and
stand in no file and on no command line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import anyio

from drivers.compose.folder import Folder
from drivers.compose.host import ASKED
from drivers.errors import OutcomeUnknown, Refused
from drivers.process.line import Asks

LIMIT: Final = 180.0  # seconds for one run

_FOUND: Final = (("docker", "compose"), ("docker-compose",))  # where none is named, in this order
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
        where = ["--file", folder.lock, "--project-directory", folder.path]
        return [*self.argv, "--ansi", "never", "--project-name", folder.place.project, *where]


async def found(line: Asks, program: str | None) -> Program:
    """The program that is there; `Refused` says what is missing."""
    candidates = _FOUND if program is None else ((program,),)
    answer = await line.wait("program", {}, candidates=candidates, timeout=ASKED * len(candidates))
    told = _VERSION.match(answer["said"] or "")
    if told is None:
        missing = f"{program} is not" if program else "neither docker compose nor docker-compose is"
        raise Refused(f"{missing} a compose program that can be run there: install one, or name it as program")
    return Program(argv=tuple(answer["argv"]), version=(int(told[1]), int(told[2]), int(told[3])))


async def run(argv: Sequence[str], folder: Folder, *, engine: str, values: Mapping[str, str], key: str) -> str | None:
    """Run it to its end; None when it went well, else its own words. Out of its limit it is ended: `OutcomeUnknown`."""
    ask = {"argv": list(argv), "engine": engine, "values": dict(values), "key": key, "within": LIMIT}
    with anyio.CancelScope(shield=True):
        token = (await folder.line("compose", folder.where, **ask))["token"]
        ended = await folder.line.wait("ran", {}, token=token, timeout=LIMIT)
    if ended["exit_code"] == 0:
        return None
    if ended["exit_code"] is None:
        raise OutcomeUnknown(f"compose did not end within {LIMIT:g} s and was ended")
    return _words(ended["tail"], values) or f"compose {ended['why']}"


def _words(said: str, values: Mapping[str, str]) -> str:
    """The last lines that say something, in one, without any value of a secret."""
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    text = "; ".join(lines[-3:])
    for value in values.values():
        text = text.replace(value, "…") if value else text
    return text[-300:]
