"""Commands that act: sync, rollback, adopt, suspend, resume. Each makes a job, or says why there is none; the server
drives it and the client watches, so a client that dies changes nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from api.commands import lookup
from api.commands.given import Given
from api.commands.jobs import summary, watched
from api.house import House
from api.problem import Problem
from reconciler.core.plan import Grant
from reconciler.loop import reconcile
from reconciler.store import environments, memories
from reconciler.store.records import HandSuspension, Job
from stickers.names import EnvironmentId

Events = AsyncGenerator[dict[str, Any], None]


async def sync(house: House, given: Given) -> Events:
    id, expected = given.environment(), given.text_or_none("plan_hash")
    await lookup.environment(house, id)
    grant = Grant(advance=True, heal=True, removal=given.text_or_none("confirm_removal"))
    job = await house.reconciler.sync(id, grant, plan_hash=expected, actor=given.actor)
    async for event in _driven(house, given, id, job):
        yield event


async def rollback(house: House, given: Given) -> Events:
    id = given.environment()
    await lookup.environment(house, id)
    job = await house.reconciler.rollback(id, reason=given.text("reason"), actor=given.actor)
    async for event in _driven(house, given, id, job):
        yield event


async def adopt(house: House, given: Given) -> Events:
    id = given.environment()
    targets = frozenset(given.target(text) for text in given.texts("targets"))
    _, desired = await lookup.environment(house, id)
    for target in sorted(targets - set(desired.target_of)):
        raise Problem("NO_TARGET", f"{target} is no target of {id}; it has {', '.join(sorted(desired.target_of))}")
    job = await house.reconciler.adopt(id, targets or None, actor=given.actor)
    async for event in _driven(house, given, id, job):
        yield event


async def _driven(house: House, given: Given, id: EnvironmentId, job: Job | None) -> Events:
    """Watch the job to its end, or only name it."""
    if job is None:
        yield {"result": {"environment": id, "job": None, "ok": True, "message": f"{id}: nothing to do"}}
    elif given.flag("wait"):
        async for event in watched(house, job.id):
            yield event
    else:
        yield {"result": summary(job) | {"message": f"{job.id} is under way; holdfast job show {job.id} -f"}}


async def suspend(house: House, given: Given) -> Events:
    id, until = given.environment(), given.moment("until")
    await lookup.environment(house, id)
    if until is not None and until <= house.now():
        raise Problem("BAD_ARGUMENT", f"until {until.isoformat()} is in the past")
    suspension = HandSuspension(reason=given.text("reason"), actor=given.actor, since=house.now(), until=until)
    await house.store.write(lambda c: environments.suspend(c, id, suspension))
    house.reconciler.request(reconcile(id))
    yield {
        "result": {"environment": id, "message": f"{id} is suspended; it is still looked at, and nothing is changed"}
    }


async def resume(house: House, given: Given) -> Events:
    id, lift = given.environment(), given.flag("lift_refused")
    await lookup.environment(house, id)
    await house.store.write(lambda c: environments.resume(c, id, given.actor, house.now()))
    lifted = await house.store.write(lambda c: memories.lift(c, id, given.actor, house.now())) if lift else 0
    house.reconciler.request(reconcile(id))
    more = f"; {lifted} refused placements may be tried again" if lift else ""
    yield {"result": {"environment": id, "lifted": lifted, "message": f"{id} is resumed{more}"}}
