"""The hands of the ECS driver on one service, for the length of one action.

ECS changes a service as a whole: another component of the same task is started again with it, from the same content.
Nothing here is held by a condition that ECS would check: what the service carries is read again before each change and
after it, and the tags say who came later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import anyio

from desired_state.health import Health
from desired_state.model import Placement
from drivers.contract import Action, Deploy, Progress, Remove, Report, Step, Tools
from drivers.ecs import look, render, tags
from drivers.ecs.look import View
from drivers.ecs.render import Container
from drivers.ecs.revisions import Revision, to_list
from drivers.ecs.sight import Place, Sight, placed, read_template
from drivers.ecs.tags import Deed, Work
from drivers.errors import Conflict, InvalidAction, OutcomeUnknown, Refused, StaleFence
from drivers.sequence import Started
from stickers.names import ComponentName, Digest, PlacementId
from stickers.observation import Standing, Workload, WorkloadState
from stickers.signature import Envelope
from stickers.sticker import Phase, Sticker

POLL: Final = 2.0  # seconds between two looks at a rollout


class EcsHands:
    """What is known while one action goes on: what stood at the look, what was registered, what had been begun."""

    def __init__(self, action: Action, place: Place, sight: Sight, report: Report) -> None:
        self.action, self.place, self.sight, self.report = action, place, sight, report
        self.tools: Tools = sight.tools
        self._stood: dict[PlacementId, View] = {}
        self._base: Revision | None = None  # what the service was brought to when the action was prepared
        self._revision: Revision | None = None  # what it is brought to by the action
        self._since = ""  # the deployment before the one that this action began last
        self._restarted = False
        self._put_back: set[str] = set()  # revisions that it is brought back to
        self._marked: set[PlacementId] = set()
        self._begun: set[PlacementId] = set()

    # -- looking ----------------------------------------------------------------------------------------------------

    async def look(self, id: PlacementId, adopts: str | None) -> Standing:
        if adopts is not None:
            raise InvalidAction("this driver cannot take over what it did not start; deploy in its place")
        view = self._stood[id] = await self.sight.view(self.place)
        template = None if id in self._removed else await read_template(self.place)
        return look.standing(view, self._container(id), id.component, template)

    async def workload(self, id: PlacementId, instance: str, health: Health | None) -> Workload | None:
        view = await self.sight.view(self.place)
        found = await self.sight.workload(view, self.place, id.component, health)
        return found if found is not None and found.instance == instance else None

    # -- deploying --------------------------------------------------------------------------------------------------

    async def prepare(self, deploy: Deploy) -> None:
        """Register the task definition of all that the action deploys. ECS pulls the images itself, by their digests,
        when it starts the tasks."""
        view = await self._guarded(deploy.id)
        self._refuse_half_stopped(deploy.placement, view)
        self._refuse_too_many_tags(view)
        if self._revision is None:
            self._base, self._revision = view.revision, await self._registered(await self._wanted(view))

    async def start(self, deploy: Deploy) -> Started:
        """The first call starts everything: all that is deployed was marked before it."""
        view, revision = await self._guarded(deploy.id), self._prepared
        if deploy.id not in self._begun:
            if self._base is None or view.revision.arn != self._base.arn:
                raise Conflict(f"{self.place} was changed to {view.revision.name} in the meantime")
            await self._update(view, revision, running=deploy.placement.running)
            self._begun |= self._marked
        view = await self._rolled_out(deploy.id, revision)
        instance = f"{view.service.name}/{self._container(deploy.id)}@{self._content(deploy.id)}.{self.action.key[:12]}"
        return Started(instance=instance, beside=False, failed=self._failed(view, revision))

    def _failed(self, view: View, revision: Revision) -> str | None:
        """Why the rollout came to nothing, where ECS says so itself. `Conflict` where somebody else changed it."""
        if view.primary.definition == revision.arn and view.primary.rollout != "FAILED":
            return None
        said = look.rollbacks(view)
        if not said:
            raise Conflict(f"{self.place} was changed to {view.revision.name} in the meantime")
        return "; ".join(said)

    async def switch(self, deploy: Deploy, instance: str) -> None:
        """ECS has moved the traffic while it rolled out."""

    async def put_back(self, deploy: Deploy, standing: Standing) -> str | None:
        view = await self._guarded(deploy.id)
        back = await self._before(deploy, view)
        ours = {one.arn for one in (self._base, self._revision, back) if one is not None}
        if view.revision.arn not in ours | self._put_back:
            raise Conflict(f"{self.place} was changed to {view.revision.name} in the meantime")
        if back is None:
            await self._take_away(deploy.id, view)
            return None
        container = self._container(deploy.id)
        if self._siblings(view.revision, container) != self._siblings(back, container):
            back = await self._registered(self._running(view) | {container: _as_ours(back, container)})
        self._put_back.add(back.arn)
        running = self._should_run(deploy, standing, back)
        if view.primary.definition != back.arn or running != (view.service.desired > 0):
            await self._update(view, back, running=running)
        await self._forget_deed(deploy.id)
        await self._rolled_out(deploy.id, back, Step.PUT_BACK)
        now = await self.sight.view(self.place)
        found = look.workload(now, container, deploy.id.component)
        return found.instance if found else None

    async def settle(self, deploy: Deploy, instance: str) -> None:
        """ECS has ended the predecessor's tasks. Its revision stays registered, as all do: they cost nothing."""
        view, component = await self._guarded(deploy.id), deploy.id.component
        good = deploy.predecessor.content if deploy.predecessor else None
        names: dict[object, str] = {}  # the newest revision of each content, the newest content first
        for name in tags.kept(view.service.tags, component):
            content = self._contents(view.kept.get(name), deploy.id)
            if content not in (None, deploy.placement.content):
                names.setdefault(content, name)
        spared = [name for index, (content, name) in enumerate(names.items()) if index < deploy.keep or content == good]
        await self._write(view, {tags.kept_key(component): tags.kept_text(spared)})

    # -- restarting, removing, labelling ----------------------------------------------------------------------------

    async def restart(self, id: PlacementId, instance: str) -> str:
        """A new deployment of the same revision: every container of the task is started again."""
        view = await self._guarded(id)
        content = look.content_of(view.revision, self._container(id))
        if not self._is_begun(view, id, content):
            since = self._since if self._restarted else view.primary.id
            deed = Deed(key=self.action.key, content=content, since=since)
            await self._write(view, {tags.work_key(id.component): tags.work_text(self._work(view, id, deed))})
            if not self._restarted:  # with the first, all of the task are
                await self._update(view, view.revision, running=True)
                self._restarted = True
        await self._rolled_out(id, view.revision)
        return f"{view.service.name}/{self._container(id)}@{content}.{self.action.key[:12]}"

    async def remove(self, id: PlacementId) -> None:
        await self._take_away(id, await self._guarded(id))

    async def wear(self, id: PlacementId, sticker: Sticker, envelope: Envelope) -> None:
        """All in one call: the sticker, whose work it is, and what was there before."""
        view, component = await self._guarded(id), id.component
        written = tags.sticker_tags(component, envelope)
        if sticker.phase is Phase.IN_TRANSIT:
            written |= self._mark(view, id)
        else:
            written |= self._proven(view, id)
        stale = set(tags.chunk_keys(view.service.tags, component)) - written.keys()
        await self._write(view, written)
        await self._erase(view, stale)

    async def bare(self, id: PlacementId) -> None:
        view = await self._guarded(id)
        erased = set(tags.chunk_keys(view.service.tags, id.component))
        if not tags.of_component(view.service.tags.keys() - erased):
            erased |= {tags.OWNER, tags.TASKS}
        await self._erase(view, erased)

    def _mark(self, view: View, id: PlacementId) -> dict[str, str]:
        """What is about to be done. What stands now is kept first, unless it is itself on its way and was never
        proven."""
        found = {tags.OWNER: tags.owner(self.tools.installation, self.place.target)}
        if id not in self._deployed:  # a removal
            return found | {tags.work_key(id.component): tags.work_text(self._work(view, id, None))}
        self._marked.add(id)
        content, work = self._content(id), tags.work(view.service.tags, id.component)
        if self._is_begun(view, id, content):
            self._begun.add(id)
            return found
        deed = Deed(key=self.action.key, content=content, since=view.primary.id)
        found[tags.work_key(id.component)] = tags.work_text(self._work(view, id, deed))
        stands = look.workload(view, self._container(id), id.component)
        if stands is not None and (work is None or work.deed is None):
            names = (view.revision.name, *tags.kept(view.service.tags, id.component))
            found[tags.kept_key(id.component)] = tags.kept_text(names)
        return found

    def _proven(self, view: View, id: PlacementId) -> dict[str, str]:
        work = self._work(view, id, None)
        made = look.maker(view, self._container(id), tags.work(view.service.tags, id.component))
        content = look.content_of(view.revision, self._container(id))
        return {tags.work_key(id.component): tags.work_text(replace(work, key=made, content=content))}

    # -- the parts of steps -----------------------------------------------------------------------------------------

    async def _guarded(self, id: PlacementId) -> View:
        """The service as it is, unless somebody with a higher fence has acted on the placement."""
        view = await self.sight.view(self.place)
        self._refuse_stale(view, id)
        return view

    def _refuse_stale(self, view: View, id: PlacementId) -> None:
        work = tags.work(view.service.tags, id.component)
        if work is not None and work.fence > self.action.fence:
            raise StaleFence(f"{id} was changed under fence {work.fence}, this action holds {self.action.fence}")

    def _work(self, view: View, id: PlacementId, deed: Deed | None) -> Work:
        work = tags.work(view.service.tags, id.component) or Work()
        return replace(work, fence=max(work.fence, self.action.fence), deed=deed)

    def _is_begun(self, view: View, id: PlacementId, content: str) -> bool:
        """Whether an earlier try of this action has had ECS begin: a deployment has followed the one it found, and
        brings that content, or ECS has taken it back already."""
        work, container = tags.work(view.service.tags, id.component), self._container(id)
        deed = work.deed if work else None
        if deed is None or (deed.key, deed.content) != (self.action.key, content) or deed.since == view.primary.id:
            return False
        stands = container in view.revision.containers and look.content_of(view.revision, container) == content
        return stands or bool(look.rollbacks(view))

    async def _update(self, view: View, revision: Revision, *, running: bool) -> None:
        """Bring the service to the revision by a new deployment; whoever looks knows it by its number."""
        parameters: dict[str, Any] = {}
        if not running:
            parameters["desiredCount"] = 0
            if view.service.desired > 0:
                await self._write(view, {tags.TASKS: str(view.service.desired)})
        elif view.service.desired == 0:
            said = view.service.tags.get(tags.TASKS, "")
            parameters["desiredCount"] = int(said) if said.isdigit() and int(said) else self.place.connection.tasks
        self._since = view.primary.id
        answer = await self._change(
            "UpdateService",
            cluster=self.place.connection.cluster,
            service=view.service.arn,
            taskDefinition=revision.arn,
            forceNewDeployment=view.primary.definition == revision.arn,
            **parameters,
        )
        primary = look.service(answer["service"]).primary
        if primary is None or primary.definition != revision.arn:
            raise OutcomeUnknown(f"{self.place} was brought to {revision.name}, and ECS answered of another")
        if running:
            await self._erase(view, {tags.TASKS})

    async def _rolled_out(self, id: PlacementId, revision: Revision, step: Step = Step.START) -> View:
        """Wait while ECS rolls the revision out, as long as the target says; answers the last look at it."""
        told, view = "", await self._guarded(id)
        with anyio.move_on_after(self.place.connection.rollout):
            while self._is_going(view, revision):
                now = f"{revision.name}: {view.primary.running} of {view.primary.desired} tasks run"
                if now != told:
                    self.report(Progress(id=id, step=step, message=now))
                told = now
                await anyio.sleep(POLL)
                view = await self._guarded(id)
        if view.primary.id == self._since:
            raise OutcomeUnknown(f"{self.place} was brought to {revision.name}, and ECS does not show it")
        return view

    def _is_going(self, view: View, revision: Revision) -> bool:
        """Still on its way, or not to be seen yet: what ECS tells may be older than what it has done."""
        if view.primary.id == self._since or (view.service.desired == 0 and view.service.running > 0):
            return True
        return view.primary.definition == revision.arn and look.is_rolling(view)

    async def _take_away(self, id: PlacementId, view: View) -> None:
        """The task without the component; without any, no task. The service itself stays."""
        container, component = self._container(id), id.component
        gone = {container, *(self._container(one) for one in self._removed)}
        rest = {name: one for name, one in self._running(view).items() if name not in gone}
        if rest and container in view.revision.containers:
            revision = await self._registered(rest)
            await self._update(view, revision, running=view.service.desired > 0)
            await self._rolled_out(id, revision, Step.REMOVE)
        elif not rest and view.service.desired > 0:
            await self._change(
                "UpdateService", cluster=self.place.connection.cluster, service=view.service.arn, desiredCount=0
            )
            await self._rolled_out(id, view.revision, Step.REMOVE)
        await self._erase(view, {tags.work_key(component), tags.kept_key(component)})

    async def _forget_deed(self, id: PlacementId) -> None:
        view = await self._guarded(id)
        await self._write(view, {tags.work_key(id.component): tags.work_text(self._work(view, id, None))})

    # -- task definitions -------------------------------------------------------------------------------------------

    async def _registered(self, running: Mapping[str, Container]) -> Revision:
        template = await read_template(self.place)
        try:
            definition = render.definition(template, running)
        except render.WrongTemplate as error:
            raise InvalidAction(f"template of {self.place.target}: {error}") from None
        return await self.place.account.revisions.registered(
            definition, template.tags, template.digest, self.place.connection
        )

    async def _rendered(self, placement: Placement) -> Container:
        template = await read_template(self.place)
        for sentence in render.unasked(template, placement):
            raise InvalidAction(f"{placement.id}: {sentence}")
        try:
            return render.container(template, placement, self.tools.installation)
        except render.WrongTemplate as error:
            raise InvalidAction(f"template of {self.place.target}: {error}") from None

    @property
    def _prepared(self) -> Revision:
        assert self._revision is not None  # nothing is marked or started before it is prepared
        return self._revision

    @property
    def _deployed(self) -> set[PlacementId]:
        return {change.id for change in self.action.changes if isinstance(change, Deploy)}

    @property
    def _removed(self) -> set[PlacementId]:
        return {change.id for change in self.action.changes if isinstance(change, Remove)}

    async def _wanted(self, view: View) -> dict[str, Container]:
        """The containers when all of the action is done: those that stand, without what it removes."""
        found = self._running(view)
        for change in self.action.changes:
            match change:
                case Deploy():
                    found[self._container(change.id)] = await self._rendered(change.placement)
                case Remove():
                    found.pop(self._container(change.id), None)
        return found

    def _running(self, view: View) -> dict[str, Container]:
        """The containers of components that stand, as they are."""
        found: dict[str, Container] = {}
        for name, component in self.place.connection.containers.items():
            if look.workload(view, name, ComponentName(component)) is not None:
                found[name] = _as_ours(view.revision, name)
        return found

    def _siblings(self, revision: Revision, container: str) -> dict[str, str]:
        mapped = self.place.connection.containers
        return {
            name: look.content_of(revision, name)
            for name in revision.containers
            if name in mapped and name != container
        }

    async def _before(self, deploy: Deploy, view: View) -> Revision | None:
        """The revision to put back: last good where it is kept, else what stood, unless this action brought it."""
        stood, container = self._stood[deploy.id], self._container(deploy.id)
        standing = look.workload(stood, container, deploy.id.component)
        before = stood.revision if standing is not None and standing.key != self.action.key else None
        kept = [view.kept[name] for name in tags.kept(view.service.tags, deploy.id.component) if name in view.kept]
        good = deploy.predecessor.content if deploy.predecessor else None
        for one in [*([before] if before else []), *kept]:
            if good is not None and self._contents(one, deploy.id) == good:
                return one
        return before

    def _should_run(self, deploy: Deploy, standing: Standing, back: Revision) -> bool:
        """As it is declared; for what nobody ever proved, as it was found."""
        before = deploy.predecessor
        if before is not None and self._contents(back, deploy.id) == before.content:
            return before.running
        return standing.workload is not None and standing.workload.state is not WorkloadState.STOPPED

    def _contents(self, revision: Revision | None, id: PlacementId) -> tuple[Digest, Digest] | None:
        return look.contents(revision, self._container(id), id.component) if revision else None

    def _content(self, id: PlacementId) -> str:
        return look.content_of(self._prepared, self._container(id))

    def _container(self, id: PlacementId) -> str:
        return placed(self.place, id)

    def _refuse_half_stopped(self, placement: Placement, view: View) -> None:
        """The containers of a task start and stop together."""
        deploys = [change.placement for change in self.action.changes if isinstance(change, Deploy)]
        others = {one.id.component for one in deploys if one.running}
        if not placement.running and view.service.desired > 0:
            component_of = self.place.connection.containers
            standing = {ComponentName(component_of[name]) for name in self._running(view)}
            others |= standing - {one.id.component for one in deploys}
        if not placement.running and others:
            raise InvalidAction(
                f"{placement.id} is declared stopped and {min(others)} of the same task is not: "
                "containers of a task stop together"
            )

    def _refuse_too_many_tags(self, view: View) -> None:
        """Before anything is marked: there is room for what every change of the action will write."""
        keys = {*view.service.tags, tags.OWNER}
        for id in self._deployed:
            keys |= {tags.work_key(id.component), tags.kept_key(id.component), *tags.usual_chunks(id.component)}
        self._refuse_tags(len(keys))

    def _refuse_tags(self, count: int) -> None:
        if count > render.MOST_TAGS:
            raise Refused(f"{self.place} would carry {count} tags, and ECS takes {render.MOST_TAGS}")

    # -- writing ----------------------------------------------------------------------------------------------------

    async def _write(self, view: View, written: Mapping[str, str]) -> None:
        wanted = {key: value for key, value in written.items() if value != view.service.tags.get(key, "")}
        self._refuse_tags(len({*view.service.tags, *wanted}))
        if wanted:
            await self._change("TagResource", resourceArn=view.service.arn, tags=to_list(wanted))

    async def _erase(self, view: View, keys: set[str]) -> None:
        if found := sorted(keys & view.service.tags.keys()):
            await self._change("UntagResource", resourceArn=view.service.arn, tagKeys=found)

    async def _change(self, operation: str, **parameters: Any) -> Mapping[str, Any]:
        return await self.place.account.api.change(operation, self.place.connection, **parameters)


def _as_ours(revision: Revision, container: str) -> Container:
    """As it stands; what somebody copied by hand is not called ours."""
    found = revision.containers[container]
    return found if revision.intact else render.disowned(found)
