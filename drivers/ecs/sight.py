"""Looking at services: ten to a call, the task definitions they run, and the health of what is declared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
from pydantic import ValidationError

from desired_state.health import Health
from desired_state.model import Target
from drivers.contract import Look, Tools
from drivers.ecs import checks, look, render, tags
from drivers.ecs.api import Api
from drivers.ecs.connection import Connection
from drivers.ecs.look import Service, View
from drivers.ecs.render import Template
from drivers.ecs.revisions import Revision, Revisions
from drivers.errors import Busy, DriverError, InvalidAction, Refused, Unreachable
from stickers.names import ComponentName, PlacementId, TargetId, split_id
from stickers.observation import Observation, Standing, Workload, WorkloadState

BATCH: Final = 10  # services that ECS describes at once
LARGEST: Final = 256 * 1024  # bytes of a template's file
TOGETHER: Final = 16  # services looked at at once


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Account:
    """One set of credentials in one region, and what is remembered of its task definitions."""

    api: Api
    revisions: Revisions


@dataclass(slots=True, kw_only=True, eq=False)
class Place:
    """One target: its service, through which account it is reached, and its template where it stands in the
    connection."""

    target: TargetId
    connection: Connection
    account: Account
    template: Template | None = None

    @property
    def components(self) -> list[ComponentName]:
        return [ComponentName(one) for one in sorted(self.connection.container_of)]

    def __str__(self) -> str:
        return f"service {self.connection.service} of cluster {self.connection.cluster} in {self.connection.region}"


class Sight:
    """Sees services."""

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self._accounts: dict[object, Account] = {}
        self._places: dict[TargetId, tuple[Mapping[str, Any], Place]] = {}

    def place(self, target: Target) -> Place:
        known = self._places.get(target.id)
        if known is None or known[0] != target.connection:
            known = self._places[target.id] = (dict(target.connection), self._made(target))
        return known[1]

    def _made(self, target: Target) -> Place:
        try:
            connection = Connection.model_validate(dict(target.connection))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            path = ".".join(str(step) for step in first["loc"])
            raise InvalidAction(f"connection of {target.id}: {path}: {first['msg']}") from None
        key = (connection.region, connection.endpoint, connection.credentials)
        if key not in self._accounts:
            api = Api(connection, self.tools.secret)
            self._accounts[key] = Account(api=api, revisions=Revisions(api))
        return Place(target=target.id, connection=connection, account=self._accounts[key])

    async def aclose(self) -> None:
        for account in self._accounts.values():
            await account.api.aclose()
        self._accounts.clear()
        self._places.clear()

    # -- many services ------------------------------------------------------------------------------------------------

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        found: dict[TargetId, Observation] = {}
        groups: dict[object, list[tuple[Look, Place]]] = {}
        for one in looks:
            try:
                place = self.place(one.target)
            except DriverError as error:
                found[one.target.id] = self._unseen(one, str(error))
                continue
            groups.setdefault((place.account, place.connection.cluster), []).append((one, place))
        async with anyio.create_task_group() as tasks:
            for group in groups.values():
                for start in range(0, len(group), BATCH):
                    tasks.start_soon(self._batch, group[start : start + BATCH], found)
        return found

    async def _batch(self, batch: Sequence[tuple[Look, Place]], into: dict[TargetId, Observation]) -> None:
        try:
            services = await described([place for _, place in batch])
        except DriverError as error:
            into.update({one.target.id: self._unseen(one, str(error)) for one, _ in batch})
            return
        limit = anyio.CapacityLimiter(TOGETHER)
        async with anyio.create_task_group() as group:
            for one, place in batch:
                group.start_soon(self._one, one, place, services.get(place.connection.service), into, limit)

    async def _one(
        self,
        one: Look,
        place: Place,
        service: Service | None,
        into: dict[TargetId, Observation],
        limit: anyio.CapacityLimiter,
    ) -> None:
        async with limit:
            try:
                standings = await self._standings(one, await self._view(place, service), place)
            except DriverError as error:
                into[one.target.id] = self._unseen(one, str(error))
                return
        into[one.target.id] = Observation(target=one.target.id, at=self.tools.now(), standings=standings)

    def _unseen(self, one: Look, reason: str) -> Observation:
        return Observation(target=one.target.id, at=self.tools.now(), unseen=reason)

    async def _standings(self, one: Look, view: View, place: Place) -> tuple[Standing, ...]:
        try:
            template: Template | None = await read_template(place)
        except DriverError:  # what stands is seen all the same; whoever acts is told
            template = None
        rules = {placement.id.component: placement.health for placement in one.placements}
        found = []
        for component, container in sorted(place.connection.container_of.items()):
            standing = look.standing(view, container, ComponentName(component), template)
            if not look.is_empty(standing):
                found.append(standing)
        return await self._with_health(found, rules, view, place)

    async def _with_health(
        self, standings: Iterable[Standing], rules: Mapping[ComponentName, Health | None], view: View, place: Place
    ) -> tuple[Standing, ...]:
        workloads = {one.component: one.workload for one in standings if one.workload is not None}
        asked = await self._asked(workloads, rules, view, place)
        return tuple(replace(one, workload=asked.get(one.component, one.workload)) for one in standings)

    async def _asked(
        self,
        workloads: Mapping[ComponentName, Workload],
        rules: Mapping[ComponentName, Health | None],
        view: View,
        place: Place,
    ) -> dict[ComponentName, Workload]:
        container_of = place.connection.container_of
        due = {
            component: workload
            for component, workload in workloads.items()
            if workload.state is WorkloadState.RUNNING
            and checks.is_asked(view, container_of[component], rules.get(component))
        }
        if not due:
            return {}
        found = await checks.tasks(place.account.api, view, place.connection)
        now = self.tools.now()
        answers = {}
        for component, workload in due.items():
            answer = await checks.ask(view, found, container_of[component], rules.get(component))
            answers[component] = replace(workload, health=replace(answer, checked_at=now))
        return answers

    # -- one service --------------------------------------------------------------------------------------------------

    async def view(self, place: Place) -> View:
        """The service, ours, as it is now. Raises `Refused` where it is not there, or another's."""
        return await self._view(place, (await described([place])).get(place.connection.service))

    async def workload(
        self, view: View, place: Place, component: ComponentName, rules: Health | None
    ) -> Workload | None:
        """One component, its health asked; from whichever template it was registered."""
        container = place.connection.container_of[component]
        found = look.workload(view, container, component)
        if found is None:
            return None
        return (await self._asked({component: found}, {component: rules}, view, place)).get(component, found)

    async def _view(self, place: Place, service: Service | None) -> View:
        if service is None or service.status == "INACTIVE":
            raise Refused(f"there is no {place}")
        if service.status == "DRAINING":
            raise Refused(f"{place} is being deleted")
        if service.controller != "ECS":
            raise Refused(f"{place} is deployed by {service.controller}, not by ECS itself")
        if service.primary is None:
            raise Unreachable(f"{place} has no primary deployment yet")
        revisions, connection = place.account.revisions, place.connection
        names = {name for one in connection.container_of for name in tags.kept(service.tags, ComponentName(one))}
        kept = {name: await revisions.find(name, connection) for name in sorted(names)}
        view = View(
            service=service,
            revision=await revisions.get(service.primary.definition, connection),
            kept={name: one for name, one in kept.items() if one is not None},
            installation=self.tools.installation,
            target=place.target,
        )
        if view.stranger is not None:
            raise Refused(f"{place} belongs to another target or installation: {view.stranger}")
        return view

    async def revision(self, name: str, place: Place) -> Revision | None:
        return await place.account.revisions.find(name, place.connection)


async def described(places: Sequence[Place]) -> dict[str, Service]:
    """The services of these places, by name; those that are not there are missing. All are of one cluster."""
    connection, names = places[0].connection, sorted({place.connection.service for place in places})
    answer = await places[0].account.api.read(
        "DescribeServices", connection, cluster=connection.cluster, services=names, include=["TAGS"]
    )
    for failure in answer.get("failures", ()):
        if failure.get("reason") != "MISSING":
            raise Busy(
                f"{failure.get('arn', 'a service')}: {failure.get('reason')} {failure.get('detail', '')}".strip()
            )
    found = [look.service(one) for one in answer.get("services", ())]
    return {one.name: one for one in found}


# -- the template -----------------------------------------------------------------------------------------------------


async def read_template(place: Place) -> Template:
    """The target's template. Raises `InvalidAction`, naming the field, where it cannot be used."""
    connection = place.connection
    if place.template is not None:
        return place.template
    try:
        body = connection.task_definition
        if connection.task_definition_file is not None:
            body = await anyio.to_thread.run_sync(
                partial(_read, connection.task_definition_file), abandon_on_cancel=True
            )
        family = f"holdfast-{'-'.join(split_id(place.target))}"
        found = render.template(body, connection.containers, family)
    except render.WrongTemplate as error:
        raise InvalidAction(f"template of {place.target}: {error}") from None
    if connection.task_definition_file is None:
        place.template = found
    return found


def _read(path: str) -> Any:
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise InvalidAction(f"task_definition_file {path}: {error.strerror}") from None
    if len(content) > LARGEST:
        raise InvalidAction(f"task_definition_file {path}: more than {LARGEST} bytes")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidAction(f"task_definition_file {path}: not JSON: {str(error)[:120]}") from None


def placed(place: Place, id: PlacementId) -> str:
    """The container of the placement. Raises `InvalidAction` where the target has none for it."""
    container = place.connection.container_of.get(id.component)
    if container is None:
        known = ", ".join(sorted(place.connection.container_of))
        raise InvalidAction(f"{id}: no container of the target runs it; those that are declared run {known}")
    return container
