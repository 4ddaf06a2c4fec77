"""Looks: as the standing orders say and in no other way, several at one question, and answered in full only where
something has changed. What the runtimes tell by themselves is passed on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Final

import anyio
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskGroup, TaskStatus

from desired_state.model import Target
from drivers.agent import protocol
from drivers.agent.duty import seen
from drivers.agent.duty.carry import travels
from drivers.agent.duty.journal import Journal
from drivers.agent.duty.local import Locals
from drivers.agent.protocol import Changed, LookAt, Seen
from drivers.contract import Look, Watcher
from drivers.errors import DriverError
from stickers.names import Digest, TargetId
from stickers.observation import Observation

TOGETHER: Final = 0.005  # seconds in which looks that arrive are put into one question
GATHER: Final = 0.05  # seconds in which events are put into one frame
AGAIN: Final = (1.0, 30.0)  # seconds until lost events are asked for again, at first and at most

_log: Final = logging.getLogger("holdfast.agent")

Reply = Callable[[Seen], None]


class Orders:
    """`may` says whether a runtime may be worked with on a target, by the operator and by the host."""

    def __init__(
        self,
        journal: Journal,
        locals: Locals,
        may: Callable[[TargetId, str], bool],
        tell: Callable[[Changed], None],
    ) -> None:
        self._journal, self._locals, self._may, self._tell = journal, locals, may, tell
        self._looks: dict[TargetId, tuple[Digest, Look]] = {}
        self._asked: list[tuple[LookAt, Reply]] = []
        self._group: TaskGroup | None = None
        self._pending: set[TargetId] = set()
        self._watching: dict[str, tuple[tuple[Target, ...], anyio.CancelScope]] = {}
        self._stirred = anyio.Event()

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Until it is cancelled: answers looks, and listens to the runtimes of all targets with an order."""
        async with anyio.create_task_group() as group:
            self._group = group
            task_status.started()
            while True:
                self._stirred = anyio.Event()
                self._watch_all(group)
                await self._stirred.wait()

    def _watch_all(self, group: TaskGroup) -> None:
        """Listen to each runtime about exactly the targets with an order; where those are the same, go on listening."""
        wanted = {kind: tuple(look.target for look in looks) for kind, looks in _by_kind(self.standing()).items()}
        for kind in [kind for kind, (targets, _) in self._watching.items() if wanted.get(kind) != targets]:
            self._watching.pop(kind)[1].cancel()
        for kind in wanted.keys() - self._watching.keys():
            scope = anyio.CancelScope()
            self._watching[kind] = wanted[kind], scope
            group.start_soon(self._watch, kind, wanted[kind], scope)

    def standing(self) -> list[Look]:
        """Every order that stands and may be followed."""
        found = (self._order(target) for target in self._journal.orders)
        return [order[1] for order in found if order is not None]

    @property
    def digests(self) -> Mapping[TargetId, Digest]:
        found = ((target, self._order(target)) for target in self._journal.orders)
        return {target: order[0] for target, order in found if order is not None}

    def changed(self) -> None:
        """Orders were added or replaced."""
        self._stirred.set()

    # -- looks -------------------------------------------------------------------------------------------------------

    def ask(self, asked: LookAt, reply: Reply) -> None:
        assert self._group is not None
        order = self._order(asked.target)
        if order is None or order[0] != asked.order:
            reply(Seen(id=asked.id, lacking=True))
            return
        self._asked.append((asked, reply))
        if len(self._asked) == 1:
            self._group.start_soon(self._gather)

    async def _gather(self) -> None:
        await anyio.sleep(TOGETHER)
        waiting, self._asked, asked = self._asked, [], []
        looks_at: dict[TargetId, Look] = {}
        for one, reply in waiting:
            order = self._order(one.target)
            if order is None or order[0] != one.order:  # another has taken its place meanwhile
                reply(Seen(id=one.id, lacking=True))
            else:
                looks_at[one.target] = order[1]
                asked.append((one, reply))
        by_kind = _by_kind(looks_at.values())
        async with anyio.create_task_group() as group:
            for looks in by_kind.values():
                here = {look.target.id for look in looks}
                group.start_soon(self._answer, looks, [one for one in asked if one[0].target in here])

    async def _answer(self, looks: Sequence[Look], asked: Sequence[tuple[LookAt, Reply]]) -> None:
        found = await self._locals.observe(looks)
        texts = {target: _text(observation) for target, observation in found.items()}
        digests = {target: protocol.content(text) for target, text in texts.items()}
        for one, reply in asked:
            text, digest = texts[one.target], digests[one.target]
            reply(Seen(id=one.id, digest=digest, observation=None if digest == one.seen else text))

    def _order(self, target: TargetId) -> tuple[Digest, Look] | None:
        standing = self._journal.orders.get(target)
        if standing is None:
            return None
        digest = protocol.content(standing.body)
        known = self._looks.get(target)
        if known is None or known[0] != digest:
            known = self._looks[target] = digest, protocol.read_body(Look, standing.body)
        return known if self._may(target, known[1].target.driver) else None

    # -- events ------------------------------------------------------------------------------------------------------

    async def _watch(self, kind: str, targets: Sequence[Target], scope: anyio.CancelScope) -> None:
        pause = AGAIN[0]
        with scope:
            while True:
                try:
                    driver = await self._locals.driver(kind)
                    if not isinstance(driver, Watcher):
                        return
                    here = [self._locals.here(target) for target in targets]
                    async with aclosing(driver.watch(here)) as events:  # type: ignore[type-var]
                        async for target in events:
                            pause = AGAIN[0]
                            self._heard(target)
                except Exception as error:
                    _log.warning("events of %s are lost, asked for again in %g s: %s", kind, pause, error)
                    if not isinstance(error, DriverError):
                        _log.exception("%s could not listen", kind)
                await anyio.sleep(pause)
                pause = min(2 * pause, AGAIN[1])
                self._tell(Changed(targets=tuple(target.id for target in targets)))

    def _heard(self, target: TargetId) -> None:
        assert self._group is not None
        if not self._pending:
            self._group.start_soon(self._pass_on)
        self._pending.add(target)

    async def _pass_on(self) -> None:
        await anyio.sleep(GATHER)
        targets, self._pending = tuple(sorted(self._pending)), set()
        self._tell(Changed(targets=targets))


def _by_kind(looks: Iterable[Look]) -> dict[str, list[Look]]:
    found: dict[str, list[Look]] = {}
    for look in looks:
        found.setdefault(look.target.driver, []).append(look)
    return found


def _text(observation: Observation) -> str:
    text = seen.text(observation)
    if travels(text):
        return text
    why = f"what was seen has {len(text)} characters, and that is more than is sent"
    return seen.text(Observation(target=observation.target, at=observation.at, unseen=why))
