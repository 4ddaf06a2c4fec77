"""The steps of one action on a Docker engine, each safe to repeat, each finding its things by labels and ids.

**Beside.** Where nothing but traffic is shared, the new container is made and proven beside the old one. Then the
placement's name moves: on each network the new one is taken off and connected again with the name, so that for a while
both answer, and the old one is taken off and connected again without it, at the address it had. Requests on their way
to the old one are delayed by that, at most by a second, and not lost, and it is stopped only when they have had the
time to arrive (`DRAIN`). The engine hands an address back on request only on networks that were made with a subnet, as
those made here are; on others it usually does so by itself.

**In its place.** A fixed host port, or a volume that is written to, belongs to one container at a time. The new one is
made first; between the end of the old and the start of the new there is no other call, and that is the gap.

**Restarts of the engine.** A container that was never started is not started by the engine. The old one is given the
policy `always` before it is stopped, so that a reboot in the gap brings back the one that was proven; as soon as the
new one has started the old one loses its policy, and gets back its own only when it was put back and has started: in
the gap before that it has `always` again, and what failed has none. So what is kept never comes up beside what serves,
whatever its policy was.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from desired_state.health import Health
from desired_state.model import Placement
from desired_state.secrets import SecretRef
from drivers.contract import Action, Deploy, Remove, Tools
from drivers.docker import checks, files, images, look, render, traffic
from drivers.docker.compare import Inspected
from drivers.docker.engine import Engine, Taken
from drivers.docker.look import Group, Listed
from drivers.errors import Conflict, InvalidAction, Refused, StaleFence
from drivers.sequence import Started
from stickers import codec
from stickers.names import PlacementId
from stickers.observation import Standing, Workload, WorkloadState
from stickers.signature import Envelope
from stickers.sticker import Phase, Sticker

DRAIN: Final = 1.5  # seconds; a host that was not answered when it knocked knocks again after one
RECENT: Final = 0.1  # seconds a look is good for before a sticker is written: its number is a mutex of its own


@dataclass(slots=True, kw_only=True)
class Site:
    """One placement while an action is on its way: what stood there when it was looked at, and what came since.

    `record` says what stood was made as; `adopted`: it is a container without labels of ours. What was made after
    `since` has never served. `holders` maps each to the image it pins. `beside` does not answer to the placement's
    name yet; `left_at` is when its predecessor ceased to.
    """

    resumed: bool
    holders: dict[str, str]
    since: int = 0
    stood: Workload | None = None
    container: Inspected | None = None
    record: Mapping[str, str] = field(default_factory=dict)
    adopted: bool = False
    glimpsed: Inspected | None = None
    beside: str | None = None
    left_at: float | None = None

    def record_of(self, container: Inspected) -> Mapping[str, str]:
        if self.adopted and self.container is not None and container["Id"] == self.container["Id"]:
            return self.record
        return _labels(container)


class DockerHands:
    """Hands for one action on one engine."""

    def __init__(self, engine: Engine, action: Action, tools: Tools) -> None:
        self._engine, self._action, self._tools = engine, action, tools
        self._sites: dict[PlacementId, Site] = {}
        self._secrets: dict[SecretRef, str] = {}
        self._images: dict[str, Inspected | None] = {}
        self._groups: dict[PlacementId, tuple[Group, float]] = {}

    # -- look -------------------------------------------------------------------------------------------------------

    async def look(self, id: PlacementId, adopts: str | None) -> Standing:
        group = await self._group(id)
        site = self._sites[id] = Site(resumed=group.in_transit, holders={one.id: one.image for one in group.holders})
        inspected = await self._inspected(look.candidates(group))
        serving = look.serving(group, inspected)
        if serving is not None:
            site.container, site.record = inspected[serving.id], look.record_of(serving, group)
            site.adopted, site.since = site.record is not serving.labels, serving.sequence
        elif not group.in_transit:  # whatever has run here has served
            site.since = group.sequence
        if serving is None and adopts is not None:
            await self._find_foreign(id, site, adopts)
        if site.container is not None:
            site.stood = look.workload(site.container, await self._image(site.container["Image"]), site.record)
        return look.standing(group, site.stood)

    async def _find_foreign(self, id: PlacementId, site: Site, instance: str) -> None:
        """A container that nobody labelled, seen as what is declared for the placement that is to adopt it."""
        container = await self._engine.container(instance)
        if container is None:
            return
        if render.INSTALLATION in _labels(container):
            raise InvalidAction(f"{id}: {instance[:12]} belongs to an installation; only what has no labels is adopted")
        site.container, site.record, site.adopted = container, render.record(self._declared(id)), True

    def _declared(self, id: PlacementId) -> Placement:
        changes = (change for change in self._action.changes if not isinstance(change, Remove))
        return next(change.placement for change in changes if change.id == id)

    async def _group(self, id: PlacementId) -> Group:
        """Everything of the placement, looked up anew; `StaleFence` where somebody with a higher fence has been."""
        began = anyio.current_time()
        labels = [f"{name}={value}" for name, value in render.placement_labels(self._tools.installation, id).items()]
        found = [look.listed(entry) for entry in await self._engine.containers({"label": labels})]
        group = look.group(id, found)
        if group.holder is not None and group.holder.adopts:
            adopted = await self._engine.containers({"id": [group.holder.instance]})
            group = look.group(id, [*found, *map(look.listed, adopted)])
        if group.fence > self._action.fence:
            raise StaleFence(f"{id} was changed under fence {group.fence}, this action holds {self._action.fence}")
        self._groups[id] = group, began
        return group

    async def _recent(self, id: PlacementId) -> Group:
        group, at = self._groups[id]
        return group if anyio.current_time() < at + RECENT else await self._group(id)

    async def _inspected(self, containers: Iterable[Listed]) -> dict[str, Inspected]:
        answers = {one.id: await self._engine.container(one.id) for one in containers}
        return {id: container for id, container in answers.items() if container is not None}

    async def _image(self, reference: str) -> Inspected | None:
        if reference not in self._images:
            self._images[reference] = await self._engine.image(reference)
        return self._images[reference]

    # -- prepare ----------------------------------------------------------------------------------------------------

    async def prepare(self, deploy: Deploy) -> None:
        """The image by its exact digest, the networks, the secrets: whatever may fail before anything is touched."""
        placement = deploy.placement
        image = await images.bring(self._engine, placement, self._tools.secret)
        self._images[image["Id"]] = image
        for network in placement.configuration.networks:
            await self._engine.ensure_network(network, {render.INSTALLATION: self._tools.installation})
        if placement.configuration.secrets:
            files.refuse_windows(placement, image)
            files.refuse_disk(placement, self._engine)
        held = [file.secret for file in placement.configuration.secrets]
        for value in (*held, *(value for _, value in placement.configuration.environment)):
            if isinstance(value, SecretRef) and value not in self._secrets:
                self._secrets[value] = await self._tools.secret(value)

    # -- start ------------------------------------------------------------------------------------------------------

    async def start(self, deploy: Deploy) -> Started:
        group, site = await self._group(deploy.id), self._sites[deploy.id]
        found = self._made_or_standing(deploy, group)
        others = [one for one in group.workloads if one.running and one.id != found]
        beside = bool(others) and deploy.placement.running and not await self._collide(deploy.placement, others)
        instance = found or await self._make(deploy, group, reachable=not beside)
        if found is not None or len(deploy.placement.configuration.networks) > 1:
            await self._join(deploy.placement, instance, reachable=not beside)
        if not deploy.placement.running:
            await self._retire([instance, *(one.id for one in others)])
            return Started(instance=instance, beside=False)
        if others and not beside:
            await self._make_way(others)
        await self._begin(site, instance)
        if others and not beside:
            await self._retire(one.id for one in others)
        beside = beside or (found is not None and not await self._answers(deploy, found))
        site.beside = instance if beside else None
        return Started(instance=instance, beside=beside)

    def _made_or_standing(self, deploy: Deploy, group: Group) -> str | None:
        """The container that an earlier try of this action made, or what stands, where only its run state changes."""
        for one in group.workloads:
            if self._is_ours(one) and one.content == deploy.placement.content:
                return one.id
        stood = self._sites[deploy.id].stood
        same = stood is not None and (stood.artifact, stood.configuration) == deploy.placement.content
        return stood.instance if stood is not None and same and not deploy.anew else None

    def _is_ours(self, one: Listed) -> bool:
        return one.labels.get(render.KEY) == self._action.key

    async def _collide(self, placement: Placement, others: Iterable[Listed]) -> bool:
        running = await self._inspected(others)
        return any(traffic.collide(placement, container) for container in running.values())

    async def _make(self, deploy: Deploy, group: Group, *, reachable: bool) -> str:
        origin = self._origin(deploy.id, max(deploy.stamp.sequence, group.sequence + 1))
        folder = await self._folder(deploy.placement, origin)
        body = render.workload(deploy.placement, origin, self._secrets, reachable=reachable, files=folder)
        with contextlib.suppress(Taken):
            return await self._engine.create(body)
        found = await self._engine.container(body.name)  # an earlier try whose answer was lost, or a stranger's
        if found is None or any(_labels(found).get(name) != body.config["Labels"][name] for name in render.IDENTITY):
            raise Conflict(f"a container named {body.name} is there and is not ours")
        return str(found["Id"])

    async def _folder(self, placement: Placement, origin: render.Origin) -> str:
        """Where the secrets of the container that is to be made are; the engine makes none whose files are missing."""
        name = render.workload_name(origin.installation, origin.id, origin.key)
        folder = f"{self._engine.connection.secrets_directory}/{name}"
        if held := placement.configuration.secrets:
            values = {file.name: self._secrets[file.secret] for file in held}
            await self._room(origin.id).fill(str(placement.artifact), folder, values)
        return folder

    def _room(self, id: PlacementId) -> files.Room:
        return files.Room(self._engine, self._tools.installation, id)

    def _origin(self, id: PlacementId, sequence: int) -> render.Origin:
        return render.Origin(
            installation=self._tools.installation,
            id=id,
            key=self._action.key,
            fence=self._action.fence,
            sequence=sequence,
        )

    async def _join(self, placement: Placement, instance: str, *, reachable: bool) -> None:
        """Connected to every declared network: a container is made with one at most, and may have been left without."""
        container = await self._engine.container(instance)
        if container is None:
            return
        names = [render.alias(placement.id)] if reachable else []
        for network in placement.configuration.networks:
            if network not in (container["NetworkSettings"].get("Networks") or {}):
                await self._engine.connect(instance, network, aliases=names)

    async def _make_way(self, others: Sequence[Listed]) -> None:
        for one in others:
            await self._engine.set_restart(one.id, render.ALWAYS)
        for one in others:
            await self._engine.stop(one.id)

    async def _begin(self, site: Site, instance: str) -> None:
        """Started under its own policy. What the engine will not start is left for the proof to find, so that what
        stood before is put back."""
        if site.container is not None and site.container["Id"] == instance:
            await self._arm(site.container, site.record)
        with contextlib.suppress(Refused):
            await self._serve(instance, self._engine.start)

    async def _serve(self, instance: str, begin: Callable[[str], Awaitable[None]]) -> None:
        """Started, or restarted; where the engine will not, because the host has booted since, with its files again."""
        try:
            await begin(instance)
        except Refused as refusal:
            await traffic.refuse_lost(self._engine, refusal)
            container = await self._engine.container(instance)
            if container is None or not await self._filled_again(container):
                raise
            await self._engine.start(instance)

    async def _filled_again(self, container: Inspected) -> bool:
        """Whether it has files, which are those now that its labels ask for."""
        labels = _labels(container)
        wanted: Mapping[str, Any] = (look.specification(labels) or {}).get("secrets") or {}
        sources, id = files.sources(container, wanted), look.placement_of(labels)
        if not sources or id is None:
            return False
        references = {
            path: SecretRef(reference=wanted[path]["secret"], version=wanted[path]["version"]) for path in sources
        }
        values = {
            os.path.basename(source): await self._tools.secret(references[path]) for path, source in sources.items()
        }
        folder = os.path.dirname(next(iter(sources.values())))
        await self._room(id).fill(str(container["Config"]["Image"]), folder, values)
        return True

    async def _answers(self, deploy: Deploy, instance: str) -> bool:
        container = await self._engine.container(instance)
        return container is None or look.reachable(container, render.specification(deploy.placement))

    # -- switch and prove -------------------------------------------------------------------------------------------

    async def switch(self, deploy: Deploy, instance: str) -> None:
        group, site = await self._group(deploy.id), self._sites[deploy.id]
        others = [one for one in group.workloads if one.running and one.id != instance]
        if names := render.specification(deploy.placement)["networks"]:
            await self._move_name(site, instance, others, names)
        else:
            await self._retire(one.id for one in others)
        site.beside = None

    async def _move_name(self, site: Site, instance: str, others: Iterable[Listed], names: Mapping[str, str]) -> None:
        container = await self._engine.container(instance)
        if container is None:
            return
        await traffic.give(self._engine, container, names)
        for former in (await self._inspected(others)).values():
            if former["State"].get("Running") and await traffic.take(self._engine, former, set(names.values())):
                site.left_at = anyio.current_time()

    async def workload(self, id: PlacementId, instance: str, health: Health | None) -> Workload | None:
        container = await self._engine.container(instance)
        if container is None:
            return None
        site = self._sites[id]
        site.glimpsed = container
        return look.workload(
            container,
            await self._image(container["Image"]),
            site.record_of(container),
            await checks.ask(self._engine, container, health),
            named=site.beside != instance,
        )

    # -- put back and settle ----------------------------------------------------------------------------------------

    async def put_back(self, deploy: Deploy, standing: Standing) -> str | None:
        group, site = await self._group(deploy.id), self._sites[deploy.id]
        before = self._before(deploy, group)
        failed = [one for one in group.workloads if one is not before and self._has_failed(site, one)]
        if before is not None:
            await self._restore(deploy, before, failed)
            await self._drain(site)
        await self._discard(failed)
        return before.id if before is not None else None

    def _before(self, deploy: Deploy, group: Group) -> Listed | None:
        """What stood; where that is an interrupted try of this very action, the newest that is kept of last good."""
        stood, good = self._sites[deploy.id].stood, deploy.predecessor
        found = next((one for one in group.workloads if stood is not None and one.id == stood.instance), None)
        if found is None or not self._is_ours(found):
            return found
        return next((one for one in group.workloads if good is not None and one.content == good.content), None)

    def _has_failed(self, site: Site, one: Listed) -> bool:
        """What this action made, and whatever else did not serve before what stood."""
        return self._is_ours(one) or one.running or not one.started or one.sequence > site.since

    async def _restore(self, deploy: Deploy, before: Listed, failed: Iterable[Listed]) -> None:
        """It serves again, or stands stopped as it was meant to; what failed makes way."""
        container, site = await self._engine.container(before.id), self._sites[deploy.id]
        if container is None:
            return
        record = site.record_of(container)
        if not self._is_to_run(deploy, site, record):
            await self._retire([before.id])
            return
        if not container["State"].get("Running"):
            await self._engine.set_restart(before.id, render.ALWAYS)
            await self._retire(one.id for one in failed)
        await self._serve(before.id, self._engine.start)
        await self._arm(await self._engine.container(before.id) or container, record)
        if names := (look.specification(record) or {}).get("networks"):
            await self._move_name(site, before.id, failed, names)

    def _is_to_run(self, deploy: Deploy, site: Site, record: Mapping[str, str]) -> bool:
        """As it was declared; else as it was seen, unless an interrupted try may have stopped it."""
        good, content = deploy.predecessor, (record.get(render.ARTIFACT), record.get(render.CONFIGURATION))
        if good is not None and good.content == content:
            return good.running
        return site.resumed or site.stood is None or site.stood.state is not WorkloadState.STOPPED

    async def settle(self, deploy: Deploy, instance: str) -> None:
        group, site = await self._group(deploy.id), self._sites[deploy.id]
        others = [one for one in group.workloads if one.id != instance]
        await self._drain(site)
        await self._retire(one.id for one in others)
        good = deploy.predecessor.content if deploy.predecessor else None
        kept = look.kept(group, instance, since=site.since, good=good, keep=deploy.keep)
        await self._discard(one for one in others if one not in kept)

    async def _drain(self, site: Site) -> None:
        if site.left_at is not None:
            await anyio.sleep(max(0.0, site.left_at + DRAIN - anyio.current_time()))

    async def _retire(self, instances: Iterable[str]) -> None:
        """Stopped within their grace, and not started again when the engine restarts."""
        for instance in instances:
            container = await self._engine.container(instance)
            if container is None:
                continue
            if container["HostConfig"].get("RestartPolicy", render.NEVER)["Name"] not in ("", "no"):
                await self._engine.set_restart(instance, render.NEVER)
            if container["State"].get("Running"):
                await self._engine.stop(instance)

    async def _arm(self, container: Inspected, record: Mapping[str, str]) -> None:
        """The restart policy it was made with is in force again."""
        recorded = (look.specification(record) or {}).get("restart")
        if recorded is not None and container["HostConfig"].get("RestartPolicy") != render.restart_policy(recorded):
            await self._engine.set_restart(container["Id"], render.restart_policy(recorded))

    async def _discard(self, containers: Iterable[Listed]) -> None:
        """Containers of ours, and then their images."""
        gone = list(containers)
        for one in gone:
            if one.running:
                await self._engine.stop(one.id)
            await self._clear(one)
            await self._engine.remove(one.id)
        await images.discard(self._engine, {one.image for one in gone})

    async def _clear(self, one: Listed) -> None:
        """The files of a container that goes are gone before it is."""
        wanted: Mapping[str, Any] = (look.specification(one.labels) or {}).get("secrets") or {}
        container = await self._engine.container(one.id) if wanted else None
        id = look.placement_of(one.labels)
        if container is not None and id is not None and (sources := files.sources(container, wanted)):
            folder = os.path.dirname(next(iter(sources.values())))
            await self._room(id).clear(str(container["Config"]["Image"]), folder)

    # -- restart and remove -----------------------------------------------------------------------------------------

    async def restart(self, id: PlacementId, instance: str) -> str:
        await self._group(id)
        container = await self._engine.container(instance)
        if container is not None:
            await self._arm(container, self._sites[id].record_of(container))
            with contextlib.suppress(Refused):  # the proof finds what the engine would not start
                await self._serve(instance, self._engine.restart)
        return instance

    async def remove(self, id: PlacementId) -> None:
        group = await self._group(id)
        await self._discard(group.workloads)

    # -- the sticker ------------------------------------------------------------------------------------------------

    async def wear(self, id: PlacementId, sticker: Sticker, envelope: Envelope) -> None:
        """A holder under the next number, then the former ones away: a crash leaves at most two, and the higher is
        read."""
        group, site = await self._recent(id), self._sites[id]
        subject = site.glimpsed if sticker.phase is Phase.PROVEN else site.container
        image = self._pinned(group, sticker.phase, subject)
        stood = subject is not None and site.container is not None and subject["Id"] == site.container["Id"]
        holding = render.Holding(
            phase=sticker.phase,
            envelope=envelope,
            image=image,
            instance=subject["Id"] if subject else "",
            adopted=site.record if site.adopted and stood else None,
        )
        made = await self._hold(render.holder(self._origin(id, sticker.sequence), holding))
        former, site.holders = site.holders, {made: image}
        for holder in former:
            await self._engine.remove(holder)
        if sticker.phase is Phase.PROVEN:  # until then a former holder may pin what a rollback needs
            await images.discard(self._engine, set(former.values()) - {image})

    async def _hold(self, body: render.Body) -> str:
        """The holder, made. Where its name is taken by one that no key of ours has signed, that one gives way."""
        with contextlib.suppress(Taken):
            return await self._engine.create(body)
        found = await self._engine.container(body.name)
        if found is None or self._tools.read(Envelope(_labels(found).get(codec.LABEL, ""))) is not None:
            raise Conflict(f"a sticker of that number is worn already, {body.name}")
        await self._engine.remove(found["Id"])
        return await self._engine.create(body)

    def _pinned(self, group: Group, phase: Phase, subject: Inspected | None) -> str:
        """The image the holder is made of, so that it stays: always by content, never by a name that may move."""
        for change in self._action.changes:
            if change.id == group.id and phase is Phase.IN_TRANSIT and not isinstance(change, Remove):
                return str(change.placement.artifact)
        if subject is None:
            return (*group.holders, *group.workloads)[0].image_id
        made_from = str(subject["Config"].get("Image", ""))
        return made_from if "@sha256:" in made_from else str(subject["Image"])

    async def bare(self, id: PlacementId) -> None:
        group = await self._group(id)
        for holder in group.holders:
            await self._engine.remove(holder.id)
        self._sites[id].holders = {}
        await images.discard(self._engine, {holder.image for holder in group.holders})


def _labels(container: Inspected) -> Mapping[str, str]:
    return container["Config"].get("Labels") or {}
