"""The Windows hosts of one driver: one station to each, however many targets lie on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from desired_state.model import Target
from drivers import probes
from drivers.contract import Tools
from drivers.errors import InvalidAction
from drivers.ssh.connection import Ssh
from drivers.windows.wire import Station, over_ssh, over_winrm
from drivers.winrm.connection import WindowsReach, WinRm

if TYPE_CHECKING:
    from drivers.ssh.pool import Pool

R = TypeVar("R", bound=WindowsReach)


class Hosts:
    """All that one driver speaks to."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._stations: dict[WinRm | Ssh, tuple[Station, probes.Connected | None]] = {}
        self._connections: dict[str, tuple[object, WindowsReach]] = {}
        self._pool: Pool | None = None

    def connection(self, target: Target, model: type[R]) -> R:
        told, known = self._connections.get(target.id, (None, None))
        if told is target.connection and isinstance(known, model):
            return known
        try:
            found = model.model_validate(dict(target.connection))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            path = ".".join(str(step) for step in first["loc"])
            raise InvalidAction(f"connection of {target.id}: {path}: {first['msg']}") from None
        self._connections[target.id] = target.connection, found
        return found

    def station(self, reach: WindowsReach) -> tuple[Station, probes.Connected | None]:
        """The host, and the way to its own addresses where the transport has one."""
        key = reach.winrm or reach.ssh
        assert key is not None
        if key not in self._stations:
            self._stations[key] = self._over_ssh(key) if isinstance(key, Ssh) else (over_winrm(key, self._tools), None)
        return self._stations[key]

    def _over_ssh(self, ssh: Ssh) -> tuple[Station, probes.Connected]:
        from drivers.ssh.pool import shared  # asyncssh, only where a host is reached over it
        from drivers.ssh.transport import Host

        if self._pool is None:
            self._pool = shared(self._tools)
        kept = self._pool[ssh]
        return over_ssh(kept), Host(kept).connected

    async def aclose(self) -> None:
        stations, self._stations = list(self._stations.values()), {}
        for station, _ in stations:
            await station.aclose()
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.leave()
