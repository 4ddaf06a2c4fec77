"""Secrets as files: in the memory of the engine's host, seen by one container, and put there through the engine alone.

A directory of the host that is in memory (`connection.secrets_directory`) is filled by unpacking an archive into a
container that has it mounted and is never started. So nothing runs for it, the image needs no shell, and it is the
same over a socket, TLS and SSH. The workload has each file mounted read-only at its own place.

    /run/holdfast/                          of the engine's host
        holdfast-web-1-api-…-3f9c21aa7b04/  0700, root's: one for each container, named as it is
            db-password                     0444, which only the container's own processes get to

`docker inspect` shows the paths and nothing of what they hold; who may ask the engine can read them all the same, as it
can do anything on its host. The files outlive restarts of the container and of the engine. They do not outlive a boot:
the engine cannot start the container then, and the reconciler, which sees it stopped, puts them there again. They go
with their container; of an action that crashed before it had made one, they stay until the next boot, root's alone.
"""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from desired_state.model import Placement
from drivers.docker import render
from drivers.docker.compare import Inspected
from drivers.docker.engine import Engine, Missing, Taken
from drivers.errors import InvalidAction
from stickers.names import InstallationId, PlacementId

IN_MEMORY: Final = ("tmpfs", "ramfs")


class Room:
    """The directory, for one placement."""

    def __init__(self, engine: Engine, installation: InstallationId, id: PlacementId) -> None:
        self._engine, self._installation, self._id = engine, installation, id

    async def fill(self, image: str, folder: str, values: Mapping[str, str]) -> None:
        """These values and no others are in the folder, by the names of their files."""
        await self._unpack(image, folder, _filled(os.path.basename(folder), values))

    async def clear(self, image: str, folder: str) -> None:
        """Nothing is in the folder any more. What is left of it is an empty file of its name, until the next boot.
        Where somebody took the image away nothing can be done from here, and the container goes all the same."""
        with contextlib.suppress(Missing):
            await self._unpack(image, folder, _cleared(os.path.basename(folder)))

    async def _unpack(self, image: str, folder: str, archive: bytes) -> None:
        body = render.filler(self._installation, self._id, image, os.path.dirname(folder))
        made = await self._made(body)
        try:
            await self._engine.put(made, render.ROOM, archive)
        finally:
            await self._engine.remove(made)

    async def _made(self, body: render.Body) -> str:
        """What an interrupted action left under that name has another directory, or another image."""
        with contextlib.suppress(Taken):
            return await self._engine.create(body)
        await self._engine.remove(body.name)
        return await self._engine.create(body)


def sources(container: Inspected, wanted: Mapping[str, object]) -> dict[str, str]:
    """The file of the host that is behind each path of a secret."""
    mounts = {mount["Destination"]: mount.get("Source", "") for mount in container.get("Mounts") or ()}
    return {path: mounts[path] for path in wanted if mounts.get(path)}


def lies_on(engine: Engine) -> str | None:
    """The kind of the file system that the directory is on; None where that cannot be seen from here."""
    if not engine.connection.local or engine.connected is not None:
        return None
    return file_system(engine.connection.secrets_directory, Path("/proc/self/mounts").read_text())


def refuse_disk(placement: Placement, engine: Engine) -> None:
    """Where the directory can be seen from here, it has to be in memory."""
    kind, directory = lies_on(engine), engine.connection.secrets_directory
    if kind is not None and kind not in IN_MEMORY:
        raise InvalidAction(
            f"{placement.id}: secrets: {directory} is on {kind}, not in memory: mount a tmpfs there, or let "
            "connection.secrets_directory name one"
        )


def refuse_windows(placement: Placement, image: Inspected) -> None:
    """Windows maps directories alone into a container, and has no file system in memory."""
    if placement.configuration.secrets and image.get("Os") == "windows":
        raise InvalidAction(
            f"{placement.id}: secrets: containers of Windows have none as files: no single file is mapped into them, "
            "and nothing there is in memory; give them in environment"
        )


def file_system(path: str, mounts: str) -> str:
    """The kind of the file system that a path is on, or would be; of two at one place the last is seen."""
    found, depth = "nothing", -1
    for line in mounts.splitlines():
        _, place, kind, *_ = line.split(" ")
        above = place.encode().decode("unicode_escape").rstrip("/")
        if (path == above or path.startswith(above + "/")) and len(above) >= depth:
            found, depth = kind, len(above)
    return found


def _filled(name: str, values: Mapping[str, str]) -> bytes:
    """Made anew from nothing: a name that holds anything but a directory is cleared first."""
    folder = tarfile.TarInfo(name)
    folder.type, folder.mode = tarfile.DIRTYPE, 0o700
    files = [(f"{name}/{file}", value.encode(), 0o444) for file, value in sorted(values.items())]
    return _archive([folder], files)


def _cleared(name: str) -> bytes:
    """A file in place of a directory: the engine takes that away, with all that is in it."""
    return _archive([], [(name, b"", 0o400)])


def _archive(folders: list[tarfile.TarInfo], files: list[tuple[str, bytes, int]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for folder in folders:
            archive.addfile(folder)
        for name, content, mode in files:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()
