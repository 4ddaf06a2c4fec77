"""The eyes of the script driver: what the version commands tell, and how those say that the workload is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from pydantic import ValidationError

from desired_state.health import CommandCheck
from desired_state.health import Health as Declared
from desired_state.model import Placement, Target
from drivers import probes
from drivers.contract import Look, Tools
from drivers.errors import DriverError, InvalidAction
from drivers.process import render
from drivers.process.line import Sees
from drivers.process.sight import workload, worn
from drivers.script.connection import Connection
from stickers.names import ComponentName, Digest, PlacementId, SlotName
from stickers.observation import Health, HealthState, Observation, Standing

TELLS_WITHIN: Final = 10.0  # seconds for a version command
WELL_WITHIN: Final = timedelta(seconds=10)  # for a health command, where no check declares how long
Raw = Mapping[str, Any]  # as the host words it


def connection_of(target: Target) -> Connection:
    try:
        return Connection.model_validate(dict(target.connection))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(step) for step in first["loc"])
        raise InvalidAction(f"connection of {target.id}: {path}: {first['msg']}") from None


class Sight:
    """`way` leads to the addresses of another machine, for a check of that time-out."""

    def __init__(self, tools: Tools, line: Sees, way: Callable[[timedelta], probes.Connected] | None = None) -> None:
        self.tools, self.line, self._way = tools, line, way

    def connection(self, target: Target) -> Connection:
        return connection_of(target)

    def where(self, target: Target) -> dict[str, Any]:
        connection = self.connection(target)
        return {
            "root": connection.root,
            "installation": str(self.tools.installation),
            "target": str(target.id),
            "version": connection.version,
            "inputs": connection.inputs,
            "within": TELLS_WITHIN,
        }

    async def observe(self, look: Look) -> Observation:
        at, id = self.tools.now(), look.target.id
        try:
            patience = TELLS_WITHIN * max(1, len(look.placements))
            asked = await self.line.wait("look", {}, targets=[self.where(look.target)], timeout=patience)
            answer = asked["targets"][0]
            if "unseen" in answer:
                return Observation(target=id, at=at, unseen=answer["unseen"])
            found = [await self._standing(look, raw) for raw in answer["standings"]]
        except DriverError as error:
            return Observation(target=id, at=at, unseen=str(error))
        return Observation(target=id, at=at, standings=tuple(sorted(found, key=lambda one: (one.component, one.slot))))

    async def _standing(self, look: Look, raw: Raw) -> Standing:
        id = PlacementId(look.target.id, ComponentName(raw["component"]), SlotName(raw["slot"]))
        asked = next((placement for placement in look.placements if placement.id == id), None)
        running = raw["workload"] is not None and raw["workload"]["state"] == "running"
        health = await self.health(look.target, asked) if asked is not None and running else None
        return standing(id, raw, health)

    async def health(self, target: Target, placement: Placement) -> Health:
        """Well is what the target's own command says so of, and the declared check too, where there are such."""
        connection, found = self.connection(target), Health(state=HealthState.UNCHECKED)
        if connection.health is not None:
            within = placement.health.timeout if placement.health else WELL_WITHIN
            found = await self._command(target, placement.id, connection.health, within)
        if placement.health is not None and found.state in (HealthState.UNCHECKED, HealthState.HEALTHY):
            found = await self._declared(target, placement, placement.health)
        return Health(state=found.state, detail=found.detail, checked_at=self.tools.now())

    async def _declared(self, target: Target, placement: Placement, declared: Declared) -> Health:
        check = declared.check
        if isinstance(check, CommandCheck):
            return await self._command(target, placement.id, check.argv, declared.timeout)
        published = {port.container: port.host for port in placement.configuration.ports}
        port = published.get(check.port) or check.port
        way = None if self._way is None else self._way(declared.timeout)
        return await probes.ask(check, self.connection(target).address, port, declared.timeout, way)

    async def _command(self, target: Target, id: PlacementId, argv: tuple[str, ...], within: timedelta) -> Health:
        seconds = within.total_seconds()
        place = render.place(id, self.tools.installation, self.connection(target).root)
        order = {"argv": argv, "timeout": seconds, "inputs": self.connection(target).inputs}
        check = CommandCheck(argv=argv)
        try:
            code = (await self.line.wait("ask", place, order=order, timeout=seconds))["exit_code"]
        except DriverError as error:
            return Health(state=HealthState.UNKNOWN, detail=str(error))
        if code == 0:
            return Health(state=HealthState.HEALTHY, detail=str(check))
        ended = f"no answer within {seconds:g} s" if code is None else f"exit code {code}"
        return Health(state=HealthState.UNHEALTHY, detail=f"{check}: {ended}")


def standing(id: PlacementId, raw: Raw, health: Health | None = None) -> Standing:
    return Standing(
        component=id.component,
        slot=id.slot,
        worn=None if raw["sticker"] is None else worn(raw["sticker"]),
        workload=None if raw["workload"] is None else workload(raw["workload"], health),
        kept=tuple((Digest(artifact), Digest(configuration)) for artifact, configuration in raw["kept"]),
        debris=tuple(raw["debris"]),
        fence=raw["fence"],
    )
