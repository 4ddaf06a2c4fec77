"""Looking at the jobs of one cluster: what is there, how healthy it is, and, where it is not as rendered, in Nomad's
own words why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread

from desired_state.health import CommandCheck
from desired_state.health import Health as Rules
from desired_state.model import Placement
from drivers import probes
from drivers.contract import Look
from drivers.errors import DriverError, Refused, Unreachable
from drivers.nomad import look, render
from drivers.nomad.cluster import Cluster
from drivers.nomad.connection import Connection
from drivers.nomad.look import UNCHECKED, Json, Scene
from drivers.nomad.render import Outline
from stickers.names import ActionKey, InstallationId, PlacementId
from stickers.observation import Health, HealthState, Observation, Standing, Workload, WorkloadState

LARGEST: Final = 1 << 20  # bytes of a template's file
ASKED: Final = 16  # health checks of one workload at once
WORST: Final = (HealthState.UNHEALTHY, HealthState.UNKNOWN, HealthState.UNCHECKED, HealthState.HEALTHY)


class Eyes:
    """What is remembered of one cluster between looks."""

    def __init__(self, cluster: Cluster, installation: InstallationId, now: Callable[[], datetime]) -> None:
        self.cluster, self._installation, self._now = cluster, installation, now
        self._addresses: dict[str, tuple[Json, ...]] = {}  # of an allocation: its ports never change
        self._diffs: dict[tuple[str, int], tuple[str, ...]] = {}

    async def look(self, looked: Look, connection: Connection) -> Observation:
        """Raises `DriverError` when the job cannot be seen."""
        try:
            return await self._look(looked, connection)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Unreachable(
                f"what Nomad says of {connection.job} is not understood: {type(error).__name__}"
            ) from None

    async def _look(self, looked: Look, connection: Connection) -> Observation:
        target, scene = looked.target.id, await self.scene(connection.job)
        declared = {placement.id: placement for placement in looked.placements}
        ids = look.component_ids(scene, self._installation, target, list(connection.places))
        seen: dict[PlacementId, Standing | None] = {}
        failed: list[Exception] = []

        async def see(id: PlacementId) -> None:
            try:
                seen[id] = await self._standing(scene, id, declared.get(id), connection)
            except Exception as error:  # told below as what it is: a task group would wrap it
                failed.append(error)

        async with anyio.create_task_group() as group:
            for id in ids:
                group.start_soon(see, id)
        if failed:
            raise failed[0]
        standings = tuple(standing for id in ids if (standing := seen[id]) is not None)
        return Observation(
            target=target,
            at=self._now(),
            standings=standings,
            unmanaged=look.unmanaged(scene, self._installation, target),
        )

    async def _standing(
        self, scene: Scene, id: PlacementId, declared: Placement | None, connection: Connection
    ) -> Standing | None:
        held = look.holder(await self.cluster.variable(look.path(self._installation, id)))
        found = await self.workload(scene, id, declared.health if declared else None)
        if found is None and not held.index:
            return None
        if found is not None and found.differences and declared is not None:
            found = replace(found, differences=await self._in_words(scene, found, declared, connection))
        return look.standing(scene, self._installation, id, held, found)

    # -- one job ----------------------------------------------------------------------------------------------------

    async def scene(self, job: str) -> Scene:
        """Everything Nomad knows of the job that matters here."""
        found = await self.cluster.job(job)
        if found is None:
            return Scene(job=None)
        versions = await self.cluster.versions(found)
        allocations = await self.cluster.allocations(job)
        deployments = [] if _all_called_healthy(found, allocations) else await self.cluster.deployments(job)
        exhausted = await self._exhausted(found) if _lacks(found, allocations) else ""
        return Scene(
            job=found, versions=versions, allocations=allocations, deployments=deployments, exhausted=exhausted
        )

    async def _exhausted(self, job: render.Job) -> str:
        evaluations = sorted(await self.cluster.evaluations(job["ID"]), key=lambda one: -int(one["CreateIndex"]))
        for evaluation in evaluations[:1]:
            for group, metric in sorted((evaluation.get("FailedTGAllocs") or {}).items()):
                return f"group {group}: {placed_words(metric)}"
        return ""

    async def workload(
        self, scene: Scene, id: PlacementId, rules: Rules | None, *, canaries: bool = False
    ) -> Workload | None:
        """What stands for the placement, with Nomad's own word of its health first, then the declared check's."""
        found = look.workload(scene, self._installation, id, canaries=canaries)
        if found is None or scene.job is None:
            return found
        own = look.own_word(scene, self._installation, id, canaries=canaries)
        if own is not None:
            state = WorkloadState.STARTING if found.state is WorkloadState.RUNNING else found.state
            return replace(found, health=own, state=state)
        members = [str(one["ID"]) for one in look.live(scene, self._installation, id)]
        if look.is_checked(scene, self._installation, id):
            bad = look.worst_check([check for member in members for check in await self.cluster.checks(member)])
            if bad is not None:
                return replace(found, health=bad)
        if rules is None or found.state is WorkloadState.STOPPED:
            return found
        return replace(found, health=await self._asked(members, rules))

    # -- health -----------------------------------------------------------------------------------------------------

    async def _asked(self, allocations: list[str], rules: Rules) -> Health:
        """The worst of the answers: a workload is as healthy as its least healthy allocation."""
        answers: list[Health] = []
        limit = anyio.CapacityLimiter(ASKED)

        async def ask(allocation: str) -> None:
            async with limit:
                answers.append(await self._answer(allocation, rules))

        async with anyio.create_task_group() as group:
            for allocation in allocations:
                group.start_soon(ask, allocation)
        worst = min(answers, key=lambda one: (WORST.index(one.state), one.detail), default=UNCHECKED)
        return replace(worst, checked_at=self._now())

    async def _answer(self, allocation: str, rules: Rules) -> Health:
        check = rules.check
        if isinstance(check, CommandCheck):
            return Health(state=HealthState.UNKNOWN, detail="a command cannot be run through Nomad's API here")
        try:
            place = await self._address(allocation, check.port)
        except DriverError as error:
            return Health(state=HealthState.UNKNOWN, detail=str(error))
        if place is None:
            said = f"port {check.port} is none that the group's network of the template gives to a host"
            return Health(state=HealthState.UNKNOWN, detail=said)
        return await probes.ask(check, *place, rules.timeout)

    async def _address(self, allocation: str, port: int) -> tuple[str, int] | None:
        """Where the port of this allocation, and of no other, is reached."""
        if allocation not in self._addresses:
            found = await self.cluster.allocation(allocation)
            resources = found.get("AllocatedResources") or {}
            self._addresses = dict(list(self._addresses.items())[-999:])
            self._addresses[allocation] = tuple((resources.get("Shared") or {}).get("Ports") or ())
        for one in self._addresses[allocation]:
            if (one.get("To") or one["Value"]) == port:
                return str(one["HostIP"]), int(one["Value"])
        return None

    # -- words ------------------------------------------------------------------------------------------------------

    async def _in_words(
        self, scene: Scene, found: Workload, declared: Placement, connection: Connection
    ) -> tuple[str, ...]:
        """Nomad's own plan of what a deploy would change, where what is declared is what was rendered; else ours."""
        assert scene.job is not None
        part = render.parts(scene.job, self._installation, declared.id.target).get(declared.id.component)
        if part is None or part.content != declared.content:
            return found.differences
        known = (f"{declared.id} {declared.configuration_digest}", scene.index)
        if known not in self._diffs:
            self._diffs = {key: said for key, said in self._diffs.items() if key[1] == scene.index}
            self._diffs[known] = await self._planned(scene, part, declared, connection)
        return self._diffs[known] or found.differences

    async def _planned(
        self, scene: Scene, part: render.Part, declared: Placement, connection: Connection
    ) -> tuple[str, ...]:
        origin = render.Origin(
            installation=self._installation, target=declared.id.target, key=part.key or ActionKey(""), fence=part.fence
        )
        try:
            there = await outline(self.cluster, connection)
            plan = await self.cluster.plan(render.with_components(there, [declared], origin, scene.job))
        except DriverError:  # a token that may only read, a template that is broken: our own words are good enough
            return ()
        return tuple(sorted(set(diff_words(plan.get("Diff") or {}))))[:50]


async def outline(cluster: Cluster, connection: Connection) -> Outline:
    """The target's template, read, parsed and checked."""
    return render.outline(
        await _template(cluster, connection),
        job=connection.job,
        namespace=connection.namespace,
        region=connection.region,
        places=connection.places,
    )


async def _template(cluster: Cluster, connection: Connection) -> Mapping[str, Any]:
    if connection.template is not None:
        return connection.template
    if connection.hcl is not None:
        return await cluster.parsed(connection.hcl)
    assert connection.file is not None
    text = await anyio.to_thread.run_sync(_text, connection.file)
    if not connection.file.endswith(".json"):
        return await cluster.parsed(text)
    import json

    try:
        found = json.loads(text)
    except ValueError as error:
        raise Refused(f"file: {connection.file} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Refused(f"file: {connection.file} holds no job")
    return found


def _text(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise Refused(f"file: {path} is larger than {LARGEST} bytes")
        return content.decode()
    except OSError as error:
        raise Refused(f"file: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Refused(f"file: {path} is not a text") from None


def diff_words(diff: Json, path: tuple[str, ...] = ()) -> list[str]:
    """The changed fields of a plan's diff, by name alone: a value may be a secret."""
    words = []
    for field in diff.get("Fields") or ():
        if field.get("Type") != "None" and not str(field["Name"]).startswith(f"Meta[{render.OURS}"):
            words.append(f"{'.'.join((*path, str(field['Name'])))}: {_CHANGES.get(field.get('Type'), 'differs')}")
    for kind in ("Objects", "TaskGroups", "Tasks"):
        for inner in diff.get(kind) or ():
            if inner.get("Type") != "None":
                words.extend(diff_words(inner, (*path, str(inner.get("Name")))))
    return words


_CHANGES: Final = {
    "Added": "is not there, and would be added",
    "Deleted": "is there, and would be taken away",
    "Edited": "is another value, and would be set",
}


def _all_called_healthy(job: render.Job, allocations: list[Any]) -> bool:
    wanted = sum(render.count(group) for group in job.get("TaskGroups") or ()) if not job.get("Stop") else 0
    healthy = [
        one
        for one in allocations
        if one["DesiredStatus"] == "run"
        and one["JobVersion"] == job["Version"]
        and (one.get("DeploymentStatus") or {}).get("Healthy")
    ]
    canaries = any((one.get("DeploymentStatus") or {}).get("Canary") for one in healthy)
    return len(healthy) >= wanted and not canaries


def _lacks(job: render.Job, allocations: list[Any]) -> bool:
    """A group of which nothing runs, although something should."""
    up = {one["TaskGroup"] for one in allocations if one["DesiredStatus"] == "run"}
    return not job.get("Stop") and any(
        render.count(group) and group["Name"] not in up for group in job.get("TaskGroups") or ()
    )


def placed_words(metric: Json) -> str:
    """Why a group was not placed, of what Nomad tells."""
    said = [f"{metric.get('NodesEvaluated') or 0} nodes were considered"]
    for field, word in (("ConstraintFiltered", "excluded by"), ("DimensionExhausted", "exhausted")):
        said += [f"{count} {word} {what}" for what, count in sorted((metric.get(field) or {}).items())]
    return ", ".join(said)[:200]
