"""Who answers to a placement's name on its networks, and what two containers cannot both hold."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import anyio

from desired_state.model import Placement
from drivers.docker import compare
from drivers.docker.compare import Inspected
from drivers.docker.engine import Engine
from drivers.errors import Refused, Retryable

_NOT_GIVEN: Final = re.compile(r"Bind for \S*:(?P<port>[0-9]{1,5}) failed: port is already allocated")


async def give(engine: Engine, container: Inspected, names: Mapping[str, str]) -> None:
    """The container answers to the name on each network; where it does already it is left alone."""
    have = compare.networks(container, names)
    for network, name in names.items():
        if have.get(network) != name:
            await _reconnect(engine, container, network, [name, *_names(container, network, {name})])


async def take(engine: Engine, container: Inspected, names: Collection[str]) -> bool:
    """The container no longer answers to these names, on any network; whether it did to one."""
    networks = container["NetworkSettings"].get("Networks") or {}
    held = {network: set(endpoint.get("Aliases") or ()).intersection(names) for network, endpoint in networks.items()}
    for network, lost in held.items():
        if lost:
            await _reconnect(engine, container, network, _names(container, network, lost))
    return any(held.values())


async def _reconnect(engine: Engine, container: Inspected, network: str, names: Sequence[str]) -> None:
    """Off the network and on again under other names, at the same address; never left in between."""
    endpoint = (container["NetworkSettings"].get("Networks") or {}).get(network)
    address = endpoint.get("IPAddress") or None if endpoint else None
    with anyio.CancelScope(shield=True):
        if endpoint is not None:
            await engine.disconnect(container["Id"], network)
        try:
            await engine.connect(container["Id"], network, aliases=names, address=address)
        except Refused:  # the network has no subnet of its own, or somebody has taken the address
            await engine.connect(container["Id"], network, aliases=names)


def _names(container: Inspected, network: str, without: Collection[str]) -> list[str]:
    """The other names it has there, but for those the engine gives by itself."""
    endpoint = (container["NetworkSettings"].get("Networks") or {}).get(network) or {}
    return [name for name in endpoint.get("Aliases") or () if name not in (*without, container["Id"][:12])]


def collide(placement: Placement, container: Inspected) -> bool:
    """Whether the placement needs something that the container holds: a host port, or a volume it writes to."""
    wanted = placement.configuration
    ports = {(port.host, port.protocol) for port in wanted.ports if port.host is not None}
    volumes = {volume.source for volume in wanted.volumes if not volume.read_only}
    return bool(ports & _ports(container) or volumes & _volumes(container))


async def refuse_lost(engine: Engine, refusal: Refused) -> None:
    """`Retryable`, where the engine would not start a container because it keeps its host port for one that is gone.
    An engine that was killed while it started a container does so when it is back, and its next restart mends it
    (moby/libnetwork#1790). Nothing else does: no container could be put back on that port either."""
    wanted = _NOT_GIVEN.search(str(refusal))
    if wanted is None:
        return
    port = int(wanted["port"])
    everyone = await engine.containers({})
    if any(held.get("PublicPort") == port for one in everyone for held in one.get("Ports") or ()):
        return
    raise Retryable(
        f"the engine keeps port {port} of the host for a container that it was starting when it was killed, and gives "
        "it to no other: restart the engine (`systemctl restart docker`), then this is carried on"
    ) from refusal


def _ports(container: Inspected) -> set[tuple[int, str]]:
    """Host ports it has, or asks for. Addresses are not told apart: one of them may mean all."""
    declared = container["HostConfig"].get("PortBindings") or {}
    held = container["NetworkSettings"].get("Ports") or {}
    return {
        (int(binding["HostPort"]), port.partition("/")[2])
        for bound in (declared, held)
        for port, bindings in bound.items()
        for binding in bindings or ()
        if binding.get("HostPort")
    }


def _volumes(container: Inspected) -> set[str]:
    mounts = [mount for mount in container.get("Mounts") or () if mount.get("RW", True)]
    return {str(mount.get("Name") or mount.get("Source")) for mount in mounts}
