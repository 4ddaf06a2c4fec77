"""From the invitation to the lock: the real authority and roll behind the real door, and the agent's own side."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import TaskStatus

from api.agents.door import Door
from api.agents.roll import State
from api.agents.switchboard import Switchboard
from api.agents.tls import Tls
from drivers.agent.protocol import Answer, Result
from reconciler.store import agents
from stickers.names import TargetId
from tests.api.agents.offices import T1, WEB_1, Office, joined, renewed
from tests.api.agents.test_channel import ORDER, agent, until

T2 = TargetId("default/web-2")


@dataclass
class Open:
    url: str
    switchboard: Switchboard


@asynccontextmanager
async def daemon(here: Office, beat: float = 0.3) -> AsyncIterator[Open]:
    """What a daemon runs for its agents."""

    async def keep(result: Result, answer: Answer) -> None: ...

    board = Switchboard(here.roll, keep, beat=beat)
    door = Door(board, here.enrolment, Tls(here.authority, ["127.0.0.1"], here.clock, lambda: here.roll.retired))
    here.roll.revised = board.revised
    scope = anyio.CancelScope()

    async def serve(*, task_status: TaskStatus[int]) -> None:
        with scope:
            async with anyio.create_task_group() as tasks:
                await tasks.start(board.run)
                task_status.started(await tasks.start(door.serve, "127.0.0.1", 0))

    async with anyio.create_task_group() as tasks:
        url = f"https://127.0.0.1:{await tasks.start(serve)}"
        here.servers[:] = [url]
        yield Open(url, board)
        scope.cancel()


async def test_a_renewal_through_the_door_makes_the_channel_anew(here: Office, tmp_path: Path) -> None:
    here.clock.on(hours=-17)
    async with daemon(here) as at:
        who = await joined(here, at.url, tmp_path / "agent")
        contexts = [who.tls()]
        async with agent(lambda: contexts[-1], at.url) as meeting:
            await until(lambda: meeting.met)
            here.clock.on(hours=16)
            contexts.append((await renewed(who)).tls())
            await until(lambda: len(meeting.met) == 2)
            assert at.switchboard.contacts()[WEB_1].generation == 2
            assert meeting.turned == []


async def test_a_lock_ends_the_channel_at_once(here: Office, tmp_path: Path) -> None:
    async with daemon(here) as at:
        who = await joined(here, at.url, tmp_path / "agent")
        context = who.tls()
        async with agent(lambda: context, at.url) as meeting:
            await until(lambda: meeting.met)
            await here.store.write(lambda c: agents.lock(c, WEB_1, "odd", "ann", here.clock()))
            await here.roll.refresh()
            await until(lambda: meeting.turned)
            assert meeting.turned[0].code == "LOCKED"


async def test_a_copied_identity_locks_the_agent_when_the_elder_is_shown(here: Office, tmp_path: Path) -> None:
    here.clock.on(hours=-17)
    async with daemon(here) as at:
        who = await joined(here, at.url, tmp_path / "agent")
        copied = who.tls()
        here.clock.on(hours=16)
        newer = (await renewed(who)).tls()
        async with agent(lambda: newer, at.url) as meeting:
            await until(lambda: meeting.met)
            here.clock.on(minutes=6)
            async with agent(lambda: copied, at.url) as copy:
                await until(lambda: copy.turned)
                assert copy.turned[0].code == "SUPERSEDED"
                await until(lambda: meeting.turned)
                assert meeting.turned[0].code == "LOCKED"
    assert (await here.row()).state.value == State.LOCKED.value


async def test_a_target_that_is_bound_later_is_told_over_the_same_channel(here: Office, tmp_path: Path) -> None:
    async with daemon(here) as at:
        who = await joined(here, at.url, tmp_path / "agent")
        context = who.tls()
        async with agent(lambda: context, at.url) as meeting:
            await until(lambda: meeting.met)
            await here.store.write(lambda c: agents.bind(c, WEB_1, T2, False, "ann", here.clock()))
            await here.roll.refresh()
            await until(lambda: any(getattr(frame, "targets", ()) == (T1, T2) for frame in meeting.heard))
            assert len(meeting.met) == 1
            assert (await at.switchboard.look(T2, ORDER, None)).observation == "seen"
