"""Commands of people about environments that another replica holds: asked in the database, carried out by the holder,
answered in the database.

The answer about a job is written in the transaction that makes the job, so a holder that dies in between makes no
second one; the first answer to a request with a ticket is kept there too, whoever has asked and wherever they are by
then. Who asks waits for the answer, woken by the holder and polling besides; after `PATIENCE` the command is
withdrawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Any, Final

import anyio
from sqlalchemy import Connection

from reconciler import commands, correlation
from reconciler.commands import Declined, Person
from reconciler.core.intent import Grant
from reconciler.leases import HeldElsewhere
from reconciler.loop import Key, Wheel
from reconciler.means import Means
from reconciler.reconcile import Also, WorldMoved
from reconciler.store import answers, jobs
from reconciler.store import commands as rows
from reconciler.store.answers import RequestDiffers, Ticket
from reconciler.store.errors import CommitUnknown, JobActive, StoreError, Unavailable, Violated
from reconciler.store.records import Command, Job, Lease
from stickers.names import Digest, EnvironmentId, JobId, TargetId

PATIENCE: Final = timedelta(seconds=60)  # from the asking until somebody has begun
WORKING: Final = timedelta(seconds=60)  # more, for who has begun
RETURNS: Final = 15.0  # seconds that a database may be away while something is asked
REPEATED: Final = "REPEATED"  # the code of what was asked under a ticket that has its answer already
GLANCE: Final = 0.5  # seconds between two looks for the answer, where nobody wakes us

Answers = dict[str, anyio.Event]  # who waits, by the command's id


def key(environment: EnvironmentId) -> Key:
    """Asks the holder for a turn over what is asked of the environment."""
    return Key(Wheel.COMMAND, environment)


# -- who asks ---------------------------------------------------------------------------------------------------------


def sync(environment: EnvironmentId, grant: Grant, person: Person, plan_hash: str | None) -> Command:
    targets = None if grant.targets is None else sorted(grant.targets)
    said = {"advance": grant.advance, "heal": grant.heal, "removal": grant.removal, "targets": targets}
    return _command(environment, "sync", person, {"grant": said, "plan_hash": plan_hash})


def rollback(environment: EnvironmentId, person: Person) -> Command:
    return _command(environment, "rollback", person, {})


def adopt(environment: EnvironmentId, targets: frozenset[TargetId] | None, person: Person) -> Command:
    return _command(environment, "adopt", person, {"targets": None if targets is None else sorted(targets)})


def _command(environment: EnvironmentId, kind: str, person: Person, more: Mapping[str, Any]) -> Command:
    return Command(
        id=token_hex(16),
        environment=environment,
        kind=kind,
        arguments={"reason": person.reason, "ticket": _kept(person.ticket), "cause": correlation.cause(), **more},
        actor=person.actor,
    )


async def ask(means: Means, command: Command, ring: Callable[[Key], None], answers: Answers) -> Job | None:
    """What the holder answers: the job it made, None where there is nothing to do. Raises what it would have raised
    here."""
    answers[command.id] = anyio.Event()
    try:
        await _write(means, command)
        ring(key(command.environment))
        return await _read(means, await _answered(means, command, answers))
    finally:
        del answers[command.id]


async def _write(means: Means, command: Command) -> None:
    """Once, whatever becomes of the answer of the database: the id is the same each time."""
    now, deadline = means.tools.now(), anyio.current_time() + RETURNS
    while True:
        try:
            await means.store.write(lambda c: rows.ask(c, command, now=now, ttl=PATIENCE))
            return
        except (CommitUnknown, Unavailable):
            if anyio.current_time() > deadline:
                raise
        await anyio.sleep(GLANCE)


async def _answered(means: Means, command: Command, answers: Answers) -> Mapping[str, Any]:
    with anyio.move_on_after((PATIENCE + WORKING).total_seconds()):
        while True:
            found = await _found(means, command)
            if found is not None and found.answer is not None:
                return found.answer
            with anyio.move_on_after(GLANCE):
                await answers[command.id].wait()
    said = f"nobody that holds {command.environment} has answered; nothing was begun"
    gone = await means.store.write(
        lambda c: rows.withdraw(c, command.id, {"code": "NO_HOLDER", "text": said}, means.tools.now())
    )
    assert gone is not None
    assert gone.answer is not None
    return gone.answer


async def _found(means: Means, command: Command) -> Command | None:
    """None too while the database is away: who waits goes on waiting."""
    try:
        return await means.store.read(lambda c: rows.load(c, command.id))
    except Unavailable:
        return None


async def _read(means: Means, answer: Mapping[str, Any]) -> Job | None:
    if "text" not in answer:
        id = answer["job"]
        return None if id is None else await means.store.read(lambda c: jobs.load(c, JobId(id)))
    if answer["code"] == JobActive.code:
        raise JobActive(EnvironmentId(answer["environment"]), JobId(answer["job"]))
    raise Declined(answer["code"], answer["text"])


# -- who holds --------------------------------------------------------------------------------------------------------


async def serve(means: Means, environment: EnvironmentId, ring: Callable[[str], None]) -> None:
    """Carry out everything that is asked of the environment, in its order, and answer it."""
    try:
        async with means.leases.under(environment) as lease:
            now = means.tools.now()
            for command in await means.store.read(lambda c: rows.waiting(c, environment, now)):
                await _serve(means, command, lease)
                ring(f"answer:{command.id}")
    except HeldElsewhere:
        return  # whoever holds it is asked too


async def _serve(means: Means, command: Command, lease: Lease) -> None:
    """The answer, however it ends. What the store could not do is not answered: it is tried again."""
    ticket = _ticket(command)
    try:
        if await _has_answer(means, ticket):
            raise Declined(REPEATED, "what is asked under this key was done before")
        with correlation.caused_by(correlation.checked(command.arguments.get("cause"))):
            job = await _carried(means, command, ticket)
        answer: dict[str, Any] = {"job": job.id if job else None}
    except JobActive as busy:
        answer = _refused(busy.code, str(busy)) | {"environment": busy.environment, "job": busy.job}
    except Declined as declined:
        answer = _refused(declined.code, str(declined))
    except WorldMoved as moved:
        answer = _refused("WORLD_MOVED", f"{moved}; try again")
    except RequestDiffers as differs:
        answer = _refused(differs.code, str(differs))
    except Violated:
        if not await _has_answer(means, ticket):
            raise
        answer = _refused(REPEATED, "what is asked under this key was done at this moment")
    except Withdrawn:
        return
    await means.store.write(lambda c: _answer(c, means, command, answer, lease))


async def _has_answer(means: Means, ticket: Ticket | None) -> bool:
    """Raises `RequestDiffers`."""
    return ticket is not None and await means.store.read(lambda c: answers.find(c, ticket)) is not None


def _answer(c: Connection, means: Means, command: Command, answer: Mapping[str, Any], lease: Lease) -> None:
    """That there was nothing to do is the first answer too; one about a job was written with the job."""
    now, ticket = means.tools.now(), _ticket(command)
    written = rows.answer(c, command.id, answer, lease, now)
    if written and ticket is not None and answer == {"job": None}:
        answers.keep(c, ticket, means.tell_of(command.environment, None), now)


def _refused(code: str, text: str) -> dict[str, Any]:
    return {"code": code, "text": text}


async def _carried(means: Means, command: Command, ticket: Ticket | None) -> Job | None:
    busy = await means.store.read(lambda c: jobs.active(c, command.environment))
    if busy is not None:  # told without a look at every target
        raise JobActive(command.environment, busy.id)
    said = command.arguments
    person = Person(
        actor=command.actor, reason=said["reason"], also=_answers(command, commands.keeps(means.tell_of, ticket))
    )
    match command.kind:
        case "sync":
            grant = _grant(said["grant"])
            return await commands.sync(means, command.environment, grant, person, plan_hash=said["plan_hash"])
        case "rollback":
            return await commands.rollback(means, command.environment, person)
        case "adopt":
            return await commands.adopt(means, command.environment, _targets(said["targets"]), person)
    raise Declined("UNKNOWN_COMMAND", f"the replica that holds {command.environment} is too old for {command.kind!r}")


def _answers(command: Command, keep: Also) -> Also:
    """Written with the job. One that was answered meanwhile, by withdrawal, makes none."""

    def write(c: Connection, job: Job, lease: Lease, now: datetime) -> None:
        if not rows.answer(c, command.id, {"job": job.id}, lease, now):
            raise Withdrawn(f"command {command.id} was withdrawn")
        keep(c, job, lease, now)

    return write


class Withdrawn(StoreError):
    """Who asked has given up; nothing is done."""

    code = "WITHDRAWN"


def _kept(ticket: Ticket | None) -> Mapping[str, Any] | None:
    return None if ticket is None else {"actor": ticket.actor, "key": ticket.key, "request": ticket.request}


def _ticket(command: Command) -> Ticket | None:
    """A replica that is older sends none, and keeps the answer itself."""
    said = command.arguments.get("ticket")
    if said is None:
        return None
    return Ticket(actor=said["actor"], key=said["key"], request=Digest(said["request"]))


def _grant(said: Mapping[str, Any]) -> Grant:
    return Grant(advance=said["advance"], heal=said["heal"], removal=said["removal"], targets=_targets(said["targets"]))


def _targets(names: list[str] | None) -> frozenset[TargetId] | None:
    return None if names is None else frozenset(map(TargetId, names))
