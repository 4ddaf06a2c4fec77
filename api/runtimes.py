"""The installed runtimes as mappings: connection models for the documents, drivers for the house. Each is imported when
it is first asked for, so that nobody waits for an SDK that no target needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from drivers import registry
from drivers.contract import Driver, Tools

if TYPE_CHECKING:
    from pydantic import BaseModel


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
    """driver -> its one instance in this process. A runtime that cannot be had raises what its import raised."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._made: dict[str, Driver] = {}

    def __getitem__(self, kind: str) -> Driver:
        if kind not in self._made:
            if kind not in registry.kinds():
                raise KeyError(kind)
            self._made[kind] = registry.load(kind)(self._tools)
        return self._made[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(registry.kinds())

    def __len__(self) -> int:
        return len(registry.kinds())

    async def aclose(self) -> None:
        for driver in self._made.values():
            await driver.aclose()
