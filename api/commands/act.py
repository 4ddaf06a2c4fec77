"""Commands that act: sync, rollback, adopt, suspend, resume. Each makes a job, or says why there is none; the server
drives it and the client watches, so a client that dies changes nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from sqlalchemy import Connection

from api.commands import lookup, once
from api.commands.given import Given
from api.commands.jobs import summary, watched
from api.commands.once import Answer
from api.house import House
from api.problem import Problem
from reconciler.core.plan import Grant
from reconciler.loop import reconcile
from reconciler.store import environments, memories
from reconciler.store.answers import Ticket
from reconciler.store.records import HandSuspension, Job
from stickers.names import EnvironmentId, JobId

Events = AsyncGenerator[dict[str, Any], None]


async def sync(house: House, given: Given) -> Events:
    id, expected = given.environment(), given.text_or_none("plan_hash")
    await lookup.environment(house, id)
    grant = Grant(advance=True, heal=True, removal=given.text_or_none("confirm_removal"))

    async def make(ticket: Ticket | None) -> Job | None:
        return await house.reconciler.sync(id, grant, plan_hash=expected, actor=given.actor, ticket=ticket)

    async for event in _driven(house, given, await once.job_made(house, "sync", given, make, partial(told, id))):
        yield event


async def rollback(house: House, given: Given) -> Events:
    id, reason = given.environment(), given.text("reason")
    await lookup.environment(house, id)

    async def make(ticket: Ticket | None) -> Job | None:
        return await house.reconciler.rollback(id, reason=reason, actor=given.actor, ticket=ticket)

    async for event in _driven(house, given, await once.job_made(house, "rollback", given, make, partial(told, id))):
        yield event


async def adopt(house: House, given: Given) -> Events:
    id = given.environment()
    targets = frozenset(given.target(text) for text in given.texts("targets"))
    _, desired = await lookup.environment(house, id)
    for target in sorted(targets - set(desired.target_of)):
        raise Problem("NO_TARGET", f"{target} is no target of {id}; it has {', '.join(sorted(desired.target_of))}")

    async def make(ticket: Ticket | None) -> Job | None:
        return await house.reconciler.adopt(id, targets or None, actor=given.actor, ticket=ticket)

    async for event in _driven(house, given, await once.job_made(house, "adopt", given, make, partial(told, id))):
        yield event


def told(id: EnvironmentId, job: Job | None) -> Answer:
    """The answer to who asked for a job, the same in every replica."""
    if job is None:
        return once.plain({"environment": id, "job": None, "ok": True, "message": f"{id}: nothing to do"})
    return once.plain(summary(job) | {"message": f"{job.id} is under way; holdfast job show {job.id} -f"})


async def _driven(house: House, given: Given, answer: Answer) -> Events:
    """Watch the job to its end, or only name it."""
    if given.flag("wait") and "id" in answer:
        async for event in watched(house, JobId(answer["id"])):
            yield event
    else:
        yield {"result": answer}


async def suspend(house: House, given: Given) -> Events:
    id, until = given.environment(), given.moment("until")
    await lookup.environment(house, id)
    if until is not None and until <= house.now():
        raise Problem("BAD_ARGUMENT", f"until {until.isoformat()} is in the past")
    suspension = HandSuspension(reason=given.text("reason"), actor=given.actor, since=house.now(), until=until)

    def effect(c: Connection) -> Answer:
        environments.suspend(c, id, suspension)
        return {"environment": id, "message": f"{id} is suspended; it is still looked at, and nothing is changed"}

    answer = await once.written(house, "suspend", given, effect)
    house.reconciler.request(reconcile(id))
    yield {"result": answer}


async def resume(house: House, given: Given) -> Events:
    id, lift = given.environment(), given.flag("lift_refused")
    await lookup.environment(house, id)

    def effect(c: Connection) -> Answer:
        environments.resume(c, id, given.actor, house.now())
        lifted = memories.lift(c, id, given.actor, house.now()) if lift else 0
        more = f"; {lifted} refused placements may be tried again" if lift else ""
        return {"environment": id, "lifted": lifted, "message": f"{id} is resumed{more}"}

    answer = await once.written(house, "resume", given, effect)
    house.reconciler.request(reconcile(id))
    yield {"result": answer}
