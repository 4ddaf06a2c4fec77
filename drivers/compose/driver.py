"""The compose driver: looks at projects through their engine, and changes a project as a whole."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import anyio

from desired_state.model import Placement, Target
from drivers import blocking, diagnosis, sequence
from drivers.compose import artifacts, program
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
    Receipt,
    Rendered,
    RenderedKind,
    Report,
    Tools,
    Unit,
    Verified,
)
from drivers.docker import connection as docker
from drivers.docker import events, examine, look, render
from drivers.docker.engine import Engine
from drivers.docker.eyes import Eyes
from drivers.docker.feed import Feed, Hold
from drivers.errors import DriverError, Refused
from stickers.names import PlacementId, TargetId
from stickers.observation import Observation

WITHIN: Final = 20.0  # seconds for one look at one engine
LINE: Final = 64 * 1024  # bytes; what is longer is shown in pieces


class Host:
    """One engine, and what is remembered of it and of the projects on it."""

    def __init__(self, engine: Engine, tools: Tools) -> None:
        self.engine = engine
        self.eyes = Eyes(engine, tools.installation, tools.now)
        self.files = blocking.Threads(f"files of projects on {engine.connection.engine}")
        self.shelves: dict[tuple[str, TargetId], Shelf] = {}

    def shelf(self, connection: Connection, place: Place) -> Shelf:
        key = connection.root, place.target
        if key not in self.shelves:
            self.shelves[key] = Shelf(Folder(connection.root, place))
        return self.shelves[key]


class ComposeDriver:
    """One target is one compose project; each placement is a service of it, with its sticker in a file."""

    kind: ClassVar[str] = "compose"
    capabilities: ClassVar[Capabilities] = Capabilities(unit=Unit.TARGET, events=True, logs=True)
    verified: ClassVar[Verified] = Verified(against=Against.REAL, by="Docker engines, with Compose 1 and 2")
    deploys: ClassVar[frozenset[RenderedKind]] = frozenset({RenderedKind.COMPOSE_LOCK})

    def __init__(self, tools: Tools, engines: Callable[[docker.Connection], Engine] = Engine) -> None:
        self._tools, self._engines = tools, engines
        self._hosts: dict[docker.Connection, Host] = {}
        self._programs: dict[str | None, Program] = {}

    # -- looking ----------------------------------------------------------------------------------------------------

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        by_host: dict[Host, list[tuple[Look, Connection]]] = {}
        for one in looks:
            host, connection = self._reached(one.target)
            by_host.setdefault(host, []).append((one, connection))
        observations: dict[TargetId, Observation] = {}
        async with anyio.create_task_group() as tasks:
            for host, together in by_host.items():
                tasks.start_soon(self._observe, host, together, observations)
        return observations

    async def _observe(
        self, host: Host, looks: Sequence[tuple[Look, Connection]], into: dict[TargetId, Observation]
    ) -> None:
        reason = f"the engine did not answer within {WITHIN:g} s"
        with anyio.move_on_after(WITHIN):
            try:
                seen = await host.eyes.look([one for one, _ in looks])
                shelves = {one.target.id: host.shelf(reached, self._place(one.target)) for one, reached in looks}
                told = await host.files.run(lambda: _told(shelves), abandon=True)
                for id, found in told.items():
                    into[id] = self._unseen(id, found) if isinstance(found, str) else whole(seen[id], found)
                return
            except DriverError as error:
                reason = str(error)
        into.update({one.target.id: self._unseen(one.target.id, reason) for one, _ in looks})

    def _unseen(self, target: TargetId, reason: str) -> Observation:
        return Observation(target=target, at=self._tools.now(), unseen=reason)

    # -- acting -----------------------------------------------------------------------------------------------------

    async def apply(self, action: Action, *, report: Report) -> Receipt:
        host, connection = self._reached(action.target)
        compose = await self._program(connection.program)
        folder = Folder(connection.root, self._place(action.target))
        with _held(folder) as hold:
            try:
                site = Site(
                    connection=connection,
                    engine=host.engine,
                    folder=folder,
                    files=host.files,
                    program=compose,
                    hold=hold,
                )
                hands = ComposeHands(site, action, self._tools, report)
                return await sequence.carry_out(action, hands, self._tools, report=report, unit=Unit.TARGET)
            finally:
                host.eyes.forget_target(action.target.id)

    async def _program(self, said: str | None) -> Program:
        if said not in self._programs:
            self._programs[said] = await program.found(said)
        return self._programs[said]

    # -- listening --------------------------------------------------------------------------------------------------

    async def watch(self, targets: Sequence[Target]) -> AsyncIterator[TargetId]:
        watched = {target.id for target in targets}
        hosts = {self._reached(target)[0] for target in targets}
        async with Feed(*(partial(_events_of, host) for host in hosts)) as feed:
            async for host, event in feed:
                id = events.container_of(event)
                target = events.target_of(event, self._tools.installation) or host.eyes.target_of(id)
                host.eyes.forget(id)
                if target in watched:
                    yield target

    async def logs(self, target: Target, id: PlacementId, *, tail: int, follow: bool) -> AsyncIterator[str]:
        engine = self._reached(target)[0].engine
        instance = await self._instance(engine, id)
        rest = b""
        async with Feed(lambda hold: engine.logs(instance, tail=tail, follow=follow, hold=hold)) as feed:
            async for piece in feed:
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > LINE:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    yield line.decode(errors="replace")
        if rest:
            yield rest.decode(errors="replace")

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
        host, connection = self._reached(look.target)
        engine = await examine.examine(host.engine, look, self._tools)
        return (*engine, await self._program_told(connection.program), await host.files.run(lambda: _room(connection)))

    async def _program_told(self, said: str | None) -> Diagnosis:
        try:
            found = await self._program(said)
        except DriverError as error:
            remedy = "install docker-compose (or the compose plugin of docker), or mend `program`"
            return diagnosis.missing("program", str(error), remedy)
        return diagnosis.ok("program", f"{' '.join(found.argv)} is {'.'.join(map(str, found.version))}")

    # -- its files --------------------------------------------------------------------------------------------------

    def rendered(
        self, target: Target, placements: Sequence[Placement], kept: Sequence[Rendered]
    ) -> tuple[Rendered, ...]:
        return artifacts.rendered(self._place(target), placements, kept)

    # -- what is reached --------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        for host in self._hosts.values():
            await host.engine.aclose()
        self._hosts.clear()

    def _reached(self, target: Target) -> tuple[Host, Connection]:
        connection = Connection.model_validate(dict(target.connection))
        if connection.reached not in self._hosts:
            self._hosts[connection.reached] = Host(self._engines(connection.reached), self._tools)
        return self._hosts[connection.reached], connection

    def _place(self, target: Target) -> Place:
        return Place(installation=self._tools.installation, target=target.id)


def _room(connection: Connection) -> Diagnosis:
    """Whether the files of a project can be written."""
    there = next(path for path in (Path(connection.root), *Path(connection.root).parents) if path.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return diagnosis.ok("files", f"{connection.root} can be written")
    remedy = f"let the user Holdfast runs as write {there}, or mend `root`"
    return diagnosis.missing("files", f"{connection.root} cannot be written", remedy)


@contextmanager
def _held(folder: Folder) -> Iterator[int]:
    hold = folder.hold()
    try:
        yield hold
    finally:
        os.close(hold)


def _told(shelves: Mapping[TargetId, Shelf]) -> dict[TargetId, Any]:
    """What the files of each project tell, or why they cannot be read."""
    found: dict[TargetId, Any] = {}
    for target, shelf in shelves.items():
        try:
            found[target] = shelf.read()
        except DriverError as error:
            found[target] = str(error)
    return found


def _events_of(host: Host, hold: Hold) -> Iterator[tuple[Host, dict[str, Any]]]:
    return ((host, event) for event in host.engine.events(events.FILTERS, hold))
