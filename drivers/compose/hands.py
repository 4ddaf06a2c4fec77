"""The steps of one action on one compose project, each safe to repeat.

Compose replaces a container in its place, and only where the lock says something else of its service. So a change is
three steps that a crash may fall between: the record says what is to be made and what to put back, the lock says the
same to compose, and compose brings it about. Whoever comes after a crash repeats them, and compose finds what is done.
Nothing is ever recreated by force: what is to be made anew is taken away first, and compose makes what is missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from desired_state.health import Health
from desired_state.model import Placement
from desired_state.secrets import SecretRef
from drivers.compose import artifacts, lock, program
from drivers.compose.connection import Connection
from drivers.compose.folder import Folder, Record
from drivers.compose.lock import Piece
from drivers.compose.program import Program
from drivers.compose.template import Part
from drivers.contract import Action, Deploy, Ended, Errand, Progress, Report, Step, Tools
from drivers.docker import checks, files, images, look, render
from drivers.docker.compare import Inspected
from drivers.docker.engine import Engine
from drivers.docker.look import Group, Listed
from drivers.errors import DriverError, InvalidAction, Refused
from drivers.process import line
from drivers.sequence import Started
from stickers.names import PlacementId
from stickers.observation import Standing, Workload, Worn
from stickers.signature import Envelope
from stickers.sticker import Sticker

NOWHERE: Final = ""  # the instance that was never made


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where an action works: one project on one engine, held until the action has ended."""

    connection: Connection
    engine: Engine
    folder: Folder
    program: Program


class ComposeHands:
    """Hands for one action on one project."""

    def __init__(self, site: Site, action: Action, tools: Tools, report: Report) -> None:
        self._site, self._action, self._tools, self._report = site, action, tools, report
        self._engine, self._folder, self._place = site.engine, site.folder, site.folder.place
        self._deploys: dict[PlacementId, Deploy] = {}  # prepared, and not brought up yet
        self._pieces: dict[PlacementId, Piece] = {}
        self._values: dict[str, str] = {}  # variable -> value of a secret
        self._contents: dict[SecretRef, str] = {}  # of those that are files
        self._made: dict[PlacementId, Listed | None] = {}  # what compose made when it was last told of it
        self._images: dict[str, Inspected | None] = {}
        self._failed: str | None = None

    # -- look -------------------------------------------------------------------------------------------------------

    async def look(self, id: PlacementId, adopts: str | None) -> Standing:
        if adopts is not None:
            raise InvalidAction(f"{id}: compose cannot take over {adopts[:40]}, which it did not make")
        service, group = lock.service_name(id), await self._group(id)
        record = await self._folder.record(service)
        serving = await self._serving(group)
        workload = await self._seen(serving, record) if serving else None
        worn = await self._folder.worn(service)
        return with_record(look.standing(group, workload), record, worn)

    async def _group(self, id: PlacementId) -> Group:
        labels = render.placement_labels(self._place.installation, id) | {render.ROLE: render.WORKLOAD}
        query = {"label": [f"{name}={value}" for name, value in labels.items()]}
        return look.group(id, [look.listed(entry) for entry in await self._engine.containers(query)])

    async def _groups(self) -> dict[PlacementId, Group]:
        """Everything of the project, by placement, in one question."""
        labels = self._place.labels | {render.ROLE: render.WORKLOAD}
        query = {"label": [f"{name}={value}" for name, value in labels.items()]}
        found = [look.listed(entry) for entry in await self._engine.containers(query)]
        return look.groups(found, self._place.installation)

    async def _serving(self, group: Group) -> Inspected | None:
        answers = {one.id: await self._engine.container(one.id) for one in look.candidates(group)}
        inspected = {id: container for id, container in answers.items() if container is not None}
        serving = look.serving(group, inspected)
        return inspected[serving.id] if serving else None

    async def _seen(self, container: Inspected, record: Record, health: Health | None = None) -> Workload:
        image = await self._image(container["Image"])
        answer = await checks.ask(self._engine, container, health)
        found = look.workload(container, image, container["Config"].get("Labels") or {}, answer)
        return replace(found, key=record.key_of(found.instance))

    async def _image(self, id: str) -> Inspected | None:
        if id not in self._images:
            self._images[id] = await self._engine.image(id)
        return self._images[id]

    async def workload(self, id: PlacementId, instance: str, health: Health | None) -> Workload | None:
        container = await self._engine.container(instance) if instance != NOWHERE else None
        if container is None:
            return None
        return await self._seen(container, await self._folder.record(lock.service_name(id)), health)

    # -- prepare ----------------------------------------------------------------------------------------------------

    async def prepare(self, deploy: Deploy) -> None:
        """Whatever may fail before anything is touched: the image by its digest, the lock, the secrets."""
        wanted = self._rendered(deploy.placement)
        self._refuse_host_mounts(deploy.placement)
        await images.bring(self._engine, deploy.placement, self._tools.secret)
        if wanted.files:
            files.refuse_disk(deploy.placement, self._engine)
        await self._resolve(wanted)
        records = await self._folder.records()
        former = records.get(wanted.service, Record())
        for piece in (former.piece, former.back):
            with contextlib.suppress(DriverError):  # what cannot be put back keeps nobody from going on
                await self._resolve(piece)
        self._deploys[deploy.id], self._pieces[deploy.id] = deploy, wanted
        changing = {lock.service_name(change.id) for change in self._action.changes}
        others = {service: one for service, one in records.items() if service not in changing}
        self._locked(others, self._pieces.values())

    def _rendered(self, placement: Placement) -> Piece:
        """What is told compose of the placement, in the words that were kept for this action."""
        return artifacts.piece(self._place, placement, self._action.rendered)

    def _refuse_host_mounts(self, placement: Placement) -> None:
        """As they are allowed today, also for a template of former days."""
        text = placement.configuration.template
        own = (
            placement.configuration
            if text is None
            else lock.effective(placement.configuration, Part.read(text).service)
        )
        for volume in own.volumes:
            if volume.source.startswith("/") and not self._site.connection.may_mount(volume.source):
                raise InvalidAction(
                    f"{placement.id}: volumes: {volume.source} is of the host and not in connection.host_mounts"
                )

    async def _resolve(self, piece: Piece | None) -> None:
        for variable, reference in piece.secrets.items() if piece else ():
            if variable not in self._values:
                self._values[variable] = await self._tools.secret(reference)
        for reference in piece.files.values() if piece else ():
            if reference not in self._contents:
                self._contents[reference] = await self._tools.secret(reference)

    def _locked(self, records: Mapping[str, Record], changed: Iterable[Piece] = ()) -> bytes:
        """The lock of everything that stands, with what is changed in it."""
        pieces = {service: record.piece for service, record in records.items() if record.piece is not None}
        pieces |= {piece.service: piece for piece in changed}
        try:
            return lock.lock(self._place, pieces.values())
        except lock.Clash as error:
            raise InvalidAction(f"{self._place.target}: {error}") from None

    # -- start ------------------------------------------------------------------------------------------------------

    async def start(self, deploy: Deploy) -> Started:
        """The first call brings up everything that was prepared; compose is told of all services at once."""
        if deploy.id in self._deploys:
            going, self._deploys = list(self._deploys.values()), {}
            groups = await self._groups()
            for one in going:
                await self._record(one, groups.get(one.id, Group(id=one.id)))
            await self._write_lock()
            self._failed = await self._bring_up({one.id: self._pieces[one.id] for one in going})
        return self._started(deploy.id, self._pieces[deploy.id])

    def _started(self, id: PlacementId, piece: Piece) -> Started:
        made = self._made[id]
        if made is None:
            failed = self._failed or f"compose made no container of {piece.service}"
            return Started(instance=NOWHERE, beside=False, failed=failed)
        failed_to_run = piece.running and not made.running
        return Started(instance=made.id, beside=False, failed=self._failed if failed_to_run else None)

    async def _record(self, deploy: Deploy, group: Group) -> None:
        """What is to be made and what to put back; then away with what compose would take for it."""
        wanted = self._pieces[deploy.id]
        record = await self._folder.record(wanted.service)
        begun = record.key == self._action.key and record.piece is not None and record.piece.content == wanted.content
        if not begun:
            there = tuple(one.id for one in group.workloads)
            back = record.back if record.pending else record.piece
            await self._clear(deploy.id, record.piece if record.pending else None, wanted, back)
            record = replace(record, piece=wanted, pending=True, back=back, key=self._action.key, before=there)
            await self._folder.write_record(wanted.service, record)
        for one in group.workloads:
            if (deploy.anew and one.id in record.before) or await self._lies(one, wanted):
                await self._take_away(one)

    async def _lies(self, one: Listed, piece: Piece) -> bool:
        """Whether its labels say that it is this piece and the engine says otherwise: compose believes the labels."""
        container = await self._engine.container(one.id) if _is(one, piece) else None
        if container is None:
            return False
        found = await self._seen(container, Record())
        return (found.artifact, found.configuration) != piece.content

    async def _take_away(self, one: Listed) -> None:
        """Stopped within its grace, and gone."""
        if one.running:
            await self._engine.stop(one.id)
        await self._engine.remove(one.id)

    async def _write_lock(self) -> None:
        await self._folder.write_lock(self._locked(await self._folder.records()))

    async def _bring_up(self, pieces: Mapping[PlacementId, Piece]) -> str | None:
        """Compose's own words where it could not."""
        for id, piece in pieces.items():
            await self._resolve(piece)
            await self._fill(id, piece)
        said = None
        await self._arm(pieces)
        for start in (True, False):
            services = sorted(piece.service for piece in pieces.values() if piece.running is start)
            if services:
                said = await self._run(self._site.program.up(self._folder, services, start=start)) or said
        groups = await self._groups()
        for id, piece in pieces.items():
            if said is not None:
                self._report(Progress(id=id, step=Step.START, message=said))
            self._made[id] = await self._tidy(piece, groups.get(id, Group(id=id)))
        return said

    async def _fill(self, id: PlacementId, piece: Piece) -> None:
        """Its secrets are files on the engine's host: the engine starts none whose files are missing."""
        if piece.files:
            contents = {name: self._contents[reference] for name, reference in piece.files.items()}
            await self._room(id).fill(piece.image, piece.folder, contents)

    async def _clear(self, id: PlacementId, gone: Piece | None, *stay: Piece | None) -> None:
        """The files of what does not stand any more, unless they are those of what does."""
        if gone is not None and gone.files and gone.folder not in {piece.folder for piece in stay if piece}:
            await self._room(id).clear(gone.image, gone.folder)

    def _room(self, id: PlacementId) -> files.Room:
        return files.Room(self._engine, self._tools.installation, id)

    async def _run(self, argv: list[str]) -> str | None:
        records = await self._folder.records()
        unknown = {name: "" for one in records.values() if one.piece is not None for name in one.piece.secrets}
        return await program.run(
            argv,
            self._folder,
            engine=self._site.connection.engine,
            values=unknown | self._values,  # compose reads the whole lock, and touches what it is told of
            key=self._action.key,
        )

    async def _arm(self, pieces: Mapping[PlacementId, Piece]) -> None:
        """What stands stopped and is to be started gets back the restart policy it was made with."""
        for id, group in (await self._groups()).items():
            for one in group.workloads:
                if id in pieces and pieces[id].running and not one.running and _is(one, pieces[id]):
                    await self._set_policy(one)

    async def _set_policy(self, one: Listed) -> None:
        specification = look.specification(one.labels)
        if specification is not None and "restart" in specification:
            await self._engine.set_restart(one.id, render.restart_policy(specification["restart"]))

    async def _tidy(self, piece: Piece, group: Group) -> Listed | None:
        """The one container of the service, made of the piece; what an interrupted try left beside it goes."""
        found = [one for one in group.workloads if _is(one, piece)]
        made = min(found, key=lambda one: (not one.running, one.id), default=None)
        if made is not None:
            await self._alone(group, made.id)
            if not piece.running:
                await self._engine.set_restart(made.id, render.NEVER)
                await self._engine.stop(made.id)
        return made

    async def _alone(self, group: Group, instance: str) -> None:
        for one in group.workloads:
            if one.id != instance:
                await self._take_away(one)

    async def switch(self, deploy: Deploy, instance: str) -> None:
        """Nothing stands beside what serves, so it serves already."""

    # -- the way back, and the end ----------------------------------------------------------------------------------

    async def put_back(self, deploy: Deploy, standing: Standing) -> str | None:
        wanted = self._pieces[deploy.id]
        record = await self._folder.record(wanted.service)
        back = record.back or (self._rendered(deploy.predecessor) if deploy.predecessor else None)
        there = tuple(one.id for one in (await self._group(deploy.id)).workloads)
        if back is None:
            await self.remove(deploy.id)
            return None
        turned = replace(record, piece=back, pending=True, back=back, key=None, before=there)
        await self._folder.write_record(wanted.service, turned)
        await self._write_lock()
        await self._bring_up({deploy.id: back})
        await self._clear(deploy.id, wanted, back)
        turned = replace(turned, pending=False, back=None)
        await self._folder.write_record(wanted.service, turned)
        await self._discard({wanted.image})
        made = self._made[deploy.id]
        return made.id if made else NOWHERE

    async def settle(self, deploy: Deploy, instance: str) -> None:
        wanted = self._pieces.get(deploy.id) or self._rendered(deploy.placement)
        await self._alone(await self._group(deploy.id), instance)
        record = await self._folder.record(wanted.service)
        settled = _settled(record, wanted, deploy)
        if settled != record:
            await self._clear(deploy.id, record.back, settled.piece)
            await self._folder.write_record(wanted.service, settled)
            await self._write_lock()
            await self._discard(record.images)
        await self._folder.prune(max(deploy.keep, 1))

    async def restart(self, id: PlacementId, instance: str) -> str:
        group = await self._group(id)
        for one in group.workloads:
            if one.id == instance:
                await self._set_policy(one)
                with contextlib.suppress(Refused):  # the proof finds what the engine would not start
                    await self._restart(id, instance)
        return instance

    async def _restart(self, id: PlacementId, instance: str) -> None:
        """Where the engine will not, because the host has booted since, with its files again."""
        try:
            await self._engine.restart(instance)
        except Refused:
            piece = (await self._folder.record(lock.service_name(id))).piece
            if piece is None or not piece.files:
                raise
            await self._resolve(piece)
            await self._fill(id, piece)
            await self._engine.start(instance)

    async def remove(self, id: PlacementId) -> None:
        """Its containers, its part of the lock and its images; after the last service, the project's networks."""
        service = lock.service_name(id)
        record = await self._folder.record(service)
        for one in (await self._group(id)).workloads:
            await self._take_away(one)
        others = {name: one for name, one in (await self._folder.records()).items() if name != service}
        if record.piece is not None and not any(one.piece for one in others.values()):
            await self._run(self._site.program.down(self._folder))
        for piece in (record.piece, record.back):
            await self._clear(id, piece)
        await self._folder.write_record(service, Record(fence=record.fence))
        await self._write_lock()
        await self._discard(record.images)

    async def _discard(self, references: set[str]) -> None:
        """Images that no record of any project here names any more."""
        await images.discard(self._engine, references - await self._folder.images())

    # -- programs beside a deployment -------------------------------------------------------------------------------

    @property
    def lets_hooks(self) -> bool:
        return self._site.connection.hooks

    async def run(self, id: PlacementId, errand: Errand) -> Ended:
        """On the engine's host, and not in a container."""
        return await line.run(self._folder.line, self._folder.where, errand)

    # -- the sticker ------------------------------------------------------------------------------------------------

    async def wear(self, id: PlacementId, sticker: Sticker, envelope: Envelope) -> None:
        """The fence also beside the sticker, so that it is known when that is lost."""
        service = lock.service_name(id)
        record = await self._folder.record(service)
        if sticker.fence > record.fence:
            await self._folder.write_record(service, replace(record, fence=sticker.fence))
        await self._folder.wear(service, envelope)

    async def bare(self, id: PlacementId) -> None:
        await self._folder.bare(lock.service_name(id))


def with_record(standing: Standing, record: Record, worn: Worn | None) -> Standing:
    """What the engine shows of a placement, with what is known of it beside its containers."""
    workload = standing.workload
    return replace(
        standing,
        worn=worn,
        workload=replace(workload, key=record.key_of(workload.instance)) if workload else None,
        kept=record.contents,
        fence=max(standing.fence, record.fence),
    )


def _is(one: Listed, piece: Piece) -> bool:
    """Whether the container was made of this piece."""
    labels = piece.labels
    return all(
        one.labels.get(name) == labels[name] for name in (render.ARTIFACT, render.CONFIGURATION, render.SPECIFICATION)
    )


def _settled(record: Record, wanted: Piece, deploy: Deploy) -> Record:
    """What was proven, with as many predecessors as are to stay, and last good among them."""
    piece = record.piece if record.piece is not None and record.piece.content == wanted.content else wanted
    former = (record.back, *record.kept) if record.pending else record.kept
    good = deploy.predecessor.content if deploy.predecessor else None
    newest: dict[object, Piece] = {}
    for one in former:
        if one is not None and one.content != piece.content:
            newest.setdefault(one.content, one)
    kept = tuple(one for index, one in enumerate(newest.values()) if index < deploy.keep or one.content == good)
    return replace(record, piece=piece, pending=False, back=None, kept=kept)
