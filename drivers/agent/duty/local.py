"""The drivers of this host, and what each verb about a target has them do.

A target that an agent serves is, here, a target of this very machine: its connection without the word that led here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import anyio
import anyio.to_thread
from pydantic import ValidationError

from desired_state.model import Placement, Target
from drivers import registry
from drivers.agent import protocol
from drivers.agent.duty import seen
from drivers.agent.duty.carry import Do, Done, Job
from drivers.agent.duty.journal import Full, Journal, Proven
from drivers.agent.duty.own import Secrets
from drivers.agent.protocol import Excerpt, Findings, Lines, Verb
from drivers.contract import (
    Action,
    Deploy,
    Driver,
    Examiner,
    Look,
    Narrator,
    Outcome,
    Receipt,
    Remove,
    Restart,
    Result,
    Tools,
)
from drivers.errors import Conflict, DriverError, InvalidAction, Refused
from stickers.names import Digest, PlacementId, TargetId
from stickers.observation import Observation

Make = Callable[[str, Tools], Driver]

LINE: Final = 4096  # characters of one line of a log that is sent

_log: Final = logging.getLogger("holdfast.agent")


def made(kind: str, tools: Tools) -> Driver:
    """The driver of that kind. Raises `Refused` where there is none."""
    try:
        return registry.load(kind)(tools)
    except (registry.UnknownKind, registry.BrokenDriver) as error:
        raise Refused(str(error)) from None


class Locals:
    """One driver of each kind, made when it is first needed."""

    def __init__(self, tools: Tools, make: Make = made) -> None:
        self._tools, self._make = tools, make
        self._drivers: dict[str, Driver] = {}
        self._making = anyio.Lock()
        self._here: dict[TargetId, tuple[Mapping[str, Any], Target]] = {}

    async def driver(self, kind: str) -> Driver:
        async with self._making:
            if kind not in self._drivers:
                self._drivers[kind] = await anyio.to_thread.run_sync(self._make, kind, self._tools)
            return self._drivers[kind]

    def here(self, target: Target) -> Target:
        """The target as this machine's own; equal ones are the same object, by which drivers keep connections. Raises
        `InvalidAction` where it leads elsewhere."""
        known = self._here.get(target.id)
        if known is None or known[0] != target.connection or known[1].driver != target.driver:
            self._here[target.id] = target.connection, _here(target)
        return replace(self._here[target.id][1], labels=target.labels, environment=target.environment)

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        """By one question to each driver."""
        found: dict[TargetId, Observation] = {}
        by_kind: dict[str, list[Look]] = {}
        for look in looks:
            try:
                here = replace(look, target=self.here(look.target))
                by_kind.setdefault(look.target.driver, []).append(here)
            except InvalidAction as error:
                at = self._tools.now()
                found[look.target.id] = Observation(target=look.target.id, at=at, unseen=str(error))

        async def ask(kind: str) -> None:
            try:
                found.update(await (await self.driver(kind)).observe(by_kind[kind]))
            except Exception as error:  # whatever a driver does, the others' targets are seen
                if not isinstance(error, DriverError):
                    _log.exception("%s could not look", kind)
                at, ids = self._tools.now(), [look.target.id for look in by_kind[kind]]
                found.update({id: Observation(target=id, at=at, unseen=str(error)) for id in ids})

        async with anyio.create_task_group() as group:
            for kind in by_kind:
                group.start_soon(ask, kind)
        return found

    async def aclose(self) -> None:
        drivers, self._drivers = self._drivers, {}
        for driver in drivers.values():
            await driver.aclose()


def _here(target: Target) -> Target:
    connection = {name: value for name, value in target.connection.items() if name != "via"}
    try:
        read = registry.connection_model(target.driver).model_validate(connection)
    except (registry.UnknownKind, registry.BrokenDriver) as error:
        raise InvalidAction(str(error)) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        raise InvalidAction(f"connection of {target.id}: {place}: {first['msg']}") from None
    if getattr(read, "via", "local") != "local":
        raise InvalidAction(f"connection of {target.id}: an agent works on its own host, and this leads to another")
    return replace(target, connection=connection)


class AboutTargets:
    """The verbs that drivers carry out."""

    def __init__(self, locals: Locals, journal: Journal, secrets: Secrets) -> None:
        self._locals, self._journal, self._secrets = locals, journal, secrets

    @property
    def verbs(self) -> Mapping[Verb, Do]:
        return {
            Verb.DEPLOY: self.act,
            Verb.ROLLBACK: self.act,
            Verb.WRITE_STICKER: self.label,
            Verb.INSPECT: self.inspect,
            Verb.HEALTH_CHECK: self.look,
            Verb.READ_STICKER: self.look,
            Verb.EXAMINE: self.examine,
            Verb.READ_LOG: self.log,
        }

    async def act(self, job: Job) -> Done:
        assert isinstance(job.work, Action)
        receipt = await self.apply(job, job.work)
        detail = "; ".join(outcome.detail for outcome in receipt.outcomes)
        return Done(body=protocol.body(receipt), detail=detail)

    async def apply(self, job: Job, action: Action) -> Receipt:
        """By the local driver, with the task's own secrets. What is proven by it is remembered."""
        target = self._locals.here(action.target)
        driver = await self._locals.driver(target.driver)
        self._secrets.open(job.secrets)
        asked = replace(action, target=target, deadline=min(action.deadline, job.task.within))
        receipt = await driver.apply(asked, report=job.report)
        outcomes = tuple(replace(one, detail=job.clean(one.detail)) for one in receipt.outcomes)
        receipt = replace(receipt, outcomes=outcomes)
        await anyio.to_thread.run_sync(remember, self._journal, action, receipt)
        return receipt

    async def label(self, job: Job) -> Done:
        """Its content stands already, or nothing is done."""
        action = job.work
        assert isinstance(action, Action)
        ours = [change for change in action.changes if not (isinstance(change, Deploy) and change.adopts)]
        standing = (await self._locals.observe([Look(target=action.target)]))[action.target.id]
        for change in ours:
            if not isinstance(change, Deploy):
                raise InvalidAction(f"{change.id}: a sticker is written by a deploy, not by a {change.verb}")
            if _content(standing, change.id) != change.placement.content:
                raise Conflict(f"{change.id}: what stands there is not what the sticker would say")
        return await self.act(job)

    async def look(self, job: Job) -> Done:
        assert isinstance(job.work, Look)
        found = await self._locals.observe([job.work])
        return Done(body=seen.text(found[job.work.target.id]))

    async def inspect(self, job: Job) -> Done:
        """From now on the target is looked at so; nothing is looked at yet."""
        assert isinstance(job.work, Look)
        return Done(body="null")

    async def examine(self, job: Job) -> Done:
        assert isinstance(job.work, Look)
        driver = await self._locals.driver(job.work.target.driver)
        if not isinstance(driver, Examiner):
            return Done(body=protocol.body(Findings(found=())))
        here = replace(job.work, target=self._locals.here(job.work.target))
        return Done(body=protocol.body(Findings(found=await driver.examine(here))))

    async def log(self, job: Job) -> Done:
        """The last lines, as many as travel."""
        excerpt = job.work
        assert isinstance(excerpt, Excerpt)
        driver = await self._locals.driver(excerpt.target.driver)
        if not isinstance(driver, Narrator):
            raise InvalidAction(f"{excerpt.target.driver} cannot show what a workload printed")
        target, lines = self._locals.here(excerpt.target), list[str]()
        async for line in driver.logs(target, excerpt.id, tail=max(0, excerpt.tail), follow=False):
            lines.append(job.clean(line)[:LINE])
        return Done(body=protocol.body(Lines(lines=_fitting(lines))))


def _fitting(lines: Sequence[str]) -> tuple[str, ...]:
    room, kept = protocol.LARGEST_LOG, list[str]()
    for line in reversed(lines):
        room -= len(line) + 1
        if room < 0:
            break
        kept.append(line)
    return tuple(reversed(kept))


def _content(observation: Observation, id: PlacementId) -> tuple[Digest | None, Digest | None] | None:
    if observation.unseen is not None:
        raise Conflict(f"{id}: what stands there cannot be seen: {observation.unseen}")
    standing = observation.standing(id.component, id.slot)
    if standing is None or standing.workload is None:
        return None
    return standing.workload.artifact, standing.workload.configuration


def remember(journal: Journal, action: Action, receipt: Receipt) -> None:
    """What stands by this action, authorised and proven: all that may be held without a server. Where there is no room
    to remember it, it is not held."""
    known = journal.proven.get(action.target.id)
    placements = {one.id: one for one in known.placements} if known else {}
    outcomes = {outcome.id: outcome for outcome in receipt.outcomes}
    for change in action.changes:
        placements.pop(change.id, None)
        stands = _stands(change, outcomes.get(change.id))
        if stands is not None:
            placements[change.id] = stands
    proven = Proven(
        target=action.target,
        environment=action.environment,
        job=action.job,
        revision=action.revision,
        placements=tuple(placements[id] for id in sorted(placements)),
    )
    try:
        journal.prove(proven)
    except Full:
        journal.forget_proven(action.target.id)


def _stands(change: Deploy | Restart | Remove, outcome: Outcome | None) -> Placement | None:
    if isinstance(change, Remove) or outcome is None or outcome.result is Result.UNPROVEN:
        return None
    if outcome.result is Result.REVERTED:
        return change.predecessor if isinstance(change, Deploy) and outcome.instance else None
    return change.placement
