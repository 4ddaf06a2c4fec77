"""Commands that list what is declared: targets and components of an environment, releases of a project."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any, Final

from api.commands import lookup
from api.commands.given import Given
from api.house import House
from api.people.principal import EVERYWHERE, Principal, Verb
from api.problem import Problem
from desired_state.model import Release
from reconciler.store import history, releases
from stickers import names
from stickers.names import TargetId

Events = AsyncGenerator[dict[str, Any], None]

PAGE: Final = 100
MOST: Final = 1_000


async def targets(house: House, given: Given) -> Events:
    """Some targets of an environment by name, each with how its placements stand."""
    id, after, limit = given.environment(), given.text_or_none("after") or "", given.count("limit", PAGE, MOST)
    _, desired = await lookup.environment(house, id)
    ids = sorted(target for target in desired.target_of if target > after)
    page = ids[:limit]
    standings = await house.store.read(lambda c: history.standing_of(c, id, page))
    verdicts: dict[TargetId, Counter[str]] = {target: Counter() for target in page}
    for standing in standings:
        verdicts[standing.id.target][standing.verdict.value] += 1
    rows = [
        {"id": target, "environment": id, "driver": desired.target_of[target].driver, "verdicts": dict(counted)}
        for target, counted in verdicts.items()
    ]
    yield {"result": {"environment": id, "targets": rows, "next": page[-1] if len(ids) > limit else None}}


async def components(house: House, given: Given) -> Events:
    """The components of an environment: what each is declared as, and how its placements stand."""
    id = given.environment()
    _, desired = await lookup.environment(house, id)
    counted = await house.store.read(lambda c: history.components_now(c, id))
    artifacts = {name: str(each.artifact) for name, each in desired.release.components.items()}
    rows = [
        {"name": name, "artifact": artifacts.get(name), "verdicts": counted.get(name, {})}  # type: ignore[call-overload]
        for name in sorted({*artifacts, *counted})
    ]
    yield {"result": {"environment": id, "release": desired.release.name, "components": rows}}


async def index(house: House, given: Given) -> Events:
    """The releases of a project, by name."""
    project, after, limit = _project(given), given.text_or_none("after") or "", given.count("limit", PAGE, MOST)
    page = await house.store.read(lambda c: releases.page(c, project, after=after, limit=limit + 1))
    rows = [_release(each, kept_at) for each, kept_at in page[:limit]]
    yield {"result": {"project": project, "releases": rows, "next": rows[-1]["name"] if len(page) > limit else None}}


async def release(house: House, given: Given) -> Events:
    project = _project(given)
    try:
        name = names.release_name(given.text("release"))
    except names.InvalidName as error:
        raise Problem("BAD_ARGUMENT", str(error)) from None
    found = await house.store.read(lambda c: releases.load(c, project, name))
    if found is None:
        raise Problem("NO_RELEASE", f"no release {name} of {project} is known")
    yield {"result": _release(found, None)}


def _project(given: Given) -> str:
    """A project in which whoever asks may see something."""
    try:
        project = names.name(given.text_or_none("project") or names.DEFAULT_PROJECT, "project")
    except names.InvalidName as error:
        raise Problem("BAD_ARGUMENT", str(error)) from None
    if not _sees(given.principal, project):
        raise Problem("FORBIDDEN", f"{given.actor} has no grant to {Verb.READ} in {project}")
    return project


def _sees(principal: Principal, project: str) -> bool:
    reads = [grant.where for grant in principal.grants if grant.verb is Verb.READ]
    return any(where == EVERYWHERE or where.startswith(f"{project}/") for where in reads)


def _release(release: Release, kept_at: datetime | None) -> dict[str, Any]:
    return {
        "project": release.project,
        "name": release.name,
        "digest": release.digest,
        "repository": release.repository,
        "commit": release.commit,
        "components": {name: str(each.artifact) for name, each in release.components.items()},
        **({"first_seen_at": kept_at} if kept_at else {}),
    }
