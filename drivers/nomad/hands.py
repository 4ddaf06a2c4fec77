"""The steps of one action on a Nomad job, each safe to repeat.

Every change is a whole job, registered under the index of the job it takes the place of: whoever came in between is a
`Conflict`, and nothing is touched. What stood before is an earlier version of the job, so the way back needs no
artifact and no template: where that version is the whole job again, Nomad is told to revert to it, and where another
component has changed since, the one task is taken from it.

Where the template asks for canaries, they come up beside what serves; to switch is to promote them. A deployment that
Nomad has reverted itself (`AutoRevert`) is found so, proven and labelled, and nothing is done twice.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Final

import anyio

from desired_state.health import Health
from desired_state.model import Placement
from desired_state.secrets import SecretRef
from drivers.contract import Action, Deploy, Tools
from drivers.errors import Busy, Conflict, InvalidAction, Refused, StaleFence
from drivers.nomad import compare, look, render
from drivers.nomad.cluster import Cluster
from drivers.nomad.connection import Connection
from drivers.nomad.eyes import Eyes, outline
from drivers.nomad.look import Content, Holder, Scene
from drivers.nomad.render import Job, Outline, Part
from drivers.sequence import Started
from stickers import codec
from stickers.names import PlacementId
from stickers.observation import Standing, Workload
from stickers.signature import Envelope
from stickers.sticker import Phase, Sticker

SCHEDULED: Final = 30.0  # seconds for Nomad's scheduler to say what it will do
ENDING: Final = 120.0  # seconds for an allocation to end; one on a node that is lost may take longer
PAUSE: Final = 0.02  # between two blocking queries, for a server that does not block
TRIES: Final = 5  # to write a Variable that others write too
SETTLED: Final = frozenset({"complete", "failed", "blocked", "canceled"})


@dataclass(slots=True, kw_only=True)
class Site:
    """One placement while an action is on its way. `before` is what served before the first try of whatever is in
    transit; `version` is the job's when it was looked at."""

    resumed: bool
    stood: Workload | None
    version: int | None
    before: Content | None
    kept: tuple[Content, ...]
    beside: bool = False


class NomadHands:
    """Hands for one action on one job."""

    def __init__(self, eyes: Eyes, connection: Connection, action: Action, tools: Tools) -> None:
        self._eyes, self._connection, self._action, self._tools = eyes, connection, action, tools
        self._cluster: Cluster = eyes.cluster
        self._sites: dict[PlacementId, Site] = {}
        self._outlined: Outline | None = None
        self._prepared: dict[PlacementId, Deploy] = {}  # when the first is started, all that was prepared is marked

    # -- look -------------------------------------------------------------------------------------------------------

    async def look(self, id: PlacementId, adopts: str | None) -> Standing:
        if adopts is not None:
            raise InvalidAction(f"{id}: a task of somebody else's job cannot be taken over as it is")
        scene, held = await self._seen(id)
        found = await self._eyes.workload(scene, id, None)
        seen = look.standing(scene, self._tools.installation, id, held, found)
        content = self._part(scene, id)
        before = held.before if held.in_transit else content.content if content is not None else None
        self._sites[id] = Site(
            resumed=held.in_transit,
            stood=found,
            version=int(scene.job["Version"]) if scene.job is not None else None,
            before=before,
            kept=held.kept,
        )
        return seen

    async def _seen(self, id: PlacementId) -> tuple[Scene, Holder]:
        scene = await self._eyes.scene(self._connection.job)
        if look.is_strange(scene.job, self._tools.installation, id.target):
            raise Conflict(f"a job {self._connection.job} is there and holds nothing of {id.target}: it is not ours")
        return scene, look.holder(await self._cluster.variable(self._path(id)))

    async def _guarded(self, id: PlacementId) -> tuple[Scene, Holder]:
        """As it is now; `StaleFence` where somebody with a higher fence has been."""
        scene, held = await self._seen(id)
        part = self._part(scene, id)
        fence = max(held.fence, part.fence if part is not None else 0)
        if fence > self._action.fence:
            raise StaleFence(f"{id} was changed under fence {fence}, this action holds {self._action.fence}")
        return scene, held

    def _part(self, scene: Scene, id: PlacementId) -> Part | None:
        return render.parts(scene.job, self._tools.installation, id.target).get(id.component)

    def _path(self, id: PlacementId) -> str:
        return look.path(self._tools.installation, id)

    # -- prepare ----------------------------------------------------------------------------------------------------

    async def prepare(self, deploy: Deploy) -> None:
        """The job, rendered; Nomad's own word that it takes it; the secrets where the task will read them."""
        scene = await self._eyes.scene(self._connection.job)
        there = await self._outline()
        job = render.with_components(there, self._all_deployed(deploy), self._origin, scene.job)
        await self._cluster.plan(job)
        await self._bring_secrets(there, deploy.placement)
        self._prepared[deploy.id] = deploy

    def _all_deployed(self, deploy: Deploy) -> list[Placement]:
        """Everything that the action puts into the job: tasks of one group come and go together."""
        return [change.placement for change in self._action.changes if isinstance(change, Deploy)] or [deploy.placement]

    async def _outline(self) -> Outline:
        if self._outlined is None:
            self._outlined = await outline(self._cluster, self._connection)
        return self._outlined

    @property
    def _origin(self) -> render.Origin:
        return render.Origin(
            installation=self._tools.installation,
            target=self._action.target.id,
            key=self._action.key,
            fence=self._action.fence,
        )

    async def _bring_secrets(self, there: Outline, placement: Placement) -> None:
        wanted = render.secret_items(placement.configuration)
        if not wanted:
            return
        values: dict[SecretRef, str] = {}
        for _, secret in wanted.values():
            if secret not in values:
                values[secret] = await self._tools.secret(secret)
        items = {item: values[secret] for item, (_, secret) in wanted.items()}
        await self._write_secrets(render.secrets_path(there, there.place(placement.id)), items)

    async def _write_secrets(self, path: str, items: dict[str, str]) -> None:
        """Beside what others keep there."""
        for _ in range(TRIES):
            held = look.holder(await self._cluster.variable(path))
            if items.items() <= held.items.items():
                return
            with contextlib.suppress(Conflict):
                await self._cluster.put_variable(path, {**held.items, **items}, held.index)
                return
        raise Conflict(f"the Variable {path} is written to by somebody else")

    # -- start and switch -------------------------------------------------------------------------------------------

    async def start(self, deploy: Deploy) -> Started:
        scene, _ = await self._guarded(deploy.id)
        if not self._is_begun(scene, deploy):
            together = [one.placement for one in self._prepared.values() if not self._is_begun(scene, one)]
            job = render.with_components(await self._outline(), together, self._origin, scene.job)
            scene = await self._registered(job, scene)
        found, part = look.deployment(scene, self._tools.installation, deploy.id), self._part(scene, deploy.id)
        if scene.job is None or part is None:
            raise Conflict(f"{deploy.id}: what was put into job {self._connection.job} is gone from it")
        beside = look.awaits_promotion(found, part.group["Name"])
        self._sites[deploy.id].beside = beside
        return Started(instance=look.instance(scene.job, part), beside=beside)

    def _is_begun(self, scene: Scene, deploy: Deploy) -> bool:
        """An earlier try of this action has put it into the job, and nobody has taken it out or stopped it since."""
        part = self._part(scene, deploy.id)
        if part is None or scene.job is None or part.key != self._action.key:
            return False
        runs = part.count > 0 and not scene.job.get("Stop")
        return part.content == deploy.placement.content and runs == deploy.placement.running

    async def _registered(self, job: Job, scene: Scene) -> Scene:
        answer = await self._cluster.register(job, scene.index)
        return await self._scheduled(answer)

    async def _scheduled(self, answer: dict[str, Any]) -> Scene:
        """Once the scheduler has thought about it: until then, neither allocations nor a deployment tell anything."""
        evaluation, index = answer.get("EvalID"), 0
        with anyio.move_on_after(SCHEDULED):
            while evaluation:
                found, index = await self._cluster.evaluation_after(evaluation, index)
                if found["Status"] in SETTLED:
                    break
                await anyio.sleep(PAUSE)
        return await self._eyes.scene(self._connection.job)

    async def switch(self, deploy: Deploy, instance: str) -> None:
        scene, _ = await self._guarded(deploy.id)
        part, found = self._part(scene, deploy.id), look.deployment(scene, self._tools.installation, deploy.id)
        self._sites[deploy.id].beside = False
        if part is None or scene.job is None or look.instance(scene.job, part) != instance:
            raise Conflict(f"{deploy.id}: what was proven is not what stands in the job any more")
        if found is not None and look.awaits_promotion(found, part.group["Name"]):
            await self._cluster.promote(found["ID"], part.group["Name"])

    async def workload(self, id: PlacementId, instance: str, health: Health | None) -> Workload | None:
        scene = await self._eyes.scene(self._connection.job)
        found = await self._eyes.workload(scene, id, health, canaries=self._sites[id].beside)
        return found if found is not None and found.instance == instance else None

    # -- put back and settle ----------------------------------------------------------------------------------------

    async def put_back(self, deploy: Deploy, standing: Standing) -> str | None:
        scene, _ = await self._guarded(deploy.id)
        self._sites[deploy.id].beside = False
        back = self._before(scene, deploy)
        if back is None:
            await self._without(scene, deploy.id)
            return None
        version, part, count = back
        now = self._part(scene, deploy.id)
        if scene.job is None or now is None or now.task != part.task or now.count != count:
            job = render.with_part(await self._outline(), deploy.id, part, scene.job, self._origin)
            job = render.at_count(job, part, count)
            scene = await self._reverted(job, version, scene)
        if not await self._alone(deploy.id):
            raise Busy(f"{deploy.id}: what failed is out of the job, and has not ended in {ENDING:g} s")
        now = self._part(scene, deploy.id)
        if scene.job is None or now is None:
            raise Conflict(f"{deploy.id}: what was put back is gone from job {self._connection.job}")
        return look.instance(scene.job, now)

    def _before(self, scene: Scene, deploy: Deploy) -> tuple[Job | None, Part, int] | None:
        """The version, the component in it, and how many of it are to run; None where nothing stood."""
        site, good = self._sites[deploy.id], deploy.predecessor
        found: tuple[Job | None, Part] | None
        if site.resumed:
            content = good.content if good is not None else site.before
            found = self._kept_version(scene, deploy.id, content) if content is not None else None
        elif site.stood is None:
            return None
        else:
            content = site.before
            found = next(
                (self._of(version, deploy.id) for version in scene.versions if version["Version"] == site.version), None
            )
        if content is None:
            return None
        if found is None and good is not None and good.content == content and self._outlined is not None:
            job = render.with_components(self._outlined, [good], self._origin, scene.job)
            found = None, render.parts(job, self._tools.installation, deploy.id.target)[deploy.id.component]
        if found is None:
            raise Refused(f"{deploy.id}: Nomad has not kept the version of job {self._connection.job} to be put back")
        return (*found, self._count(deploy, *found))

    def _kept_version(self, scene: Scene, id: PlacementId, content: Content) -> tuple[Job, Part] | None:
        return look.version_with(scene, id, self._tools.installation, content)

    def _of(self, version: Job, id: PlacementId) -> tuple[Job, Part] | None:
        part = render.parts(version, self._tools.installation, id.target).get(id.component)
        return (version, part) if part is not None else None

    def _count(self, deploy: Deploy, version: Job | None, part: Part) -> int:
        """As it was declared; else as it was found."""
        good = deploy.predecessor
        if good is not None and good.content == part.content:
            return max(1, part.count) if good.running else 0
        return 0 if version is not None and version.get("Stop") else part.count

    async def _reverted(self, job: Job, version: Job | None, scene: Scene) -> Scene:
        """Nomad is told to revert where an earlier version is the whole job again."""
        if version is not None and scene.job is not None and _is_whole(job, version) and not version.get("Stop"):
            prior = int(scene.job["Version"])
            return await self._scheduled(await self._cluster.revert(job["ID"], int(version["Version"]), prior=prior))
        return await self._registered(job, scene)

    async def settle(self, deploy: Deploy, instance: str) -> None:
        """What is kept is written down with the sticker; secrets that no kept version reads are taken away."""
        site, content = self._sites[deploy.id], deploy.placement.content
        former = [site.before, *site.kept] if site.before is not None else [*site.kept]
        good = deploy.predecessor.content if deploy.predecessor is not None else None
        distinct = [one for one in dict.fromkeys(former) if one != content]
        if good is not None and good in distinct:
            distinct.sort(key=lambda one: one != good)
        site.kept = tuple(one for index, one in enumerate(distinct) if index < deploy.keep or one == good)
        await self._collect_secrets(deploy.id)
        if not await self._alone(deploy.id):
            raise Refused(f"{deploy.id}: what was replaced has not ended in {ENDING:g} s")

    async def _alone(self, id: PlacementId) -> bool:
        """Once what is no more in the job has ended; False when it would not."""
        scene, _ = await self._guarded(id)
        part = self._part(scene, id)
        own = frozenset(str(one["ID"]) for one in look.members(scene, self._tools.installation, id))
        return part is None or await self._ended(part.group["Name"], own)

    async def _collect_secrets(self, id: PlacementId) -> None:
        there = await self._outline()
        path = render.secrets_path(there, there.place(id)) if _has_path(there, id) else None
        held = look.holder(await self._cluster.variable(path)) if path and self._may_have_secrets(id) else None
        if path is None or held is None or not held.index:
            return
        scene = await self._eyes.scene(self._connection.job)
        used = str([version["TaskGroups"] for version in scene.versions])
        left = {item: value for item, value in held.items.items() if not render.is_secret_item(item) or item in used}
        if left != dict(held.items):
            with contextlib.suppress(Conflict):  # somebody writes there: another time
                await self._cluster.put_variable(path, left, held.index)

    def _may_have_secrets(self, id: PlacementId) -> bool:
        """Whether any placement of this action speaks of a secret: others are not worth a question."""
        spoken = [change for change in self._action.changes if isinstance(change, Deploy) and change.id == id]
        placements = [one for change in spoken for one in (change.placement, change.predecessor) if one is not None]
        return any(render.secret_items(one.configuration) for one in placements)

    # -- restart and remove -----------------------------------------------------------------------------------------

    async def restart(self, id: PlacementId, instance: str) -> str:
        scene, _ = await self._guarded(id)
        part = self._part(scene, id)
        if scene.job is None or part is None:
            raise Conflict(f"{id}: nothing stands in job {self._connection.job} to be restarted")
        running = look.live(scene, self._tools.installation, id)
        if scene.job.get("Stop") or part.count == 0:
            count = render.declared_count(await self._outline(), id)
            await self._registered(render.at_count(scene.job, part, count), scene)
        elif running:
            for one in running:
                await self._cluster.restart(one["ID"], part.task["Name"])
        else:
            await self._scheduled(await self._cluster.reschedule(scene.job["ID"]))
        return instance

    async def remove(self, id: PlacementId) -> None:
        scene, _ = await self._guarded(id)
        await self._without(scene, id)

    async def _without(self, scene: Scene, id: PlacementId) -> None:
        part, place = self._part(scene, id), self._connection.places.get(id.component)
        if scene.job is not None and part is not None:
            left, place = render.without_component(scene.job, id, self._tools.installation), part.place
            if left is None:
                await self._cluster.deregister(scene.job["ID"])
            else:
                await self._registered(left, scene)
        if place is not None and not await self._ended(place.group, await self._of_now(place.group)):
            raise Busy(f"{id}: is taken out of the job, and an allocation of it has not ended in {ENDING:g} s")

    async def _of_now(self, group: str) -> frozenset[str]:
        """What runs of the group for others, since its job has changed."""
        scene = await self._eyes.scene(self._connection.job)
        if scene.job is None or scene.job.get("Stop"):
            return frozenset()
        now = [one for one in scene.allocations if one["JobVersion"] == scene.job["Version"]]
        return frozenset(str(one["ID"]) for one in now if one["TaskGroup"] == group)

    async def _ended(self, group: str, but: frozenset[str]) -> bool:
        """Once no allocation of the group runs but those: Nomad stops them in its own time, within their grace. False
        when one would not end."""
        index = 0
        with anyio.move_on_after(ENDING):
            while True:
                found, index = await self._cluster.allocations_after(self._connection.job, index)
                if not any(one["TaskGroup"] == group and _runs(one) and one["ID"] not in but for one in found):
                    return True
                await anyio.sleep(PAUSE)
        return False

    # -- the sticker ------------------------------------------------------------------------------------------------

    async def wear(self, id: PlacementId, sticker: Sticker, envelope: Envelope) -> None:
        _, held = await self._guarded(id)
        site = self._sites[id]
        labels = codec.to_labels(envelope)
        items = {
            look.FORMAT: labels[codec.LABEL_FORMAT],
            look.ENVELOPE: labels[codec.LABEL],
            look.FENCE: str(self._action.fence),
            look.PHASE: sticker.phase.value,
            look.KEPT: look.contents(
                [one for one in site.kept if one != sticker.claim.content or not _proven(sticker)]
            ),
        }
        if sticker.phase is Phase.IN_TRANSIT and site.before is not None:
            items[look.BEFORE] = look.contents([site.before])
        await self._cluster.put_variable(self._path(id), items, held.index)

    async def bare(self, id: PlacementId) -> None:
        _, held = await self._guarded(id)
        if held.index:
            await self._cluster.delete_variable(self._path(id), held.index)


def _proven(sticker: Sticker) -> bool:
    return sticker.phase is Phase.PROVEN


def _runs(allocation: look.Json) -> bool:
    return allocation["ClientStatus"] in ("pending", "running")


def _has_path(there: Outline, id: PlacementId) -> bool:
    return id.component in there.places


def _is_whole(job: Job, version: Job) -> bool:
    """Whether this version of the job is the whole of it again."""
    groups = {group["Name"]: group for group in version.get("TaskGroups") or ()}
    if groups.keys() != {group["Name"] for group in job["TaskGroups"]}:
        return False
    own = {name: value for name, value in job.items() if name not in ("TaskGroups", "Stop")}
    counts = all(render.count(group) == render.count(groups[group["Name"]]) for group in job["TaskGroups"])
    return counts and compare.holds(own, version) and all(_holds(group, groups) for group in job["TaskGroups"])


def _holds(group: render.Group, groups: dict[str, render.Group]) -> bool:
    there = groups[group["Name"]]
    tasks = {task["Name"]: task for task in there["Tasks"]}
    same = tasks.keys() == {task["Name"] for task in group["Tasks"]}
    return (
        same
        and compare.holds(group, there)
        and all((task.get("Meta") or {}) == (tasks[task["Name"]].get("Meta") or {}) for task in group["Tasks"])
    )
