"""The agents that are connected to this process: who may speak is asked again with each frame, tasks are carried over
lost connections until somebody has kept their results, and whoever follows a target is told what happened there."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Never

import anyio
import structlog
from anyio.abc import TaskGroup, TaskStatus

from api.agents.roll import Contact, Member, Roll, State
from api.agents.session import Carried, Session, Turn, Way, Why
from drivers.agent import protocol
from drivers.agent.link import Heard, Serving
from drivers.agent.protocol import (
    BEAT,
    OFFLINE,
    VERSIONS,
    Accepted,
    Acknowledge,
    Answer,
    Assign,
    Beat,
    Cancel,
    Changed,
    FromServer,
    Hello,
    LookAt,
    Malformed,
    Result,
    Said,
    Seen,
    Task,
    Welcome,
)
from drivers.errors import Busy, OutcomeUnknown, Refused, Unreachable
from stickers.names import AgentName, Digest, TargetId, split_id
from stickers.signature import Keyring, PublicKey, SignatureError, key_id

HELLO_FRAMES: Final = 10  # what a new channel counts as: a handshake is dear
LOOK_WITHIN: Final = 30.0  # seconds
SWEEP: Final = 5.0  # seconds between two looks for those who are silent or may speak no more
NOTED: Final = 10.0  # seconds between two times that last contacts are kept
AT_ONCE: Final = 500  # agents that are told something before others have a turn
REMEMBERED: Final = 4096  # results that were kept: whoever sends one again is only acknowledged
UNWANTED: Final = 1024  # tasks of one agent that it has yet to be told that nobody waits for

Keep = Callable[[Result, Answer], Awaitable[None]]

_BEAT: Final = re.compile(rb'\{"at":(\d{1,15}),"queue":(\d{1,9}),"frame":"beat"\}')
_log: Final = structlog.get_logger("agents")


class Switchboard:
    """Implements `drivers.agent.link.Link`. `keep` has a result on disk when it returns, and takes the same one twice.
    All of it happens on the loop's own thread."""

    def __init__(
        self, roll: Roll, keep: Keep, *, beat: float = BEAT, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._roll, self._keep, self._beat, self._now = roll, keep, beat, now
        self._sessions: dict[AgentName, Session] = {}
        self._looked = 0
        self._followers: dict[TargetId, set[_Follower]] = {}
        self._keeping: set[tuple[AgentName, str]] = set()
        self._kept: dict[tuple[AgentName, str], None] = {}  # in the order they were kept
        self._reported: set[int] = set()  # serials whose misuse has been reported
        self._tasks: TaskGroup | None = None
        self._revised = anyio.Event()
        self._came = anyio.Event()  # somebody has, since contacts were last noted

    # -- while the process runs ----------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Sweeps, keeps results, and has last contacts written, until cancelled."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._sweeping)
            tasks.start_soon(self._noting)
            tasks.start_soon(self._welcoming)
            task_status.started()

    def revised(self) -> None:
        """The roll has changed: whoever may speak no more is turned at once, the others hear their new terms."""
        for session in list(self._sessions.values()):
            self._recheck(session)
        self._revised.set()

    def contacts(self) -> Mapping[AgentName, Contact]:
        """All that were heard of since this process began."""
        now = self._now()
        return {agent: session.contact(now) for agent, session in self._sessions.items()}

    async def tell_all(self, frame: FromServer) -> int:
        """Tell everybody who is connected; how many that are."""
        said, told = protocol.text(frame).encode(), 0
        for session in list(self._sessions.values()):
            if session.way is not None:
                session.way.put(said)
                told += 1
                if told % AT_ONCE == 0:
                    await asyncio.sleep(0)
        return told

    def close(self) -> None:
        """This process ends: everybody is told, and comes back to whoever is there then."""
        for session in self._sessions.values():
            if session.way is not None:
                session.way.close(Turn(Why.CLOSING, "the server ends; come back in a moment"))

    # -- what doors ask ------------------------------------------------------------------------------------------------

    def member(self, serial: int) -> Member:
        """Whose certificate this is that somebody shows, if he may speak; else `Turn`."""
        member = self._roll.by_serial(serial)
        if member is not None:
            self._report(serial, member)
        return _speaking(member)

    def greet(self, way: Way, serial: int, hello: Hello) -> Session:
        """A new channel of an agent takes the place of the one it had. What it was sent and has not answered is sent
        again. Raises `Turn`."""
        member, now = self.member(serial), self._now()
        agreed = _agreed(hello)
        session = self._sessions.get(member.agent)
        if session is None:
            session = self._sessions[member.agent] = Session(member, serial, now)
        if not session.admits(HELLO_FRAMES, 0, now):
            raise _floods(session)
        if session.way is not None:
            session.way.close(Turn(Why.REPLACED, f"agent {member.agent} has come again by another channel"))
            self._lost(session)
        session.member, session.serial, session.way = member, serial, way
        session.greeted(hello, now)
        self._came.set()
        session.welcome = 0
        self._welcome(session, agreed)
        for task in session.unwanted:
            self._put(session, Cancel(task=task))
        session.unwanted.clear()
        for carried in list(session.carried.values()):
            way.put(carried.assign)
        return session

    def receive(self, session: Session, way: Way, text: bytes) -> None:
        """A frame that came by this way. Raises `Turn`."""
        if session.way is not way:
            return
        member, now = self._roll.by_serial(session.serial), self._now()
        if member is not session.member:
            session.member = member = self.member(session.serial)
        if not session.admits(1.0, len(text), now):
            raise _floods(session)
        session.heard = now
        if beat := _BEAT.fullmatch(text):
            session.clocked(int(beat[1]), now)
            session.queue = int(beat[2])
            way.put(text)
        else:
            self._said(session, text)

    def session(self, agent: AgentName) -> Session | None:
        return self._sessions.get(agent)

    def polled(self, session: Session, way: Way, size: int) -> None:
        """A poll of so many bytes is a sign of life, too. Raises `Turn`."""
        now = self._now()
        if session.way is way:
            session.heard = now
            if not session.admits(1.0, size, now):
                raise _floods(session)

    def counts(self, session: Session, frames: int) -> None:
        """Frames that say nothing, such as pings, are counted all the same. Raises `Turn`."""
        if not session.admits(frames, 0, self._now()):
            raise _floods(session)

    def lost(self, session: Session, way: Way) -> None:
        """The way is no more."""
        if session.way is way:
            self._lost(session)

    # -- Link ----------------------------------------------------------------------------------------------------------

    def serving(self, target: TargetId) -> Serving:
        session = self._holder(target)
        member, hello = session.member, session.hello
        assert hello is not None  # it has a way, so it said hello
        return Serving(
            agent=member.agent,
            generation=member.generation,
            epoch=hello.epoch,
            clock=session.clock(self._now()),
            kinds=member.kinds & frozenset(hello.kinds),
            resolves=frozenset(hello.resolves),
            sealing=member.sealing,
        )

    async def look(self, target: TargetId, order: Digest, seen: Digest | None) -> Seen:
        session = self._holder(target)
        self._looked = id = self._looked + 1
        answered: asyncio.Future[Seen] = asyncio.get_running_loop().create_future()
        session.looks[id] = answered
        try:
            self._put(session, LookAt(id=id, target=target, order=order, seen=seen))
            async with asyncio.timeout(LOOK_WITHIN):
                return await answered
        except TimeoutError:
            raise Unreachable(f"agent {session.agent} has not answered within {LOOK_WITHIN:.0f} s") from None
        finally:
            del session.looks[id]

    async def carry(self, task: Task, assign: Assign, heard: Heard) -> tuple[Result, Answer]:
        session = self._sessions.get(task.agent)
        if session is None or session.way is None:
            raise self._unreachable(task.agent, session)
        if session.member.state is State.DRAINING:
            raise Refused(f"agent {task.agent} is being drained: it is given nothing new")
        if task.id in session.carried:
            raise Busy(f"task {task.id} is on its way already")
        answered: asyncio.Future[tuple[Result, Answer]] = asyncio.get_running_loop().create_future()
        carried = Carried(task=task, assign=protocol.text(assign).encode(), heard=heard, answered=answered)
        session.carried[task.id] = carried
        try:
            session.way.put(carried.assign)
            return await answered
        except asyncio.CancelledError:
            self._take_back(session, task)
            raise
        finally:
            del session.carried[task.id]

    async def changes(self, targets: Sequence[TargetId]) -> AsyncGenerator[TargetId, None]:
        for target in targets:
            self._holder(target)
        follower = _Follower()
        for target in targets:
            self._followers.setdefault(target, set()).add(follower)
        try:
            while True:
                yield await follower.next()
        finally:
            for target in targets:
                self._followers[target].discard(follower)
                if not self._followers[target]:
                    del self._followers[target]

    # -- what agents say -----------------------------------------------------------------------------------------------

    def _said(self, session: Session, text: bytes) -> None:
        frame = _read(text)
        match frame:
            case Beat():
                session.clocked(frame.at, session.heard)
                session.queue = frame.queue
                self._put(session, frame)
            case Hello():
                session.greeted(frame, session.heard)
            case Accepted():
                pass
            case Said():
                if carried := session.carried.get(frame.task):
                    carried.heard(frame.lines)
            case Answer():
                self._answered(session, frame)
            case Seen():
                waiting = session.looks.get(frame.id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(frame)
            case Changed():
                self._ring(target for target in frame.targets if target in session.member.targets)

    def _answered(self, session: Session, answer: Answer) -> None:
        """Believed, kept, acknowledged, in this order, and then whoever waits for it is told."""
        carried = session.carried.get(answer.task)
        if (session.agent, answer.task) in self._keeping or (carried is not None and carried.answered.done()):
            return
        if (session.agent, answer.task) in self._kept and carried is None:
            self._put(session, Acknowledge(task=answer.task))
            return
        try:
            result = _believed(session.member, answer, carried.task if carried else None)
        except (SignatureError, Malformed) as error:
            _log.warning("agent.result.refused", agent=session.agent, task=answer.task[:80], why=str(error))
            if carried is not None:
                sentence = f"what agent {session.agent} answered cannot be believed: {error}"
                carried.answered.set_exception(OutcomeUnknown(sentence))
            return
        assert self._tasks is not None  # doors open after `run` has begun
        self._keeping.add((session.agent, answer.task))
        self._tasks.start_soon(self._kept_and_acknowledged, session, result, answer)

    async def _kept_and_acknowledged(self, session: Session, result: Result, answer: Answer) -> None:
        failed: Exception | None = None
        try:
            await self._keep(result, answer)
        except Exception as error:  # the agent has it still, and sends it again
            failed = error
            _log.warning("agent.result.not_kept", agent=session.agent, task=answer.task, error=repr(error))
        finally:
            self._keeping.discard((session.agent, answer.task))
        carried = session.carried.get(answer.task)
        if failed is None:
            self._remember(session.agent, answer.task)
            if session.way is not None:
                self._put(session, Acknowledge(task=answer.task))
        if carried is None:
            self._ring([result.target])
        elif not carried.answered.done():
            if failed is None:
                carried.answered.set_result((result, answer))
            else:
                sentence = f"agent {session.agent} has answered, and its answer could not be kept here"
                carried.answered.set_exception(OutcomeUnknown(sentence))

    def _remember(self, agent: AgentName, task: str) -> None:
        self._kept[agent, task] = None
        if len(self._kept) > REMEMBERED:
            del self._kept[next(iter(self._kept))]

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _holder(self, target: TargetId) -> Session:
        """The session of the agent that holds the target, connected."""
        members = self._roll.serves(target)
        if not members:
            raise Refused(f"no agent was invited for target {target}: `holdfast agent invite NAME --target {target}`")
        if not members[0].state.speaks:
            raise Refused(f"agent {members[0].agent}, which serves target {target}, is {members[0].state}")
        session = self._sessions.get(members[0].agent)
        if session is None or session.way is None:
            raise self._unreachable(members[0].agent, session)
        return session

    def _unreachable(self, agent: AgentName, session: Session | None) -> Unreachable:
        if session is None:
            return Unreachable(f"agent {agent} has not been heard of since this process began")
        return Unreachable(f"agent {agent} is not connected; last heard {self._now() - session.heard:.0f} s ago")

    def _put(self, session: Session, frame: FromServer) -> None:
        if session.way is not None:
            session.way.put(protocol.text(frame).encode())

    def _take_back(self, session: Session, task: Task) -> None:
        if session.way is not None:
            self._put(session, Cancel(task=task.id))
        elif len(session.unwanted) < UNWANTED:
            session.unwanted.add(task.id)

    def _ring(self, targets: Iterable[TargetId]) -> None:
        for target in targets:
            for follower in self._followers.get(target, ()):
                follower.ring(target)

    def _welcome(self, session: Session, agreed: int) -> None:
        """Say what is granted, unless it is what was said last."""
        member, terms = session.member, self._roll.terms(session.member)
        welcome = Welcome(
            protocol=agreed,
            beat=self._beat,
            targets=tuple(sorted(member.targets)),
            kinds=tuple(sorted(member.kinds)),
            servers=terms.servers,
            keys=terms.keys,
            renew=terms.renew,
        )
        text = protocol.text(welcome).encode()
        if session.way is not None and session.welcome != hash(text):
            session.welcome = hash(text)
            session.way.put(text)

    def _lost(self, session: Session) -> None:
        session.way = None
        sentence = f"the channel of agent {session.agent} was lost"
        for answered in session.looks.values():
            if not answered.done():
                answered.set_exception(Unreachable(sentence))
        if self._followers:
            for target in session.member.targets:
                for follower in self._followers.get(target, ()):
                    follower.lose(sentence)

    def _turn(self, session: Session, turn: Turn) -> None:
        way = session.way
        if way is not None:
            self._lost(session)
            way.close(turn)

    def _recheck(self, session: Session) -> None:
        """What it came with may have been renewed since, elsewhere. That is no misuse: only who shows it now is one."""
        try:
            session.member = _speaking(self._roll.by_serial(session.serial))
        except Turn as turn:
            self._turn(session, turn)

    def _report(self, serial: int, member: Member) -> None:
        if member.state is State.SUPERSEDED and serial not in self._reported and self._tasks is not None:
            self._reported.add(serial)
            self._tasks.start_soon(self._misused, serial, member.agent)

    async def _misused(self, serial: int, agent: AgentName) -> None:
        try:
            await self._roll.misused(serial)
        except Exception as error:  # it stays turned away; the next time it is reported again
            self._reported.discard(serial)
            _log.error("agent.misused.not_kept", agent=agent, error=repr(error))

    async def _sweeping(self) -> Never:
        before = time.monotonic()
        while True:
            await asyncio.sleep(SWEEP)
            now = time.monotonic()
            if now - before < 2 * SWEEP:  # or this process stood still, and has yet to read what came meanwhile
                self.sweep()
            before = now

    def sweep(self) -> None:
        """Turn away the silent, and whoever may speak no more."""
        now = self._now()
        for session in list(self._sessions.values()):
            if session.way is None:
                if self._roll.by_serial(session.serial) is None and not session.carried:
                    del self._sessions[session.agent]
            elif now - session.heard > OFFLINE:
                self._turn(session, Turn(Why.SILENT, f"nothing was heard for {now - session.heard:.0f} s"))
            elif self._roll.by_serial(session.serial) is not session.member:
                self._recheck(session)

    async def _noting(self) -> Never:
        noted = self._now()
        while True:
            with anyio.move_on_after(NOTED):
                await self._came.wait()
                await asyncio.sleep(SWEEP)  # those that come together are noted together
            self._came = anyio.Event()
            now = self._now()
            heard = {agent: s.contact(now) for agent, s in self._sessions.items() if s.heard >= noted}
            try:
                if heard:
                    await self._roll.heard(heard)
                noted = now
            except Exception as error:  # they are noted the next time
                _log.warning("agent.contacts.not_kept", agents=len(heard), error=repr(error))

    async def _welcoming(self) -> Never:
        """Tell their new terms to those for whom the roll's revision changed them."""
        while True:
            await self._revised.wait()
            self._revised = anyio.Event()
            for number, session in enumerate(list(self._sessions.values()), 1):
                if session.way is not None and session.hello is not None:
                    self._welcome(session, _agreed(session.hello))
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)


class _Follower:
    """Somebody who wants to know what happens on some targets; the same news twice is told once."""

    def __init__(self) -> None:
        self._news: dict[TargetId, None] = {}
        self._woken = asyncio.Event()
        self._lost = ""

    def ring(self, target: TargetId) -> None:
        self._news[target] = None
        self._woken.set()

    def lose(self, sentence: str) -> None:
        self._lost = sentence
        self._woken.set()

    async def next(self) -> TargetId:
        while not self._news:
            if self._lost:
                raise Unreachable(self._lost)
            self._woken.clear()
            await self._woken.wait()
        target = next(iter(self._news))
        del self._news[target]
        return target


def _agreed(hello: Hello) -> int:
    """The newest version of the protocol that both speak; else `Turn`, with what to do."""
    (oldest, newest), (ours, latest) = hello.protocol, VERSIONS
    if newest < ours:
        raise Turn(
            Why.TOO_OLD,
            f"agent version {hello.version[:40]!r} speaks the protocol up to {newest}, and this server from {ours} on:"
            " install the holdfast-agent of the server's version on the host",
        )
    if oldest > latest:
        raise Turn(
            Why.TOO_NEW,
            f"agent version {hello.version[:40]!r} speaks the protocol from {oldest} on, and this server up to"
            f" {latest}: upgrade the server before its agents",
        )
    return min(newest, latest)


def _speaking(member: Member | None) -> Member:
    if member is None:
        raise Turn(Why.UNKNOWN, "no agent of this installation has this certificate; join with a new invitation")
    if not member.state.speaks:
        raise _turned_by(member)
    return member


def _turned_by(member: Member) -> Turn:
    match member.state:
        case State.LOCKED:
            remedy = f"`holdfast agent unlock {member.agent}` lets it speak again"
            return Turn(Why.LOCKED, f"agent {member.agent} is locked; {remedy}")
        case State.REMOVED:
            return Turn(Why.REMOVED, f"agent {member.agent} was removed; join with a new invitation")
        case _:
            return Turn(
                Why.SUPERSEDED, f"generation {member.generation} of agent {member.agent} was renewed: this is a copy"
            )


def _floods(session: Session) -> Turn:
    return Turn(Why.FLOODS, f"agent {session.agent} sends more than is read of one agent")


def _read(text: bytes) -> Any:
    try:
        return protocol.from_agent(text.decode())
    except (Malformed, UnicodeDecodeError) as error:
        raise Turn(Why.MALFORMED, str(error)[:200]) from None


def _believed(member: Member, answer: Answer, asked: Task | None) -> Result:
    """The result in the answer, if this agent signed it, of a target of its own, and it answers what was asked."""
    key = PublicKey(id=key_id(member.signing), public=member.signing, subjects=_subjects(member))
    result = protocol.result(answer.envelope, Keyring([key]))
    if result.agent != member.agent or result.target not in member.targets:
        raise Malformed(f"a result of agent {result.agent} for target {result.target}")
    if result.content != protocol.content(answer.body):
        raise Malformed("the body is not the one that was signed")
    if asked is None and result.task != answer.task:
        raise Malformed(f"the result of task {result.task} as an answer to another")
    if asked is not None and (result.key, result.target, result.verb) != (asked.key, asked.target, asked.verb):
        raise Malformed(f"the result of another action: {result.verb} at {result.target}")
    if asked is not None and result.fence > asked.fence:
        raise Malformed(f"the result of fence {result.fence}, asked under {asked.fence}")
    return result


def _subjects(member: Member) -> tuple[str, ...]:
    parts = (split_id(target) for target in member.targets)
    return tuple(f"result:{project}/*/{name}" for project, name in parts)
