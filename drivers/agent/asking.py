"""One task, from what is wanted to the agent's answer: made for the run of the agent that serves the target now,
authorised by the signer, sealed and carried. What comes too late for that run is authorised again.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypeVar, assert_never

from desired_state.model import Target
from drivers import errors
from drivers.agent import protocol, sealing
from drivers.agent.link import Authorise, Heard, Link, Serving
from drivers.agent.protocol import Answer, Assign, Code, Failure, Malformed, Priority, Result, Task, Verb
from drivers.errors import DriverError, OutcomeUnknown, Refused, Retryable, StaleFence, Unreachable
from stickers.names import ActionKey

AGAIN: Final = 2  # authorisations more, where one came too late
PROMPT: Final = timedelta(seconds=30)  # for what changes nothing, to be begun and to be done

T = TypeVar("T")

OVERTAKEN: Final = frozenset({Code.EPOCH, Code.EXPIRED, Code.GENERATION})  # a fresh authorisation helps

_ERRORS: Final[Mapping[str, type[DriverError]]] = {
    error.code: error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, DriverError) and error.__module__ == errors.__name__
}


def fresh_key() -> ActionKey:
    """For what is asked once and need not be known again."""
    return ActionKey(secrets.token_hex(32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked of a target. `secrets` are values by the names they are sealed under; `began_within` is how long
    the task may wait for its turn on the host."""

    target: Target
    verb: Verb
    body: str
    key: ActionKey = field(default_factory=fresh_key)
    fence: int = 0
    began_within: timedelta = PROMPT
    within: timedelta = PROMPT
    priority: Priority = Priority.NORMAL
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


class Asking:
    """Asks agents, with the signer's leave."""

    def __init__(self, link: Link, authorise: Authorise) -> None:
        self._link, self._authorise = link, authorise

    def serving(self, target: Target) -> Serving:
        """Who serves the target; `Refused` where that agent has no such runtime."""
        found = self._link.serving(target.id)
        if target.driver not in found.kinds:
            has = ", ".join(sorted(found.kinds)) or "nothing"
            raise Refused(f"agent {found.agent} is not granted {target.driver}, or has none; it works with {has}")
        return found

    async def ask(self, wanted: Wanted, answer: type[T], heard: Heard | None = None) -> T:
        """The body of the agent's answer; every other answer is one of `drivers.errors`."""
        for _ in range(AGAIN):
            result, found = await self._carried(wanted, heard or _unheard)
            if result.code not in OVERTAKEN:
                break
        else:
            result, found = await self._carried(wanted, heard or _unheard)
        return _answered(result, found, answer)

    async def _carried(self, wanted: Wanted, heard: Heard) -> tuple[Result, Answer]:
        serving = self.serving(wanted.target)
        task = _task(wanted, serving)
        envelope = await self._authorise(task, wanted.body)
        assign = Assign(envelope=envelope, body=wanted.body, sealed=_sealed(wanted, task, serving))
        return await self._link.carry(task, assign, heard)


def _unheard(lines: Sequence[Mapping[str, Any]], /) -> None:
    """Nobody listens."""


def _task(wanted: Wanted, serving: Serving) -> Task:
    return Task(
        id=secrets.token_hex(16),
        key=wanted.key,
        agent=serving.agent,
        generation=serving.generation,
        epoch=serving.epoch,
        target=wanted.target.id,
        environment=wanted.target.environment,
        verb=wanted.verb,
        content=protocol.content(wanted.body),
        fence=wanted.fence,
        not_after=serving.clock + wanted.began_within // timedelta(milliseconds=1),
        within=wanted.within,
        priority=wanted.priority,
    )


def _sealed(wanted: Wanted, task: Task, serving: Serving) -> str | None:
    if not wanted.secrets:
        return None
    try:
        return sealing.seal(wanted.secrets, serving.sealing, task=task.id, agent=task.agent, key=task.key)
    except sealing.Unsealable as error:
        raise Refused(f"agent {serving.agent}: {error}") from None


# -- answers -----------------------------------------------------------------------------------------------------------


def _answered(result: Result, found: Answer, kind: type[T]) -> T:
    match result.code:
        case Code.DONE:
            return _read(result, found, kind)
        case Code.FAILED:
            raise _raised(_read(result, found, Failure))
        case Code.STALE_FENCE:
            raise StaleFence(_said(result))
        case Code.EPOCH | Code.EXPIRED | Code.GENERATION:
            raise Unreachable(f"{_said(result)}, {1 + AGAIN} times: nothing was done")
        case Code.CANCELLED:
            raise Retryable(_said(result))
        case (
            Code.MALFORMED
            | Code.FORGED
            | Code.AUDIENCE
            | Code.CONTENT
            | Code.USED
            | Code.NOT_GRANTED
            | Code.NOT_ALLOWED
        ):
            raise Refused(_said(result))
        case _:
            assert_never(result.code)


def _said(result: Result) -> str:
    return f"agent {result.agent} refused with {result.code}: {result.detail}"


def _read(result: Result, found: Answer, kind: type[T]) -> T:
    """What the signed result names. An answer that cannot be read says nothing about what was done."""
    if protocol.content(found.body) != result.content:
        raise OutcomeUnknown(f"agent {result.agent} sent another body than its result names")
    try:
        return protocol.read_body(kind, found.body)
    except Malformed as error:
        raise OutcomeUnknown(f"agent {result.agent} answered what cannot be read: {error}") from None


def _raised(failure: Failure) -> DriverError:
    """What the driver on the host raised, as it would have been raised here."""
    return _ERRORS.get(failure.error, OutcomeUnknown)(failure.sentence)
