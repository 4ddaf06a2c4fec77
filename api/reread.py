"""Files that are read again while the daemon runs: soon after they have changed, and whenever somebody asks.

What cannot be taken leaves what was taken last in force, and is told.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import structlog
from anyio import to_thread

from api.problem import Problem

LOOKS: Final = 2.0  # seconds between two looks at the files

State = tuple[object, ...]


@dataclass(slots=True, kw_only=True, eq=False)
class Reread:
    """Files that mean something together, and what is done when they say something else. `told` is handed why that
    could not be done, and None once it could."""

    name: str
    files: Sequence[Path]
    take: Callable[[], Awaitable[None]]
    told: Callable[[str | None], None] = lambda _: None
    taken: State = ()
    seen: State = field(default=())


class Rereading:
    """Looks at all of them, one after the other."""

    def __init__(self, *files: Reread, looks: float = LOOKS) -> None:
        self._files, self._looks = files, looks
        self._asked = anyio.Event()
        for each in files:
            each.taken = each.seen = _state(each.files)

    def ask(self) -> None:
        """Read all of them now, changed or not."""
        self._asked.set()

    async def run(self) -> None:
        while True:
            with anyio.move_on_after(self._looks):
                await self._asked.wait()
            asked = self._asked.is_set()
            if asked:
                self._asked = anyio.Event()
            for each in self._files:
                await self._look(each, asked)

    async def _look(self, each: Reread, asked: bool) -> None:
        """A file that changed is left to whoever writes it until the next look: half a file may mean something."""
        state = await to_thread.run_sync(_state, each.files)
        rests = state == each.seen
        each.seen = state
        if asked or (rests and state != each.taken):
            each.taken = state
            await self._take(each)

    async def _take(self, each: Reread) -> None:
        log = structlog.get_logger()
        try:
            await each.take()
        except (Problem, OSError) as error:  # what is wrong with a certificate is an OSError too
            each.told(str(error))
            log.warning("not_read_again", what=each.name, problem=str(error)[:400])
        else:
            each.told(None)
            log.info("read_again", what=each.name)


def _state(files: Sequence[Path]) -> State:
    """Differs when what the files say may do."""
    found: list[object] = []
    for file in files:
        try:
            stat = os.stat(file)
            found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        except OSError as error:
            found.append(error.errno)
    return tuple(found)
