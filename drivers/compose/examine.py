"""What a compose project lacks before anything is changed: its engine, a compose program, a place for its files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import anyio.to_thread

from drivers import diagnosis
from drivers.compose import program
from drivers.compose.connection import Connection
from drivers.contract import Diagnosis, Look, Tools
from drivers.diagnosis import missing, ok
from drivers.docker import examine as engines
from drivers.docker.engine import Engine
from drivers.errors import Refused


async def examine(engine: Engine, connection: Connection, one: Look, tools: Tools) -> tuple[Diagnosis, ...]:
    """What there is to say of its engine, and of this host, where the project's files are kept."""
    files = await anyio.to_thread.run_sync(_files, connection.root, abandon_on_cancel=True)
    return (await _program(connection), *files, *await engines.examine(engine, one, tools))


async def _program(connection: Connection) -> Diagnosis:
    try:
        found = await program.found(connection.program)
    except Refused as error:
        return missing("compose", str(error), "install the package docker-compose or docker-compose-plugin")
    return ok("compose", f"{' '.join(found.argv)} {'.'.join(str(part) for part in found.version)}")


def _files(root: str) -> tuple[Diagnosis, ...]:
    place = Path(root)
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return (missing("root", f"{place} is no directory", "take it away, or declare another `root`"),)
    if not os.access(place, os.W_OK | os.X_OK):
        remedy = f"as root: install -d -o {os.geteuid()} {root}"
        return (missing("root", f"user {os.geteuid()} may not write in {place}", remedy),)
    room = shutil.disk_usage(place)
    said = f"{root} is there" if str(place) == root else f"{root} can be made"
    return (ok("root", said), diagnosis.disk(root, free=room.free, size=room.total))
