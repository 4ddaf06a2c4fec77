"""The server's side and the host's side of an agent, with nothing but memory between them: switchboard and agent are
the real ones, and so are signer's keys, journal and frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from anyio.abc import TaskGroup

from api.agents.roll import Contact, Member, State, Terms
from api.agents.session import Session, Turn
from api.agents.switchboard import Switchboard
from desired_state.model import Target
from drivers.agent import protocol
from drivers.agent.channels.channel import Lost
from drivers.agent.driver import AgentDriver, over_agents
from drivers.agent.duty.agent import Agent, Parts
from drivers.agent.duty.clock import Clock
from drivers.agent.duty.journal import Journal
from drivers.agent.duty.local import Make, made
from drivers.agent.duty.settings import Settings
from drivers.agent.protocol import Answer, FromAgent, FromServer, Result, Task, Welcome
from drivers.conformance import Bench, Clause, checks
from drivers.contract import Driver, Tools
from drivers.registry import load
from stickers import codec
from stickers.names import AgentName, TargetId
from stickers.signature import Envelope, SignatureError
from stickers.sticker import Sticker
from tests.drivers.agent.scene import AGENT, OWN, SIGNER, agents_keyring

SERIAL = 7


class OneMember:
    """A roll of one agent."""

    def __init__(self, member: Member) -> None:
        self.member = member

    def by_serial(self, serial: int) -> Member | None:
        return self.member if serial == SERIAL else None

    def serves(self, target: TargetId) -> tuple[Member, ...]:
        return (self.member,) if target in self.member.targets else ()

    def terms(self, member: Member) -> Terms:
        return Terms()

    async def heard(self, agents: Mapping[AgentName, Contact], /) -> None:
        """Nobody reads it here."""

    async def misused(self, serial: int, /) -> None:
        raise AssertionError("nobody shows an old certificate here")


class Wire:
    """One channel: a `Way` to the switchboard, a `Channel` to the agent. Frames cross as text."""

    name, peer, server = "memory", "memory", "https://one:8421"

    def __init__(self, board: Switchboard) -> None:
        self._board, self._down = board, asyncio.Queue[bytes | None]()
        self.session: Session | None = None

    def put(self, text: bytes, /) -> None:
        self._down.put_nowait(text)

    def close(self, why: Turn, /) -> None:
        self._down.put_nowait(None)

    async def send(self, frame: FromAgent, /) -> None:
        await anyio.lowlevel.checkpoint()
        if self.session is None:
            raise Lost
        self._board.receive(self.session, self, protocol.text(frame).encode())

    async def frames(self) -> AsyncIterator[FromServer]:
        while (text := await self._down.get()) is not None:
            yield protocol.from_server(text.decode())

    async def welcome(self) -> Welcome:
        found = protocol.from_server((await self._down.get() or b"").decode())
        assert isinstance(found, Welcome)
        return found


@dataclass
class Signed:
    """An `Authorise` that lets everything."""

    count: int = 0

    async def __call__(self, task: Task, body: str, /) -> Envelope:
        self.count += 1
        return protocol.sealed(task, SIGNER.sign)


@dataclass(kw_only=True)
class Pair:
    """Both sides. `kill` ends the run of the agent at once, and another begins with its journal."""

    board: Switchboard
    target: Target
    tools: Tools
    state: Path
    make: Make
    group: TaskGroup
    signed: Signed
    run: anyio.CancelScope | None = None
    agent: Agent | None = None

    def driver(self) -> Driver:
        made: Driver = over_agents(load(self.target.driver))(self.tools, self.board, self.signed)
        return made

    async def begin(self) -> None:
        await self.group.start(self._run)

    async def kill(self) -> None:
        assert self.run is not None
        self.run.cancel()
        await anyio.sleep(0.01)
        await self.begin()

    async def idle(self) -> None:
        """Until whatever was begun has ended."""
        assert self.agent is not None
        while self.agent.carrier.queue:  # noqa: ASYNC110 - it is asked as a person would
            await anyio.sleep(0.05)

    async def _run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        journal = Journal(self.state)
        wire = Wire(self.board)
        try:
            with anyio.CancelScope() as self.run:
                parts = Parts(
                    own=replace(OWN, installation=self.tools.installation),
                    settings=Settings(kinds=[self.target.driver]),
                    journal=journal,
                    clock=Clock(),
                    generation=lambda: 1,
                    version="1",
                    make=self.make,
                )
                self.agent = agent = Agent(parts)
                async with anyio.create_task_group() as group:
                    group.start_soon(agent.run)
                    wire.session = self.board.greet(wire, SERIAL, agent.hello())
                    group.start_soon(agent.met, wire, await wire.welcome())
                    task_status.started()
        finally:
            if wire.session is not None:
                self.board.lost(wire.session, wire)
            wire.session = None
            journal.close()


@asynccontextmanager
async def paired(target: Target, tools: Tools, state: Path, make: Make = made) -> AsyncIterator[Pair]:
    member = Member(
        agent=AGENT,
        generation=1,
        state=State.ACTIVE,
        targets=frozenset({target.id}),
        kinds=frozenset({target.driver}),
        signing=OWN.public,
        sealing=OWN.sealing.public_key().public_bytes_raw().hex(),
    )

    async def keep(result: Result, answer: Answer) -> None:
        await anyio.lowlevel.checkpoint()

    board = Switchboard(OneMember(member), keep, now=anyio.current_time)
    async with anyio.create_task_group() as group:
        await group.start(board.run)
        pair = Pair(board=board, target=target, tools=tools, state=state, make=make, group=group, signed=Signed())
        await pair.begin()
        yield pair
        group.cancel_scope.cancel()


# -- the kit -----------------------------------------------------------------------------------------------------------

BESIDE_THE_AGENT: Final = {
    "whoever_is_overtaken_changes_nothing_more": "one action at a time: whoever is newer waits",
    "a_sticker_is_in_transit_before_the_first_change": "what was begun goes on while the kit looks",
    "a_sticker_is_proven_only_after_proof": "what was begun goes on while the kit looks",
    "the_sticker_of_another_placement_is_not_believed": "a fence is of the target, not of the placement",
}
SOME: Final = {
    "an_empty_target_is_seen_empty",
    "an_unchanged_target_is_seen_equal",
    "twice_is_once",
    "a_failed_proof_puts_the_predecessor_back_beside",
    "what_was_stopped_is_seen_stopped",
    "what_was_removed_comes_back",
    "a_crash_at_start_is_finished_beside",
    "a_crash_of_a_removal_is_finished",
    "a_hand_change_is_told",
    "what_a_workload_printed_can_be_read",
    "another_component_is_never_touched",
    "what_is_not_ours_is_never_touched",
}


def between(bench: Bench) -> Any:
    """The bench with an agent and a switchboard between."""
    kind = type(bench)

    class Between(kind):  # type: ignore[misc, valid-type]  # of whatever runtime
        pair: Pair

        @property
        def target(self) -> Target:
            target: Target = super().target
            return replace(target, connection={**target.connection, "via": "agent"})

        def driver(self) -> Driver:
            made = self.pair.driver()
            assert isinstance(made, AgentDriver)
            closed = made.aclose

            async def aclose() -> None:
                await closed()
                await self.pair.idle()

            made.aclose = aclose  # type: ignore[method-assign]  # a server comes back when its agent is done
            return made

    bench.__class__ = Between
    own, agents = bench.tools, agents_keyring(bench.target.id)

    def read(envelope: Envelope) -> Sticker | None:
        try:
            return codec.verified(envelope, agents)
        except (SignatureError, codec.Unreadable):
            return own.read(envelope)

    bench.tools = replace(own, read=read)
    return bench


async def check(bench: Bench, clause: Clause) -> None:
    missing = sorted(clause.needs - bench.powers)
    if missing:
        pytest.skip(f"no power of: {', '.join(missing)}")
    await clause.check(bench)


EVERY: Final = [one for one in checks() if one.name not in BESIDE_THE_AGENT]
SAMPLE: Final = [one for one in EVERY if one.name in SOME]
