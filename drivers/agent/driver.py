"""Hands and eyes of any runtime through an agent on its host.

How a target is looked at is an order: it is authorised once, stands on the host until another takes its place, and
names the health checks, so that the agent runs none that nobody signed for. Then a look is a small question, and where
nothing has changed the answer is small too. Secrets are resolved here, inside `apply`, and sealed for the agent and the
one task; those of backends that the host asks itself are not.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final

import anyio

from desired_state.model import Placement, Target
from desired_state.secrets import SecretRef
from drivers.agent import protocol, sealing
from drivers.agent.asking import PROMPT, Asking, Wanted
from drivers.agent.link import Authorise, Link, Serving
from drivers.agent.protocol import Excerpt, Findings, Lines, Malformed, Priority, Seen, Verb
from drivers.contract import (
    Action,
    Capabilities,
    Change,
    Deploy,
    Diagnosis,
    Look,
    Progress,
    Receipt,
    Remove,
    Rendered,
    RenderedKind,
    Rendering,
    Report,
    Tools,
    Verified,
)
from drivers.diagnosis import ok, unknown
from drivers.errors import DriverError, InvalidAction, OutcomeUnknown, Refused, Retryable, Unreachable
from drivers.registry import DriverClass
from stickers.names import Digest, PlacementId, TargetId
from stickers.observation import Observation

LOOK_WITHIN: Final = timedelta(seconds=20)  # for one target; then it is unseen
ARRIVAL: Final = 5.0  # seconds after our start in which agents are waited for
PATIENCE: Final = timedelta(seconds=5)  # beyond an action's deadline, until its answer is not waited for any more
FOLLOW: Final = 2.0  # seconds between two questions for new lines of a log
OVERLAP: Final = 500  # lines that are asked for to find out which are new
TRIES: Final = 3  # of a look whose order another server's took the place of


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """How a target is looked at, as it is authorised."""

    look: Look
    body: str
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sight:
    """The last observation of a target, and what the agent calls it."""

    order: Digest
    digest: Digest
    text: str
    observation: Observation


def over_agents(inner: DriverClass) -> type[AgentDriver]:
    """The driver class of targets that have this runtime and are reached through an agent: with its powers, and events,
    which every agent has."""
    has = NarratingAgentDriver if inner.capabilities.logs else AgentDriver
    said: dict[str, object] = {
        "kind": inner.kind,
        "capabilities": replace(inner.capabilities, events=True),
        "verified": getattr(inner, "verified", None),
        "inner": staticmethod(inner),
    }
    return type(f"Agent{inner.kind.title()}Driver", (has,), said)


class AgentDriver:
    """Targets of one runtime, each served by an agent. `over_agents` makes the class for a runtime."""

    kind: ClassVar[str]
    capabilities: ClassVar[Capabilities]
    verified: ClassVar[Verified | None]
    deploys: ClassVar[frozenset[RenderedKind]] = frozenset()  # the host renders anew what was authorised, and no file
    inner: ClassVar[Callable[[Tools], object]]

    def __init__(self, tools: Tools, link: Link, authorise: Authorise) -> None:
        self._tools, self._link, self._asking = tools, link, Asking(link, authorise)
        self._orders: dict[TargetId, _Order] = {}
        self._sights: dict[TargetId, _Sight] = {}
        self._locks: dict[TargetId, anyio.Lock] = {}
        self._renders: Rendering | None = None
        self._since: float | None = None  # we look

    async def aclose(self) -> None:
        """The link is closed by whoever opened it."""
        for kept in (self._orders, self._sights, self._locks):
            kept.clear()

    # -- eyes --------------------------------------------------------------------------------------------------------

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        found: dict[TargetId, Observation] = {}
        async with anyio.create_task_group() as group:
            for look in looks:
                group.start_soon(self._observe, look, found)
        return found

    async def _observe(self, look: Look, found: dict[TargetId, Observation]) -> None:
        """One target, in its own time, whatever becomes of it. Its time is when we began to look, by our clock."""
        id, at = look.target.id, self._tools.now()
        reason = f"its agent did not answer within {LOOK_WITHIN.total_seconds():g} s"
        with anyio.move_on_after(LOOK_WITHIN.total_seconds()):
            try:
                async with self._locks.setdefault(id, anyio.Lock()):  # one order stands at a time
                    found[id] = await self._seen(self._order(look), at)
                return
            except DriverError as error:
                reason = str(error)
        found[id] = Observation(target=id, at=at, unseen=reason)

    def _order(self, look: Look) -> _Order:
        known = self._orders.get(look.target.id)
        if known is None or (known.look is not look and known.look != look):
            body = protocol.body(look)
            known = _Order(look=look, body=body, digest=protocol.content(body))
            self._orders[look.target.id] = known
        return known

    async def _seen(self, order: _Order, at: datetime) -> Observation:
        await self._served(order.look.target)
        for _ in range(TRIES):
            last = self._sights.get(order.look.target.id)
            known = last if last is not None and last.order == order.digest else None
            seen = await self._link.look(order.look.target.id, order.digest, known.digest if known else None)
            if seen.lacking:
                await self._stand(order)
            elif seen.observation is not None:
                return replace(self._read(order, seen).observation, at=at)
            elif known is not None and seen.digest == known.digest:
                return replace(known.observation, at=at)
            else:
                self._sights.pop(order.look.target.id, None)
        raise Unreachable("the order to look did not stand on its agent: other servers ask it otherwise")

    async def _served(self, target: Target) -> None:
        """Raises what keeps the target from being served. Just after our own start its agent may be on its way here."""
        if self._since is None:
            self._since = anyio.current_time()
        while True:
            try:
                self._asking.serving(target)
                return
            except Unreachable:
                if anyio.current_time() > self._since + ARRIVAL:
                    raise
            await anyio.sleep(0.1)

    async def _stand(self, order: _Order) -> None:
        wanted = Wanted(target=order.look.target, verb=Verb.INSPECT, body=order.body, priority=Priority.URGENT)
        await self._asking.ask(wanted, object)

    def _read(self, order: _Order, seen: Seen) -> _Sight:
        """The observation that was sent; one that was sent before is the same object."""
        id, text = order.look.target.id, seen.observation or ""
        last = self._sights.get(id)
        observation = last.observation if last is not None and last.text == text else _observation(id, text)
        sight = _Sight(
            order=order.digest, digest=seen.digest or protocol.content(text), text=text, observation=observation
        )
        self._sights[id] = sight
        return sight

    async def watch(self, targets: Sequence[Target]) -> AsyncGenerator[TargetId, None]:
        changes = self._link.changes([target.id for target in targets])
        async with aclosing(changes) as told:  # type: ignore[type-var]
            async for id in told:
                yield id

    # -- hands -------------------------------------------------------------------------------------------------------

    async def apply(self, action: Action, *, report: Report) -> Receipt:
        serving = self._asking.serving(action.target)
        wanted = Wanted(
            target=action.target,
            verb=_verb(action),
            body=protocol.body(action),
            key=action.key,
            fence=action.fence,
            began_within=action.deadline,
            within=action.deadline,
            secrets=await self._secrets(action.changes, serving),
        )
        if len(wanted.body) > protocol.LARGEST_BODY:
            raise InvalidAction(f"an action of {len(wanted.body)} characters is more than an agent takes")

        def heard(lines: Sequence[Mapping[str, Any]]) -> None:
            for progress in _progress(lines, action.target.id):
                report(progress)

        longest = (action.deadline + PATIENCE).total_seconds()
        with anyio.move_on_after(longest):
            return _fitting(action, await self._asking.ask(wanted, Receipt, heard))
        raise OutcomeUnknown(
            f"agent {serving.agent} did not answer within {longest:g} s; what it did is to be looked at"
        )

    async def _secrets(self, changes: Sequence[Change], serving: Serving) -> dict[str, str]:
        """The values of what is to be brought. What is to be put back at need goes along as far as it can be had: it
        has its own already."""
        brought = dict.fromkeys(
            ref for one in changes if not isinstance(one, Remove) for ref in references(one.placement)
        )
        behind = dict.fromkeys(
            ref
            for one in changes
            if isinstance(one, Deploy)
            for ref in references(one.predecessor)
            if ref not in brought
        )
        values = {}
        for ref in _sent(brought, serving):
            values[sealing.named(ref)] = await self._tools.secret(ref)
        for ref in _sent(behind, serving):
            try:
                values[sealing.named(ref)] = await self._tools.secret(ref)
            except (Refused, Retryable):
                continue
        return values

    # -- files and findings ------------------------------------------------------------------------------------------

    def rendered(
        self, target: Target, placements: Sequence[Placement], kept: Sequence[Rendered]
    ) -> tuple[Rendered, ...]:
        """As the runtime itself renders where it is."""
        if self._renders is None:
            inner = type(self).inner(self._tools)
            self._renders = inner if isinstance(inner, Rendering) else _RendersNothing()
        here = replace(target, connection={**target.connection, "via": "local"})
        return self._renders.rendered(here, placements, kept)

    async def examine(self, look: Look) -> tuple[Diagnosis, ...]:
        try:
            serving = self._asking.serving(look.target)
        except DriverError as error:
            return (unknown("agent", str(error), "look whether holdfast-agent runs on its host"),)
        there = ok("agent", f"agent {serving.agent} serves it")
        wanted = Wanted(target=look.target, verb=Verb.EXAMINE, body=protocol.body(look))
        try:
            with anyio.fail_after(PROMPT.total_seconds()):
                return (there, *(await self._asking.ask(wanted, Findings)).found)
        except TimeoutError:
            return (there, unknown("host", f"its agent did not answer within {PROMPT.total_seconds():g} s"))
        except DriverError as error:
            return (there, unknown("host", str(error)))


class NarratingAgentDriver(AgentDriver):
    """Of a runtime that can show what a workload printed."""

    async def logs(self, target: Target, id: PlacementId, *, tail: int, follow: bool) -> AsyncIterator[str]:
        """As much as an agent sends at once. Followed, it is asked again and again, and what is new is told."""
        last = await self._lines(target, id, tail)
        for line in last:
            yield line
        while follow:
            await anyio.sleep(FOLLOW)
            lines = await self._lines(target, id, max(len(last), OVERLAP))
            for line in lines[_overlap(last, lines) :]:
                yield line
            last = lines

    async def _lines(self, target: Target, id: PlacementId, tail: int) -> tuple[str, ...]:
        excerpt = Excerpt(target=target, id=id, tail=tail)
        wanted = Wanted(target=target, verb=Verb.READ_LOG, body=protocol.body(excerpt))
        with anyio.move_on_after(PROMPT.total_seconds()):
            return (await self._asking.ask(wanted, Lines)).lines
        raise Unreachable(f"the agent of {target.id} did not answer within {PROMPT.total_seconds():g} s")


class _RendersNothing:
    """Stands for a runtime that deploys no files."""

    deploys: ClassVar[frozenset[RenderedKind]] = frozenset()

    def rendered(
        self, target: Target, placements: Sequence[Placement], kept: Sequence[Rendered]
    ) -> tuple[Rendered, ...]:
        return ()


# -- what is asked -----------------------------------------------------------------------------------------------------


def _verb(action: Action) -> Verb:
    if action.back:
        return Verb.ROLLBACK
    return Verb.WRITE_STICKER if action.only_labels else Verb.DEPLOY


def references(value: object) -> Iterator[SecretRef]:
    """Every secret that is referred to in a record."""
    if isinstance(value, SecretRef):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)
    elif is_dataclass(value):
        for each in fields(value):
            yield from references(getattr(value, each.name))


def _sent(refs: Mapping[SecretRef, None], serving: Serving) -> list[SecretRef]:
    return [ref for ref in refs if ref.backend not in serving.resolves]


# -- what is answered: a target speaks of itself and of nothing else ---------------------------------------------------


def _observation(target: TargetId, text: str) -> Observation:
    try:
        found = protocol.read_body(Observation, text)
    except Malformed as error:
        raise Unreachable(f"its agent sent what cannot be read: {error}") from None
    if found.target != target:
        raise Unreachable(f"its agent sent an observation of {found.target[:80]}")
    return found


def _fitting(action: Action, receipt: Receipt) -> Receipt:
    asked = {change.id for change in action.changes}
    if receipt.key != action.key or receipt.target != action.target.id or {one.id for one in receipt.outcomes} != asked:
        raise OutcomeUnknown(f"the agent of {action.target.id} sent a receipt for something else")
    return receipt


def _progress(lines: Sequence[Mapping[str, Any]], target: TargetId) -> Iterator[Progress]:
    for line in lines:
        try:
            progress = protocol.from_plain(Progress, line)
        except Malformed:
            continue
        if progress.id.target == target:
            yield progress


def _overlap(last: Sequence[str], lines: Sequence[str]) -> int:
    """How many of the lines were told before: those up to where the last ones end."""
    for end in range(len(lines), 0, -1):
        known = min(end, len(last))
        if known and tuple(last[-known:]) == tuple(lines[end - known : end]):
            return end
    return 0
