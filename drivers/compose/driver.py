"""The compose driver: looks at projects through their engine, and changes a project as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, ClassVar, Final

import anyio

from desired_state.model import Placement, Target
from drivers import diagnosis, sequence
from drivers.compose import artifacts, program
from drivers.compose import host as files
from drivers.compose.connection import Connection
from drivers.compose.folder import Folder
from drivers.compose.hands import ComposeHands, Site
from drivers.compose.lock import Place
from drivers.compose.program import Program
from drivers.compose.sight import Shelf, whole
from drivers.contract import (
    Action,
    Against,
    Capabilities,
    Diagnosis,
    Look,
    Progress,
    Receipt,
    Rendered,
    RenderedKind,
    Report,
    Step,
    Tools,
    Unit,
    Verified,
)
from drivers.docker import connection as docker
from drivers.docker import examine, look, render
from drivers.docker.engine import Engine
from drivers.docker.hosts import Host, Hosts, watch
from drivers.errors import DriverError, Refused
from drivers.process import examine as plain
from drivers.process.host import Eyes
from drivers.process.journey import RETURNS_WITHIN
from drivers.process.line import Asks
from drivers.process.parcel import parcel
from drivers.process.ways import Way, Ways
from stickers.names import PlacementId, TargetId
from stickers.observation import Observation

WITHIN: Final = 20.0  # seconds for one look at one engine


class Yard:
    """One engine with the host it stands on, and what is remembered of the projects there."""

    def __init__(self, host: Host, way: Way) -> None:
        self.host, self.way = host, way
        self._shelves: dict[tuple[str, str], Shelf] = {}
        self._programs: dict[str | None, Program] = {}

    async def program(self, line: Asks, said: str | None) -> Program:
        if said not in self._programs:
            self._programs[said] = await program.found(line, said)
        return self._programs[said]

    async def told(self, places: Mapping[TargetId, tuple[str, Place]]) -> dict[TargetId, Any]:
        """What the files of each project tell, or why they cannot be read: one request for all."""
        shelves = {id: self._shelf(root, place) for id, (root, place) in places.items()}
        asks = [
            {"root": root, "project": place.project, "known": shelves[id].known} for id, (root, place) in places.items()
        ]
        answers = (await self.way.looking.see("look", {}, targets=asks))["targets"]
        return {
            id: answer["unseen"] if "unseen" in answer else shelves[id].told(answer["services"])
            for id, answer in zip(places, answers, strict=True)
        }

    async def room(self, path: str) -> Mapping[str, int]:
        """At that path of the host."""
        found: Mapping[str, int] = (await self.way.looking.see("examine", {}, root=path))["disk"]
        return found

    def _shelf(self, root: str, place: Place) -> Shelf:
        return self._shelves.setdefault((root, place.project), Shelf())


class ComposeDriver:
    """One target is one compose project; each placement is a service of it, with its sticker in a file."""

    kind: ClassVar[str] = "compose"
    capabilities: ClassVar[Capabilities] = Capabilities(unit=Unit.TARGET, events=True, logs=True)
    verified: ClassVar[Verified] = Verified(
        against=Against.REAL, by="Docker engines, with Compose 1 and 2, also behind OpenSSH"
    )
    deploys: ClassVar[frozenset[RenderedKind]] = frozenset({RenderedKind.COMPOSE_LOCK})

    def __init__(self, tools: Tools, engines: Callable[[docker.Connection], Engine] = Engine) -> None:
        self._tools, self._hosts = tools, Hosts(tools, engines)
        eyes = Eyes()
        self._ways = Ways(
            "compose", tools, lambda: files.Session(eyes), partial(parcel, "process.host", "compose.host")
        )
        self._yards: dict[tuple[docker.Connection, str], Yard] = {}

    # -- looking ----------------------------------------------------------------------------------------------------

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        by_yard: dict[Yard, list[tuple[Look, Connection]]] = {}
        for one in looks:
            yard, connection = self._reached(one.target)
            by_yard.setdefault(yard, []).append((one, connection))
        observations: dict[TargetId, Observation] = {}
        async with anyio.create_task_group() as tasks:
            for yard, together in by_yard.items():
                tasks.start_soon(self._observe, yard, together, observations)
        return observations

    async def _observe(
        self, yard: Yard, looks: Sequence[tuple[Look, Connection]], into: dict[TargetId, Observation]
    ) -> None:
        reason = f"the engine did not answer within {WITHIN:g} s"
        with anyio.move_on_after(WITHIN):
            try:
                await yard.host.reached()
                seen = await yard.host.eyes.look([one for one, _ in looks])
                places = {one.target.id: (reached.root, self._place(one.target)) for one, reached in looks}
                for id, found in (await yard.told(places)).items():
                    into[id] = self._unseen(id, found) if isinstance(found, str) else whole(seen[id], found)
                return
            except DriverError as error:
                reason = str(error)
        into.update({one.target.id: self._unseen(one.target.id, reason) for one, _ in looks})

    def _unseen(self, target: TargetId, reason: str) -> Observation:
        return Observation(target=target, at=self._tools.now(), unseen=reason)

    # -- acting -----------------------------------------------------------------------------------------------------

    async def apply(self, action: Action, *, report: Report) -> Receipt:
        """Holds the project from the first look to the last step; `Busy` when another does, and while compose works for
        one that is gone. Cut off, it comes back for as long as that may take."""
        yard, connection = self._reached(action.target)

        async def once(again: Action, line: Asks) -> Receipt:
            return await self._carry_out(again, yard, connection, line, report)

        try:
            return await yard.way.carry(action, once, report, returns_within=program.LIMIT + RETURNS_WITHIN)
        finally:
            yard.host.eyes.forget_target(action.target.id)

    async def _carry_out(
        self, action: Action, yard: Yard, connection: Connection, line: Asks, report: Report
    ) -> Receipt:
        compose = await yard.program(line, connection.program)
        folder = Folder(line, connection.root, self._place(action.target))
        last = await folder.hold()
        if last is not None and last["token"] == action.key:
            for change in action.changes:
                report(Progress(id=change.id, step=Step.LOOK, message=f"compose, begun before, {last['why']}"))
        await yard.host.reached()
        site = Site(connection=connection, engine=yard.host.engine, folder=folder, program=compose)
        hands = ComposeHands(site, action, self._tools, report)
        return await sequence.carry_out(action, hands, self._tools, report=report, unit=Unit.TARGET)

    # -- listening --------------------------------------------------------------------------------------------------

    async def watch(self, targets: Sequence[Target]) -> AsyncIterator[TargetId]:
        hosts = {self._reached(target)[0].host for target in targets}
        told = watch(hosts, {target.id for target in targets}, self._tools.installation)
        async with aclosing(told):
            async for target in told:
                yield target

    async def logs(self, target: Target, id: PlacementId, *, tail: int, follow: bool) -> AsyncIterator[str]:
        host = self._reached(target)[0].host
        await host.reached()
        instance = await self._instance(host.engine, id)
        async with aclosing(host.logs(instance, tail=tail, follow=follow)) as lines:
            async for line in lines:
                yield line

    async def _instance(self, engine: Engine, id: PlacementId) -> str:
        labels = [f"{name}={value}" for name, value in render.placement_labels(self._tools.installation, id).items()]
        found = look.group(id, [look.listed(entry) for entry in await engine.containers({"label": labels})])
        instance = next((one.id for one in (*look.candidates(found), *found.workloads)), None)
        if instance is None:
            raise Refused(f"no container stands for {id}")
        return instance

    # -- what is lacking --------------------------------------------------------------------------------------------

    async def examine(self, look: Look) -> tuple[Diagnosis, ...]:
        """What the engine lacks, and beside it the program and the directory of the files."""
        yard, connection = self._reached(look.target)
        try:
            await yard.host.reached()
        except DriverError as error:
            return (diagnosis.unknown("host", str(error)),)
        room = yard.room if yard.way.station is not None else None
        engine = await examine.examine(yard.host.engine, look, self._tools, connection.reached, room)
        return (*engine, await self._program_told(yard, connection.program), *await self._host_told(yard, connection))

    async def _program_told(self, yard: Yard, said: str | None) -> Diagnosis:
        try:
            found = await yard.program(yard.way.looking, said)
        except DriverError as error:
            remedy = "install docker-compose (or the compose plugin of docker) on the host, or mend `program`"
            return diagnosis.missing("program", str(error), remedy)
        return diagnosis.ok("program", f"{' '.join(found.argv)} is {'.'.join(map(str, found.version))}")

    async def _host_told(self, yard: Yard, connection: Connection) -> tuple[Diagnosis, ...]:
        """Whether the files of a project can be written, and what holds hooks."""
        asked = {"root": connection.root, "sandbox": connection.hooks}
        try:
            facts = await yard.way.looking.see("examine", {}, **asked)
        except DriverError as error:
            return (diagnosis.unknown("files", str(error)),)
        return (_room(connection, facts), *plain.hooks(connection.hooks, facts["sandbox"]))

    # -- its files --------------------------------------------------------------------------------------------------

    def rendered(
        self, target: Target, placements: Sequence[Placement], kept: Sequence[Rendered]
    ) -> tuple[Rendered, ...]:
        return artifacts.rendered(self._place(target), placements, kept)

    # -- what is reached --------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        self._yards.clear()
        await self._hosts.aclose()
        await self._ways.aclose()

    def _reached(self, target: Target) -> tuple[Yard, Connection]:
        connection = Connection.model_validate(dict(target.connection))
        way = self._ways.to(connection.ssh, connection.python, connection.root)
        key = connection.reached, connection.python
        if key not in self._yards:
            self._yards[key] = Yard(self._hosts[connection.reached], way)
        return self._yards[key], connection

    def _place(self, target: Target) -> Place:
        memory = str(target.connection.get("secrets_directory", docker.SECRETS))
        return Place(installation=self._tools.installation, target=target.id, memory=memory)


def _room(connection: Connection, facts: Mapping[str, Any]) -> Diagnosis:
    if facts["writable"]:
        return diagnosis.ok("files", f"{connection.root} can be written")
    remedy = f"let the user Holdfast is there write {facts['nearest']}, or mend `root`"
    return diagnosis.missing("files", f"{connection.root} cannot be written", remedy)
