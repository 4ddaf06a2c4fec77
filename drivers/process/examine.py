"""What a plain host lacks before anything is changed there: Python, a root of its own, room, the time, and what is to
be brought there. Only asks."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread

from desired_state.model import Placement
from drivers import diagnosis
from drivers.contract import Diagnosis, Look, Tools
from drivers.diagnosis import missing, ok, unknown
from drivers.errors import DriverError, Refused
from drivers.oci import layout, manifest
from drivers.oci.manifest import Platform
from drivers.process.connection import Connection
from drivers.process.line import Sees

TOGETHER: Final = 4  # artifacts asked for at once


async def examine(line: Sees, connection: Connection, one: Look, tools: Tools) -> tuple[Diagnosis, ...]:
    """Everything about one target and the placements declared on it. When its host cannot be asked, only that."""
    where = {"root": connection.root, "installation": str(tools.installation), "target": str(one.target.id)}
    before = tools.now()
    try:
        facts = await line.see("examine", where, python=connection.python, sandbox=connection.hooks)
    except DriverError as error:
        return (unknown("host", str(error)),)
    after = tools.now()
    told = datetime.fromtimestamp(facts["time"], UTC)
    found = (
        _python(facts["python"], connection),
        root(facts, where),
        diagnosis.disk(connection.root, **facts["disk"]),
    )
    return (
        *found,
        diagnosis.clock(told, before, after),
        *_keeper(facts.get("keeper")),
        *_users(facts, one),
        *_memory(facts, one),
        *hooks(connection.hooks, facts["sandbox"]),
        *await _artifacts(connection, one, tools, manifest.machine_of(facts["machine"])),
    )


def _python(found: dict[str, Any], connection: Connection) -> Diagnosis:
    remedy = "install Python 3.8 or newer there, and name it in `python`"
    if found["path"] is None:
        return missing("python", f"there is no program {connection.python} on the target", remedy)
    if found["version"] is None:
        return missing("python", f"{found['path']} is no Python that runs", remedy)
    return diagnosis.python(found["path"], found["version"])


def root(facts: dict[str, Any], where: dict[str, str]) -> Diagnosis:
    """Whether the target's own directory can be had."""
    found, path = facts["root"], where["root"]
    if not found["folder"]:
        return missing("root", f"{found['nearest']} is no directory", "take it away, or declare another `root`")
    if not found["writable"]:
        remedy = f"as root: install -d -o {facts['user']} {path}"
        return missing("root", f"user {facts['user']} may not write in {found['nearest']}", remedy)
    if found["owner"] is not None:
        return _owned(found["owner"], where)
    if found["strangers"]:
        said = f"{path} is not empty and nobody's: it holds {found['strangers'][0][:40]}"
        return missing("root", said, "declare another `root`, or move what is there")
    return ok("root", f"{path} is ours to take" if found["there"] else f"{path} can be made")


def _owned(owner: list[str], where: dict[str, str]) -> Diagnosis:
    if owner == [where["installation"], where["target"]]:
        return ok("root", f"{where['root']} is this target's")
    said = f"{where['root']} belongs to target {owner[1]} of installation {owner[0]}"
    return missing("root", said, "declare another `root`: no two targets share one")


def _users(facts: dict[str, Any], one: Look) -> tuple[Diagnosis, ...]:
    """Users that are declared, where only root can become them."""
    others = sorted({str(each.configuration.user) for each in one.placements if each.configuration.user})
    if not others or facts["user"] == 0:
        return ()
    said = f"components are to run as {', '.join(others)}, and we are user {facts['user']} and not root"
    return (missing("user", said, "act on the target as root, or take `user` out of the documents"),)


def _memory(facts: dict[str, Any], one: Look) -> tuple[Diagnosis, ...]:
    """Where secrets that are declared as files would be; systemd has a place of its own for them."""
    if facts.get("keeper") is not None or not any(each.configuration.secrets for each in one.placements):
        return ()
    if facts["memory"] is not None:
        return (ok("secrets", f"files are kept in memory, in {facts['memory']}"),)
    said = "secrets are declared as files, and there is no directory in memory for them"
    return (missing("secrets", said, "mount a tmpfs at /run or /dev/shm there, or give the secrets in environment"),)


def _keeper(found: dict[str, Any] | None) -> tuple[Diagnosis, ...]:
    """What keeps workloads there, where that is not a supervisor of our own."""
    if found is None:
        return ()
    if found["lacks"] is not None:
        return (missing(found["name"], found["lacks"], "choose another target, or the driver `process`"),)
    return (ok(found["name"], f"{found['name']} {found['version']} keeps the workloads"),)


def hooks(allowed: bool, sandboxed: bool | None) -> tuple[Diagnosis, ...]:
    """What holds hooks on the target back, where they are allowed there."""
    if not allowed:
        return ()
    if sandboxed:
        return (ok("hooks", "run in bubblewrap on the target: the file system read-only but /tmp"),)
    said = "hooks on the target run as whoever we are there, and only their deadline holds them"
    return (diagnosis.warning("hooks", said, "install bubblewrap on the target, where user namespaces are allowed"),)


# -- what has to be brought -----------------------------------------------------------------------------------------


async def _artifacts(connection: Connection, one: Look, tools: Tools, machine: Platform) -> list[Diagnosis]:
    placements = {placement.artifact: placement for placement in one.placements}
    found: dict[Any, Diagnosis] = {}
    limiter = anyio.CapacityLimiter(TOGETHER)

    async def ask(placement: Placement) -> None:
        async with limiter:
            found[placement.artifact] = await _artifact(connection, placement, tools, machine)

    async with anyio.create_task_group() as group:
        for placement in placements.values():
            group.start_soon(ask, placement)
    return [found[artifact] for artifact in placements]


async def _artifact(connection: Connection, placement: Placement, tools: Tools, machine: Platform) -> Diagnosis:
    artifact = placement.artifact
    said = f"{artifact.repository}@{artifact.digest[:19]}"
    try:
        if connection.artifacts == "registry":
            await _from_registry(placement, tools, machine)
        else:
            await anyio.to_thread.run_sync(
                partial(_from_layout, connection, placement, machine), abandon_on_cancel=True
            )
    except Refused as error:
        remedy = "push or pack it, or mend its digest in the release, `artifacts` or `registry_credentials`"
        return missing("artifact", f"{said} cannot be had: {error}", remedy)
    except DriverError as error:
        return unknown("artifact", f"{said}: {error}", "look whether the registry is reached from here")
    return ok("artifact", f"{said} can be had from {connection.artifacts}")


async def _from_registry(placement: Placement, tools: Tools, machine: Platform) -> None:
    from drivers.oci.credentials import Credentials
    from drivers.oci.registry import Access, Registry  # 140 ms, only where a registry is asked

    secret = placement.configuration.registry_credentials
    login = Credentials.parse(await tools.secret(secret)) if secret else None
    async with Registry(placement.artifact.repository, Access(credentials=login)) as registry:
        await registry.resolve(placement.artifact.digest, machine)


def _from_layout(connection: Connection, placement: Placement, machine: Platform) -> None:
    kind, _, path = connection.artifacts.partition(":")
    try:
        images = layout.directory(Path(path)) if kind == "oci" else layout.archive(Path(path))
        images.resolve(placement.artifact.digest, machine)
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from None
