"""Registered task definitions: read once, since nobody can change one, and registered once per content.

A revision that we registered carries a tag that names it. A copy made by hand carries that tag too, and another
number, so its labels are not believed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import anyio

from drivers.ecs.api import Api
from drivers.ecs.connection import Connection
from drivers.ecs.render import Container, Definition
from drivers.errors import Refused

CONTENT: Final = "holdfast:content"
TEMPLATE: Final = "holdfast:template"
SELF: Final = "holdfast:self"
SEARCHED: Final = 100  # newest revisions of a family, among which an equal one is looked for
PAGE: Final = 100  # of a list
REMEMBERED: Final = 2000
TOGETHER: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One task definition. `intact`: as we registered it, so that what its labels say is true."""

    arn: str
    name: str  # family:revision
    containers: Mapping[str, Container]
    content: str | None
    template: str | None
    intact: bool


class Revisions:
    """The task definitions of one account."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: OrderedDict[str, Revision] = OrderedDict()

    async def get(self, name: str, connection: Connection) -> Revision:
        """By ARN or ``family:revision``."""
        known = self._known.get(short(name))
        if known is None:
            answer = await self._api.read("DescribeTaskDefinition", connection, taskDefinition=name, include=["TAGS"])
            tags = tags_of(answer.get("tags", ()))
            known = revision(answer["taskDefinition"], tags)
            if known.intact or CONTENT not in tags or SELF in tags:  # else somebody is just about to name it
                self._remember(known)
        return known

    async def find(self, name: str, connection: Connection) -> Revision | None:
        """None where it has been deleted."""
        try:
            return await self.get(name, connection)
        except Refused:
            return None

    async def registered(
        self, definition: Definition, tags: Mapping[str, str], template: str, connection: Connection
    ) -> Revision:
        """The revision of this content: one that there is, or a new one."""
        found = await self._of_content(definition, connection)
        if found is not None:
            return found
        ours = {**tags, CONTENT: str(definition.content), TEMPLATE: template}
        answer = await self._api.change("RegisterTaskDefinition", connection, **definition.request, tags=to_list(ours))
        arn = str(answer["taskDefinition"]["taskDefinitionArn"])
        itself = {SELF: short(arn)}
        await self._api.change("TagResource", connection, resourceArn=arn, tags=to_list(itself))
        return self._remember(revision(answer["taskDefinition"], ours | itself))

    async def _of_content(self, definition: Definition, connection: Connection) -> Revision | None:
        """The newest of this content. Each is read once in the life of the process."""
        found = await self._all(await self._newest(definition.family, connection), connection)
        return next((one for one in found if one.intact and one.content == definition.content), None)

    async def _newest(self, family: str, connection: Connection) -> list[str]:
        said = {"familyPrefix": family, "status": "ACTIVE", "sort": "DESC", "maxResults": PAGE}
        names: list[str] = []
        async with aclosing(self._api.pages("ListTaskDefinitions", connection, "taskDefinitionArns", **said)) as pages:
            async for page in pages:
                names += [arn for arn in page if short(arn).rpartition(":")[0] == family]
                if len(names) >= SEARCHED:
                    break
        return names[:SEARCHED]

    async def _all(self, names: list[str], connection: Connection) -> list[Revision]:
        found: dict[str, Revision | None] = {}
        limit = anyio.CapacityLimiter(TOGETHER)

        async def read(name: str) -> None:
            async with limit:
                found[name] = await self.find(name, connection)

        async with anyio.create_task_group() as group:
            for name in names:
                group.start_soon(read, name)
        return [one for name in names if (one := found[name]) is not None]

    def _remember(self, revision: Revision) -> Revision:
        self._known[revision.name] = revision
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return revision


def revision(described: Mapping[str, Any], tags: Mapping[str, str]) -> Revision:
    arn = str(described["taskDefinitionArn"])
    return Revision(
        arn=arn,
        name=short(arn),
        containers={one["name"]: one for one in described.get("containerDefinitions", ())},
        content=tags.get(CONTENT),
        template=tags.get(TEMPLATE),
        intact=tags.get(SELF) == short(arn),
    )


def short(arn: str) -> str:
    """``family:revision`` of an ARN."""
    return arn.rpartition("/")[2]


def tags_of(listed: Any) -> dict[str, str]:
    return {str(one["key"]): str(one.get("value", "")) for one in listed}


def to_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in sorted(tags.items())]
