"""The health of one component: the word of ECS on its container in every task, then the declared check, asked at each
task's own address."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import anyio

from desired_state.health import CommandCheck, Health
from drivers import probes
from drivers.ecs.api import Api
from drivers.ecs.connection import Connection
from drivers.ecs.look import UNCHECKED, View
from stickers.observation import Health as Answer
from stickers.observation import HealthState

PAGE: Final = 100  # tasks that ECS describes at once
ASKED: Final = 16  # at once

Task = Mapping[str, Any]

_WORDS: Final = {
    "UNHEALTHY": Answer(state=HealthState.UNHEALTHY, detail="ECS: the container's own check fails"),
    "HEALTHY": Answer(state=HealthState.HEALTHY, detail="ECS: the container's own check is good"),
    "UNKNOWN": Answer(state=HealthState.UNKNOWN, detail="ECS: the container's own check has not answered yet"),
}
NOTHING_RUNS: Final = Answer(state=HealthState.UNHEALTHY, detail="ECS: no task of the deployment runs")


def is_asked(view: View, container: str, rules: Health | None) -> bool:
    """Whether anybody has to be asked: by what is declared, or because ECS asks the container itself."""
    found = view.revision.containers.get(container)
    return found is not None and (rules is not None or "healthCheck" in found)


async def tasks(api: Api, view: View, connection: Connection) -> list[Task]:
    """The tasks of the primary deployment that run."""
    arns: list[str] = []
    cluster = connection.cluster
    async for page in api.pages(
        "ListTasks",
        connection,
        "taskArns",
        cluster=cluster,
        serviceName=view.service.name,
        desiredStatus="RUNNING",
        maxResults=PAGE,
    ):
        arns += page
    found: list[Task] = []
    for start in range(0, len(arns), PAGE):
        answer = await api.read("DescribeTasks", connection, cluster=cluster, tasks=arns[start : start + PAGE])
        found += answer.get("tasks", ())
    return [one for one in found if one.get("lastStatus") == "RUNNING" and _is_of(one, view)]


def _is_of(task: Task, view: View) -> bool:
    if task.get("startedBy") == view.primary.id:
        return True
    return not task.get("startedBy") and task.get("taskDefinitionArn") == view.primary.definition


async def ask(view: View, found: Sequence[Task], container: str, rules: Health | None) -> Answer:
    """One answer for all tasks: the worst."""
    if not found:
        return NOTHING_RUNS
    own = _own(found, container) if "healthCheck" in view.revision.containers[container] else None
    if rules is None or (own is not None and own.state is not HealthState.HEALTHY):
        return own or UNCHECKED
    answers: dict[int, Answer] = {}
    limit = anyio.CapacityLimiter(ASKED)

    async def one(index: int) -> None:
        async with limit:
            answers[index] = await _asked(found[index], container, rules)

    async with anyio.create_task_group() as group:
        for index in range(len(found)):
            group.start_soon(one, index)
    return _worst(answers[index] for index in range(len(found)))


def _own(found: Sequence[Task], container: str) -> Answer:
    """What ECS says of a container that it asks itself."""
    said = {str(one.get("healthStatus")) for task in found for one in _containers(task) if one.get("name") == container}
    return _WORDS["UNHEALTHY" if "UNHEALTHY" in said else "HEALTHY" if said == {"HEALTHY"} else "UNKNOWN"]


async def _asked(task: Task, container: str, rules: Health) -> Answer:
    if isinstance(rules.check, CommandCheck):
        return Answer(state=HealthState.UNKNOWN, detail="a command cannot be run in a task from here")
    place = address(task, container)
    if place is None:
        return Answer(
            state=HealthState.UNKNOWN,
            detail="the task has no address of its own, which only networkMode awsvpc gives it",
        )
    return await probes.ask(rules.check, place, rules.check.port, rules.timeout)


def address(task: Task, container: str) -> str | None:
    """The task's own address in its network."""
    for one in _containers(task):
        if one.get("name") == container:
            for interface in one.get("networkInterfaces", ()):
                if found := interface.get("privateIpv4Address") or interface.get("ipv6Address"):
                    return str(found)
    return None


def _containers(task: Task) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = task.get("containers", ())
    return found


def _worst(answers: Iterable[Answer]) -> Answer:
    order = (HealthState.UNHEALTHY, HealthState.UNKNOWN, HealthState.UNCHECKED, HealthState.HEALTHY)
    return min(answers, key=lambda one: (order.index(one.state), one.detail))
