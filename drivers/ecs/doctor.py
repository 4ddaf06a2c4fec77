"""What a service lacks before anything is changed there. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Final

from drivers.contract import Diagnosis, Grade, Look
from drivers.ecs import checks, render, tags
from drivers.ecs.look import View
from drivers.ecs.sight import Place, Sight, placed, read_template
from drivers.errors import DriverError, InvalidAction, Terminal

READS: Final = "ecs:DescribeServices, ecs:DescribeTaskDefinition, ecs:ListTaskDefinitions, ecs:ListTasks"
CHANGES: Final = "ecs:RegisterTaskDefinition, ecs:UpdateService, ecs:TagResource, ecs:UntagResource, iam:PassRole"


async def examine(sight: Sight, one: Look) -> AsyncIterator[Diagnosis]:
    """Each thing the target needs, in the order in which it would be missed."""
    try:
        place = sight.place(one.target)
    except InvalidAction as error:
        yield _lacks("connection", error, "correct the target's document")
        return
    yield await _template(sight, place, one)
    try:
        view = await sight.view(place)
    except DriverError as error:
        yield _lacks("service", error, "create it, or grant what is said to be missing")
        return
    yield Diagnosis(about="service", grade=Grade.OK, sentence=f"{place} runs {view.revision.name}")
    yield await _reads(place, view)
    yield Diagnosis(
        about="permission to change",
        grade=Grade.UNKNOWN,
        sentence=f"{CHANGES} cannot be tried without changing something",
    )
    for found in (*_breaker(view), *_room(place, view)):
        yield found


def _lacks(about: str, error: DriverError, remedy: str) -> Diagnosis:
    grade = Grade.MISSING if isinstance(error, Terminal) else Grade.UNKNOWN
    return Diagnosis(about=about, grade=grade, sentence=str(error), remedy=remedy)


async def _template(sight: Sight, place: Place, one: Look) -> Diagnosis:
    try:
        found = await read_template(place)
        containers = {}
        for placement in one.placements:
            for sentence in (*render.unsupported(placement), *render.unasked(found, placement)):
                raise InvalidAction(f"{placement.id}: {sentence}")
            containers[placed(place, placement.id)] = render.container(found, placement, sight.tools.installation)
        render.definition(found, containers)
    except (DriverError, render.WrongTemplate) as error:
        return Diagnosis(
            about="template", grade=Grade.MISSING, sentence=str(error), remedy="correct the template or the component"
        )
    return Diagnosis(about="template", grade=Grade.OK, sentence=f"renders the task definition {found.family}")


async def _reads(place: Place, view: View) -> Diagnosis:
    api, connection = place.account.api, place.connection
    try:
        await checks.tasks(api, view, connection)
        family = view.revision.name.rpartition(":")[0]
        await api.read("ListTaskDefinitions", connection, familyPrefix=family, maxResults=1)
    except DriverError as error:
        return _lacks("permission to look", error, f"grant {READS}, ecs:DescribeTasks")
    return Diagnosis(about="permission to look", grade=Grade.OK, sentence="tasks and task definitions are seen")


def _breaker(view: View) -> Iterator[Diagnosis]:
    on = view.service.breaker
    yield Diagnosis(
        about="circuit breaker",
        grade=Grade.OK if on else Grade.WARNING,
        sentence="is on"
        if on
        else "is off: a rollout whose tasks do not start is only found out when its time is over",
        remedy=None if on else "switch on deploymentCircuitBreaker in the service's deployment configuration",
    )


def _room(place: Place, view: View) -> Iterator[Diagnosis]:
    keys = {*view.service.tags, tags.OWNER}
    for component in place.components:
        keys |= {tags.work_key(component), tags.kept_key(component), *tags.usual_chunks(component)}
    fits = len(keys) <= render.MOST_TAGS
    yield Diagnosis(
        about="tags",
        grade=Grade.OK if fits else Grade.MISSING,
        sentence=f"{len(keys)} of {render.MOST_TAGS} with the stickers of every component",
        remedy=None if fits else "take tags off the service, or split its components over two",
    )
