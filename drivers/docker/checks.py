"""The health of one container: its own check's word first, then the declared check, asked at the container itself."""

from __future__ import annotations

from desired_state.health import CommandCheck, Health, HttpCheck, TcpCheck
from drivers import probes
from drivers.docker import look
from drivers.docker.compare import Inspected
from drivers.docker.connection import Connection
from drivers.docker.engine import Engine
from drivers.errors import DriverError, Refused
from stickers.observation import Health as Answer
from stickers.observation import HealthState


async def ask(engine: Engine, container: Inspected, rules: Health | None) -> Answer:
    """One answer of this container and no other: the question goes to the address that the engine has given it."""
    own = look.runtime_health(container["State"])
    if own is not None and own.state is not HealthState.HEALTHY:
        return own
    if rules is None or not container["State"].get("Running"):
        return own or look.UNCHECKED
    if isinstance(rules.check, CommandCheck):
        return await _command(engine, container, rules.check, rules.timeout.total_seconds())
    place = address(container, rules.check, engine.connection)
    if isinstance(place, str):
        return Answer(state=HealthState.UNKNOWN, detail=place)
    return await probes.ask(rules.check, *place, rules.timeout, engine.connected)


def address(container: Inspected, check: HttpCheck | TcpCheck, connection: Connection) -> tuple[str, int] | str:
    """Where the container's port is reached from here, or a sentence saying why it is not."""
    if connection.published_at is not None:
        bound = (container["NetworkSettings"].get("Ports") or {}).get(f"{check.port}/tcp") or ()
        ports = [int(one["HostPort"]) for one in bound if one.get("HostPort")]
        return (connection.published_at, ports[0]) if ports else f"port {check.port} is not published"
    networks = container["NetworkSettings"].get("Networks") or {}
    if "host" in networks:
        return "127.0.0.1", check.port
    found = [network["IPAddress"] for _, network in sorted(networks.items()) if network.get("IPAddress")]
    return (found[0], check.port) if found else "the container has no address on any network"


async def _command(engine: Engine, container: Inspected, check: CommandCheck, timeout: float) -> Answer:
    try:
        code = await engine.run(container["Id"], check.argv, timeout)
    except Refused:
        return Answer(state=HealthState.UNHEALTHY, detail="command cannot be run in the container")
    except DriverError as error:  # the container may have ended in this moment
        return Answer(state=HealthState.UNKNOWN, detail=f"command could not be asked for: {error}")
    if code is None:
        return Answer(state=HealthState.UNHEALTHY, detail=f"command did not end within {timeout:g} s")
    if code != 0:
        return Answer(state=HealthState.UNHEALTHY, detail=f"command exited with {code}")
    return Answer(state=HealthState.HEALTHY, detail=str(check))
