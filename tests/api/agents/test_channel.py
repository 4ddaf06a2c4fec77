"""The agent's side keeps a channel to each server, by whatever passes, and comes back."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from drivers.agent.channel import Channel, Lost, Proxy, Way, connected
from drivers.agent.protocol import Changed, FromServer, LookAt, Seen, Turned, Welcome
from stickers.names import AgentName, Digest
from tests.api.agents.authorities import Papers
from tests.api.agents.houses import T1, Clock, House, hello_of, house, opened

ORDER = Digest("sha256:" + "0" * 64)


@pytest.fixture
async def open_house(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as found:
        yield found


@dataclass
class Meeting:
    """What an agent's program saw of its channels."""

    met: list[tuple[Channel, Welcome]] = field(default_factory=list)
    turned: list[Turned] = field(default_factory=list)
    heard: list[FromServer] = field(default_factory=list)
    ended: int = 0

    async def meet(self, channel: Channel, welcome: Welcome) -> None:
        self.met.append((channel, welcome))
        async for frame in channel.frames():
            self.heard.append(frame)
            if isinstance(frame, LookAt):
                await channel.send(Seen(id=frame.id, digest=frame.order, observation="seen"))
        self.ended += 1

    def was_turned(self, server: str, turned: Turned) -> None:
        self.turned.append(turned)


@asynccontextmanager
async def agent(tls: Callable[[], ssl.SSLContext], *servers: str, **manner: Any) -> AsyncIterator[Meeting]:
    meeting = Meeting()
    proxy = manner.pop("proxy", Proxy(environment=False))
    hello = manner.pop("hello", hello_of)
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await connected(servers, tls, hello, meeting.meet, turned=meeting.was_turned, proxy=proxy, **manner)

        tasks.start_soon(run)
        yield meeting
        tasks.cancel_scope.cancel()


def of(home: House, papers: Papers) -> Callable[[], ssl.SSLContext]:
    context = home.authority.client(papers)
    return lambda: context


async def until(true: Callable[[], object], within: float = 10) -> None:
    async with asyncio.timeout(within):
        while not true():  # noqa: ASYNC110 - what is waited for happens in other tasks
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("way", [Way.WEBSOCKET, Way.POLLING])
async def test_frames_go_both_ways(open_house: House, way: Way) -> None:
    papers = open_house.invited()
    async with agent(of(open_house, papers), open_house.url, way=way) as meeting:
        await until(lambda: meeting.met)
        channel, welcome = meeting.met[0]
        assert welcome.targets == (T1,)
        assert channel.server == open_house.url
        assert (await open_house.switchboard.look(T1, ORDER, None)).observation == "seen"
        assert open_house.switchboard.contacts()[AgentName("web-1")].way == way.value
        news = open_house.switchboard.changes([T1])
        told = asyncio.ensure_future(anext(news))
        await asyncio.sleep(0)
        await channel.send(Changed(targets=(T1,)))
        assert await told == T1
        await news.aclose()


@pytest.mark.parametrize("way", [Way.WEBSOCKET, Way.POLLING])
async def test_a_server_that_starts_again_has_its_agents_back_within_two_seconds(tmp_path: Path, way: Way) -> None:
    async with house(tmp_path) as first:
        papers = first.invited()
        async with agent(of(first, papers), first.url, way=way) as meeting:
            await until(lambda: meeting.met)
            first.stop()
            await until(lambda: meeting.ended == 1)
            with pytest.raises(Lost):
                await meeting.met[0][0].send(Changed(targets=(T1,)))
            async with opened(first.authority, first.roll, Clock(), port=first.port) as second:
                await until(lambda: len(meeting.met) == 2, within=5)
                assert (await second.switchboard.look(T1, ORDER, None)).observation == "seen"
