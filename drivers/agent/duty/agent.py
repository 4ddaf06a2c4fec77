"""The agent, between its servers and its targets: what each frame has done, and what is said back to whom."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from drivers import registry
from drivers.agent import protocol, sealing
from drivers.agent.channels.channel import Channel, Lost
from drivers.agent.duty import failpoints, judge
from drivers.agent.duty.carry import Carrier, Do, Done, Job, no_room
from drivers.agent.duty.clock import Clock
from drivers.agent.duty.errands import Errands
from drivers.agent.duty.holding import Holding
from drivers.agent.duty.journal import Entry, Full, Journal, Standing
from drivers.agent.duty.judge import Again, Attach, Facts, Go, Refusal, Verdict
from drivers.agent.duty.local import AboutTargets, Locals, Make, made
from drivers.agent.duty.orders import Orders
from drivers.agent.duty.own import Own, Reader, Secrets, tools
from drivers.agent.duty.settings import Settings
from drivers.agent.duty.trusting import Trusting
from drivers.agent.protocol import (
    READS,
    VERSIONS,
    Accepted,
    Acknowledge,
    Answer,
    Assign,
    Beat,
    Cancel,
    Changed,
    Code,
    FromAgent,
    FromServer,
    Hello,
    LookAt,
    Said,
    Seen,
    Task,
    Turned,
    Verb,
    Welcome,
)
from drivers.errors import OutcomeUnknown, Refused
from stickers.names import TargetId
from stickers.redaction import Redactor

RESEND: Final = 30.0  # seconds after which an answer that nobody acknowledged is sent again
AHEAD: Final = 4096  # frames that wait for a channel; beyond, lines of progress are let go first, and then the channel

_log: Final = logging.getLogger("holdfast.agent")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What an agent is made of. `generation` answers how often its identity was renewed; `targets` are those it was
    invited for, until a server says otherwise."""

    own: Own
    settings: Settings
    journal: Journal
    clock: Clock
    generation: Callable[[], int]
    version: str
    targets: tuple[TargetId, ...] = ()
    make: Make = made
    upgrade: Do | None = None


class Agent:
    """Made, run, and told of each channel that stands (`met`)."""

    def __init__(self, parts: Parts) -> None:
        own, journal, clock, settings = parts.own, parts.journal, parts.clock, parts.settings
        self._parts, self._journal, self._clock = parts, journal, clock
        redactor = Redactor()
        self._reader = Reader(own)
        self._secrets = secrets = Secrets(redactor, settings.resolves)
        held = tools(own, self._reader, secrets, redactor, hooks=settings.hooks)
        self._locals = Locals(held, parts.make)
        self._trusting = Trusting(own, journal, clock)
        do: dict[Verb, Do] = {}
        self.carrier = Carrier(
            agent=own.agent,
            journal=journal,
            sign=held.sign,
            clock=clock,
            do=do,
            tell=self._tell,
            known=redactor,
            at_once=settings.at_once,
        )
        self.orders = Orders(journal, self._locals, self._may, self._tell_all)
        self.holding = Holding(
            agent=own.agent,
            journal=journal,
            clock=clock,
            locals=self._locals,
            carrier=self.carrier,
            read=self._reader,
            silent=self.silent,
            may=self._may,
        )
        do.update(AboutTargets(self._locals, journal, secrets).verbs)
        do.update(Errands(settings).verbs)
        do.update({Verb.HOLD: self.holding.grant, Verb.TRUST: self._trusting.trust})
        do[Verb.UPGRADE] = _no_upgrade if parts.upgrade is None else parts.upgrade
        self._links: list[_Link] = []
        self._askers: dict[str, list[_Link]] = {}
        self._told_as: dict[str, str] = {}  # answers that were given to a newer authorisation, by that one's id
        self._judging, self._ready = anyio.Lock(), anyio.Event()
        self._last_heard = clock.at()
        self._welcome = journal.welcome() or Welcome(protocol=VERSIONS[1], targets=parts.targets)
        self._reader.know(self._welcome.keys)

    # -- who it is to servers ----------------------------------------------------------------------------------------

    def hello(self) -> Hello:
        return Hello(
            protocol=VERSIONS,
            version=self._parts.version,
            epoch=self._clock.epoch,
            at=self._clock.at(),
            kinds=tuple(kind for kind in registry.kinds() if kind in self._parts.settings.kinds),
            resolves=tuple(self._parts.settings.resolves),
            orders=self.orders.digests,
            waiting=len(self._journal.unacknowledged()),
        )

    def beat(self) -> Beat:
        return Beat(at=self._clock.at(), queue=self.carrier.queue)

    def silent(self) -> float:
        """For how many seconds no server has been heard of."""
        return 0.0 if self._links else (self._clock.at() - self._last_heard) / 1000

    @property
    def asked_to_renew(self) -> bool:
        """Whether a server wants another certificate to be asked for."""
        return self._welcome.renew

    def status(self) -> dict[str, object]:
        """For people at the host."""
        return {
            "granted": list(self._welcome.kinds),
            "orders": len(self._journal.orders),
            "unfinished": len(self._journal.unfinished),
            "unacknowledged": len(self._journal.unacknowledged()),
            "held": {grant.target: self._clock.left(grant.span) // 1000 for grant in self._journal.holds.values()},
        }

    @property
    def connected(self) -> tuple[str, ...]:
        return tuple(link.server for link in self._links)

    # -- running -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until it is cancelled. What a former run has begun is carried on at once, server or not."""
        try:
            async with anyio.create_task_group() as group:
                await group.start(self.carrier.run)
                await group.start(self.orders.run)
                self._ready.set()
                group.start_soon(self.holding.run)
                group.start_soon(self._remind)
        finally:
            with anyio.CancelScope(shield=True):
                await self._locals.aclose()
                await self._secrets.aclose()

    async def _remind(self) -> None:
        while True:
            await anyio.sleep(RESEND)
            await self.carrier.keep_rest()
            await anyio.to_thread.run_sync(self._trusting.renew)
            for link in self._links:
                await self._send_unacknowledged(link)

    async def _send_unacknowledged(self, link: _Link) -> None:
        for id in self._journal.unacknowledged():
            answer = await anyio.to_thread.run_sync(self._journal.answer, id)
            if answer is not None:
                link.put(answer)
        for answer in self.carrier.unkept():
            link.put(answer)

    async def met(self, channel: Channel, welcome: Welcome) -> None:
        """One channel, from its welcome until it is lost."""
        link = _Link(channel)
        await self._ready.wait()
        await self._welcomed(welcome)
        self._links.append(link)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(link.write, group)
                await self._send_unacknowledged(link)
                async for frame in channel.frames():
                    await self._take_or_say(frame, link)
                group.cancel_scope.cancel()
        finally:
            self._links.remove(link)
            self._last_heard = self._clock.at()

    async def _welcomed(self, welcome: Welcome) -> None:
        self._welcome = welcome
        self._reader.know(welcome.keys)
        self.orders.changed()
        try:
            await anyio.to_thread.run_sync(self._journal.welcomed, welcome)
        except Full as error:
            _log.error("what the server says of this agent cannot be kept: %s", error)

    # -- frames ------------------------------------------------------------------------------------------------------

    async def _take_or_say(self, frame: FromServer, link: _Link) -> None:
        """One frame that cannot be dealt with ends neither the channel nor what runs."""
        try:
            await self._take(frame, link)
        except Exception:
            _log.exception("a frame of %s could not be dealt with: %s", link.server, frame.frame)

    async def _take(self, frame: FromServer, link: _Link) -> None:
        match frame:
            case Assign():
                async with self._judging:  # one after the other, so that none is accepted twice
                    await self._assigned(frame, link)
            case LookAt():
                self.orders.ask(frame, link.put)
            case Acknowledge():
                self._askers.pop(frame.task, None)
                await self._acknowledged(self._told_as.pop(frame.task, frame.task))
            case Cancel():
                await self.carrier.cancel(frame.task)
            case Welcome():
                await self._welcomed(frame)
            case Turned():
                _log.error("%s will not speak with this agent: %s: %s", link.server, frame.code, frame.sentence)
            case Beat():
                pass

    async def _acknowledged(self, id: str) -> None:
        try:
            await anyio.to_thread.run_sync(self._journal.acknowledge, id)
        except Full as error:
            _log.error("that task %s was heard of cannot be kept: %s", id, error)

    async def _assigned(self, assign: Assign, link: _Link) -> None:
        verdict: Verdict = judge.judged(assign.envelope, assign.body, self._facts())
        if isinstance(verdict, Go | Attach):
            self._askers.setdefault(verdict.task.id, []).append(link)
        match verdict:
            case Refusal():
                self._refuse(verdict, link)
            case Again():
                await self._answer_again(verdict, link)
            case Attach():
                await self._attach(verdict, assign, link)
            case Go():
                await self._go(verdict, assign, link)

    def _facts(self) -> Facts:
        return Facts(
            agent=self._parts.own.agent,
            generation=self._parts.generation(),
            epoch=self._clock.epoch,
            at=self._clock.at(),
            keyring=self._trusting.keyring(),
            targets=frozenset(self._welcome.targets),
            kinds=frozenset(self._welcome.kinds),
            settings=self._parts.settings,
            fence=self._journal.fence,
            known=self._journal.known,
            under_way=self.carrier.under_way,
            keys=self.carrier.keys,
        )

    def _refuse(self, refusal: Refusal, link: _Link) -> None:
        task = refusal.task
        about = f"{task.verb} {task.id[:40]} for {task.target[:80]}" if task else "an envelope"
        _log.warning("refused %s from %s: %s: %s", about, link.server, refusal.code, refusal.detail)
        if task is not None:
            link.put(self.carrier.answered(task, refusal.code, refusal.detail).answer)

    async def _answer_again(self, again: Again, link: _Link) -> None:
        answer = await anyio.to_thread.run_sync(self._journal.answer, again.id)
        if answer is None:
            lost = "it was done, and its answer cannot be read any more"
            link.put(self.carrier.failed(again.task, OutcomeUnknown.code, lost).answer)
        elif again.task.id == again.id:
            link.put(answer)
        else:
            self._told_as[again.task.id] = again.id
            code = self._journal.known[again.id].code
            link.put(self.carrier.answered(again.task, code, "done before under this key", answer.body).answer)

    async def _attach(self, attach: Attach, assign: Assign, link: _Link) -> None:
        secrets = self._opened(assign, attach.task, link)
        if secrets is None:
            return
        if attach.task.id not in self.carrier.under_way:
            try:
                await anyio.to_thread.run_sync(self._journal.attach, attach.id, assign.envelope)
            except Full as error:
                self._no_room(attach.task, error, link)
                return
            except KeyError:  # it ended while this waited
                await self._assigned(assign, link)
                return
        self.carrier.give(attach.id, secrets)
        link.put(Accepted(task=attach.task.id))

    async def _go(self, go: Go, assign: Assign, link: _Link) -> None:
        task, secrets = go.task, self._opened(assign, go.task, link)
        if secrets is None:
            return
        if task.verb is Verb.INSPECT and not await self._stands(task, assign, link):
            return
        if task.verb in READS:
            link.put(Accepted(task=task.id))
            self.carrier.read(task, go.work)
            return
        entry = Entry(envelope=assign.envelope, body=assign.body, due=self._clock.moment(task.not_after))
        failpoints.reached("before_accept")
        try:
            await anyio.to_thread.run_sync(self._journal.accept, entry)
        except Full as error:
            self._no_room(task, error, link)
            return
        failpoints.reached("after_accept")
        link.put(Accepted(task=task.id))
        self.carrier.take(entry, secrets)

    async def _stands(self, task: Task, assign: Assign, link: _Link) -> bool:
        """The order stands from now on, unless one that was authorised later does."""
        standing = self._journal.orders.get(task.target)
        if standing is not None and protocol.unverified_task(standing.envelope).sequence > task.sequence:
            self._refuse(Refusal(code=Code.EXPIRED, detail="an order authorised later stands", task=task), link)
            return False
        try:
            order = Standing(envelope=assign.envelope, body=assign.body)
            await anyio.to_thread.run_sync(self._journal.order, task.target, order)
        except Full as error:
            self._no_room(task, error, link)
            return False
        self.orders.changed()
        return True

    def _opened(self, assign: Assign, task: Task, link: _Link) -> Mapping[str, str] | None:
        """The secrets that came with it; None where they cannot be opened, which is answered."""
        if assign.sealed is None:
            return {}
        own = self._parts.own
        try:
            return sealing.opened(assign.sealed, own.sealing, task=task.id, agent=own.agent, key=task.key)
        except sealing.Unsealable as error:
            link.put(self.carrier.failed(task, Refused.code, str(error)).answer)
            return None

    def _no_room(self, task: Task, error: Full, link: _Link) -> None:
        _log.error("task %s for %s is not accepted: %s", task.id, task.target, error)
        link.put(self.carrier.failed(task, Refused.code, no_room(error)).answer)

    # -- what is said ------------------------------------------------------------------------------------------------

    def _tell(self, id: str, frame: FromAgent) -> None:
        """To whoever has asked for the task and is still there, or else to everybody."""
        asked = [link for link in self._askers.get(id, ()) if link in self._links]
        for link in asked or self._links:
            link.put(frame)
        if isinstance(frame, Answer):
            self._askers.pop(id, None)

    def _tell_all(self, frame: Changed) -> None:
        for link in self._links:
            link.put(frame)

    def _may(self, target: TargetId, kind: str) -> bool:
        granted = target in self._welcome.targets and kind in self._welcome.kinds
        return granted and kind in self._parts.settings.kinds


class _Link:
    """One channel and what waits to be sent over it."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self.server = channel, channel.server
        self._waiting: deque[FromAgent] = deque()
        self._stirred = anyio.Event()

    def put(self, frame: FromAgent) -> None:
        if len(self._waiting) >= AHEAD and isinstance(frame, Said | Seen | Changed):
            return  # who does not read is asked again, or asks again
        self._waiting.append(frame)
        self._stirred.set()

    async def write(self, group: TaskGroup) -> None:
        """Until the channel is lost."""
        while True:
            await self._stirred.wait()
            self._stirred = anyio.Event()
            while self._waiting:
                try:
                    await self._channel.send(self._waiting[0])
                except Lost:
                    group.cancel_scope.cancel()
                    return
                self._waiting.popleft()


async def _no_upgrade(job: Job) -> Done:
    raise Refused("this agent was not started so that it can be replaced")
