"""What an engine lacks before anything is changed there: can it be reached, is it new enough, has it room, does it know
the time, and can it fetch what is declared. Only asks."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import anyio
import anyio.to_thread

from drivers import diagnosis
from drivers.contract import Diagnosis, Grade, Look, Tools
from drivers.diagnosis import missing, ok, unknown, warning
from drivers.docker import files, look
from drivers.docker.connection import Connection
from drivers.docker.engine import OLDEST, Engine
from drivers.errors import DriverError, Refused
from drivers.oci.credentials import Credentials
from stickers.names import Artifact

Room = Callable[[str], Awaitable[Mapping[str, int]]]  # of the file system at a path

PING: Final = 5.0  # seconds
PLAIN_DRIVERS: Final = ("overlay2", "overlayfs", "btrfs", "zfs", "fuse-overlayfs", "windowsfilter")
COPYING: Final = "vfs"
TOGETHER: Final = 4  # registries asked at once, by one engine

_REQUEST: Final = b"GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_SOCKET: Final[dict[type, tuple[str, str]]] = {
    FileNotFoundError: ("there is no socket", "install Docker, start it (`systemctl start docker`), or mend `engine`"),
    ConnectionRefusedError: ("nobody listens", "start Docker (`systemctl start docker`), or mend `engine`"),
    PermissionError: ("we may not speak to it", "run as root or as a member of the group that owns the socket"),
}


async def examine(
    engine: Engine, one: Look, tools: Tools, declared: Connection | None = None, room: Room | None = None
) -> tuple[Diagnosis, ...]:
    """Everything about one engine and the placements declared on it. When it cannot be reached, only that. `declared`:
    how it is said to be reached, where a tunnel leads to it; `room` asks its host how much there is."""
    way = declared or engine.connection
    reached = await _reached(way) if _is_direct(way) else _by_way(way)
    if reached.grade is not Grade.OK:
        return (reached,)
    before = tools.now()
    try:
        about = await engine.about()
    except DriverError as error:
        return (unknown("engine", f"it was asked and does not answer: {error}", "look at the engine's log"),)
    after = tools.now()
    fetched = await _fetched(engine, one, tools)
    found = (_version(about), _storage(about), await _disk(way, about, room), _clock(about, before, after))
    return (reached, *found, *_limits(about, one), *_secrets(engine, one), *fetched)


def _secrets(engine: Engine, one: Look) -> tuple[Diagnosis, ...]:
    """Where secrets that are declared as files would be."""
    if not any(placement.configuration.secrets for placement in one.placements):
        return ()
    kind, directory = files.lies_on(engine), engine.connection.secrets_directory
    if kind is None:
        remedy = f"see there that `findmnt -T {directory}` says tmpfs"
        return (unknown("secrets", f"whether {directory} of the engine's host is in memory is not seen here", remedy),)
    if kind not in files.IN_MEMORY:
        remedy = "mount a tmpfs there, or let connection.secrets_directory name one"
        return (missing("secrets", f"{directory} is on {kind}, not in memory", remedy),)
    return (ok("secrets", f"{directory} is in memory ({kind})"),)


# -- reaching it ----------------------------------------------------------------------------------------------------


def _is_direct(connection: Connection) -> bool:
    """Whether its socket is one of this host's, or speaks TLS: then it can be tried apart from the SDK."""
    return connection.ssh is None


def _by_way(connection: Connection) -> Diagnosis:
    return ok("engine", f"{connection.engine} is asked by way of {connection.via}")


async def _reached(connection: Connection) -> Diagnosis:
    """A ping of our own, so that what stands in the way has its name."""
    where = connection.engine
    try:
        with anyio.fail_after(PING):
            async with _opened(connection) as (reader, writer):
                writer.write(_REQUEST)
                status = (await reader.readline()).split()
    except TimeoutError:
        return unknown(
            "engine", f"{where} does not answer within {PING:g} s", "look at the engine and what lies between"
        )
    except ssl.SSLError as error:
        said = f"{where}: TLS fails: {getattr(error, 'verify_message', '') or error.reason or 'the handshake ended'}"
        return missing("engine", said, "name the right files in `tls`: ca, cert and key")
    except (OSError, ValueError) as error:
        return _unreached(connection, error)
    if len(status) < 2 or status[0][:5] != b"HTTP/" or status[1] != b"200":
        return missing("engine", f"what answers at {where} is no Docker engine", "mend `engine`")
    return ok("engine", f"{where} answers")


@asynccontextmanager
async def _opened(connection: Connection) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    if connection.local:
        reader, writer = await asyncio.open_unix_connection(connection.engine.removeprefix("unix://"))
    else:
        host, _, port = connection.engine.removeprefix("tcp://").rpartition(":")
        secured = await anyio.to_thread.run_sync(_secured, connection, abandon_on_cancel=True)
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=secured)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def _secured(connection: Connection) -> ssl.SSLContext:
    assert connection.tls is not None
    context = ssl.create_default_context(cafile=connection.tls.ca)
    context.load_cert_chain(connection.tls.cert, connection.tls.key)
    return context


def _unreached(connection: Connection, error: Exception) -> Diagnosis:
    where = connection.engine
    if isinstance(error, socket.gaierror):
        return unknown(
            "engine", f"{where}: the name of its host is not known here", "mend `engine`, or the name service"
        )
    said, remedy = _SOCKET.get(type(error), ("", "")) if connection.local else ("", "")
    if said:
        return missing("engine", f"{where}: {said}", remedy)
    file = getattr(error, "filename", None)
    if not connection.local and file is None and isinstance(error, FileNotFoundError | PermissionError):
        return missing("engine", "a file of `tls` cannot be read", "name the right files in `tls`: ca, cert and key")
    reason = getattr(error, "strerror", None) or type(error).__name__
    return unknown("engine", f"{where}: {reason}", "look at the engine and what lies between")


# -- what it says of itself -----------------------------------------------------------------------------------------


def _version(about: Mapping[str, Any]) -> Diagnosis:
    spoken, engine = str(about.get("ApiVersion", "0")), str(about.get("ServerVersion", "of an unknown version"))
    said = f"Docker {engine} speaks API {spoken}"
    if _numbers(spoken) < _numbers(OLDEST):
        return missing("version", f"{said}; {OLDEST} is needed", "update Docker to 20.10 or newer")
    return ok("version", said)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))


def _storage(about: Mapping[str, Any]) -> Diagnosis:
    driver = str(about.get("Driver", "unknown"))
    if driver == COPYING:
        remedy = "use overlay2 (`storage-driver` in daemon.json) on a file system that takes it"
        return warning("storage", "vfs copies every layer whole: slow, and many times the room", remedy)
    if driver not in PLAIN_DRIVERS:
        return warning("storage", f"{driver} is not what engines use today", "use overlay2")
    return ok("storage", driver)


async def _disk(connection: Connection, about: Mapping[str, Any], room: Room | None = None) -> Diagnosis:
    root = str(about.get("DockerRootDir") or "")
    if root and room is not None:
        return diagnosis.disk(root, **await room(root))
    if not (connection.local and _is_direct(connection)) or not root:
        return unknown(
            "disk", "the engine does not tell how much room it has", f"look on its host: df -h {root}".rstrip()
        )
    try:
        found = await anyio.to_thread.run_sync(shutil.disk_usage, root, abandon_on_cancel=True)
    except OSError as error:
        return unknown("disk", f"{root}: {error.strerror}", f"look as root: df -h {root}")
    return diagnosis.disk(root, free=found.free, size=found.total)


def _clock(about: Mapping[str, Any], before: datetime, after: datetime) -> Diagnosis:
    told = look.moment(about.get("SystemTime"))
    if told is None:
        try:
            told = parsedate_to_datetime(str(about.get("Date")))  # in whole seconds
        except ValueError:
            return unknown("clock", "the engine does not tell its time")
    return diagnosis.clock(told.astimezone(UTC), before, after)


def _limits(about: Mapping[str, Any], one: Look) -> tuple[Diagnosis, ...]:
    """Limits that are declared and that the engine's kernel would not hold."""
    wanted = [placement.configuration for placement in one.placements]
    lacking = []
    if any(each.memory for each in wanted) and about.get("MemoryLimit") is False:
        lacking.append("memory")
    if any(each.cpus for each in wanted) and about.get("CpuCfsQuota") is False:
        lacking.append("cpus")
    if not lacking:
        return ()
    remedy = "boot the host with those cgroup controllers, or take the limits out of the documents"
    return (missing("limits", f"{' and '.join(lacking)} cannot be limited on this engine", remedy),)


# -- what it has to fetch -------------------------------------------------------------------------------------------


async def _fetched(engine: Engine, one: Look, tools: Tools) -> list[Diagnosis]:
    """One diagnosis for each artifact: it is there, or the engine can fetch it."""
    credentials = {placement.artifact: placement.configuration.registry_credentials for placement in one.placements}
    found: dict[Artifact, Diagnosis] = {}
    limiter = anyio.CapacityLimiter(TOGETHER)

    async def ask(artifact: Artifact) -> None:
        async with limiter:
            try:
                secret = credentials[artifact]
                login = Credentials.parse(await tools.secret(secret)) if secret else None
                found[artifact] = await _one(engine, artifact, login)
            except Refused as error:
                found[artifact] = missing("artifact", f"{_short(artifact)}: {error}", "mend `registry_credentials`")
            except DriverError as error:
                found[artifact] = unknown("artifact", f"{_short(artifact)}: {error}")

    async with anyio.create_task_group() as group:
        for artifact in credentials:
            group.start_soon(ask, artifact)
    return [found[artifact] for artifact in credentials]


async def _one(engine: Engine, artifact: Artifact, login: Credentials | None) -> Diagnosis:
    if await engine.image(str(artifact)) is not None:
        return ok("artifact", f"{_short(artifact)} is on the engine")
    said = {"username": login.username, "password": login.password} if login else None
    try:
        await engine.distribution(artifact.repository, artifact.digest, said)
    except Refused as error:
        remedy = "push it, mend its digest in the release, or declare `registry_credentials`"
        return missing("artifact", f"the engine cannot have {_short(artifact)}: {error}", remedy)
    except DriverError as error:
        remedy = "look whether the engine's host reaches the registry"
        return unknown("artifact", f"the engine could not ask for {_short(artifact)}: {error}", remedy)
    return ok("artifact", f"the engine can fetch {_short(artifact)}")


def _short(artifact: Artifact) -> str:
    return f"{artifact.repository}@{artifact.digest[:19]}"
