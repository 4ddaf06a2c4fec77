"""The installed runtimes as mappings: connection models for the documents, drivers for the house. Each is imported when
it is first asked for, so that nobody waits for an SDK that no target needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from drivers import registry
from drivers.contract import Driver, Tools
from drivers.errors import DriverError
from drivers.registry import DriverClass

if TYPE_CHECKING:
    from pydantic import BaseModel

AT_AGENTS: Final = "@agent"  # how the hands of a runtime are called that an agent has (`Target.hands`)

ThroughAgents = Callable[[DriverClass, Tools], Driver]


class ConnectionModels(Mapping[str, "type[BaseModel]"]):
    """driver -> the model of its targets' connections."""

    def __getitem__(self, kind: str) -> type[BaseModel]:
        if kind not in registry.kinds():
            raise KeyError(kind)
        return registry.connection_model(kind)

    def __iter__(self) -> Iterator[str]:
        return iter(registry.kinds())

    def __len__(self) -> int:
        return len(registry.kinds())


class Drivers(Mapping[str, Driver]):
    """hands -> their one driver in this process: of a runtime that is reached from here, or, as ``docker@agent``,
    through agents. A runtime that cannot be had raises what its import raised."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._made: dict[str, Driver] = {}
        self._agents: ThroughAgents | None = None

    def serve(self, through: ThroughAgents) -> None:
        """From now on there are agents."""
        self._agents = through

    def __getitem__(self, hands: str) -> Driver:
        if hands not in self._made:
            self._made[hands] = self._new(hands)
        return self._made[hands]

    def _new(self, hands: str) -> Driver:
        kind = hands.removesuffix(AT_AGENTS)
        if kind not in registry.kinds():
            raise KeyError(hands)
        if kind == hands:
            return registry.load(kind)(self._tools)
        if self._agents is None:
            raise DriverError(
                "its host is reached through an agent, and this process serves none: HOLDFAST_AGENTS_LISTEN"
            )
        return self._agents(registry.load(kind), self._tools)

    def __iter__(self) -> Iterator[str]:
        return iter(registry.kinds())

    def __len__(self) -> int:
        return len(registry.kinds())

    async def aclose(self) -> None:
        for driver in self._made.values():
            await driver.aclose()
