"""The agent's side keeps a channel to each server, by whatever passes, and comes back."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

import drivers.agent.channels.channel as channels
from api.agents.exchange import Exchange, Refusal
from api.agents.roll import State, Terms
from api.agents.talk import Talk
from drivers.agent.channels.channel import Channel, Lost, Proxy, Way, connected
from drivers.agent.channels.over_polls import OverPolls
from drivers.agent.channels.polls import Poll, Polled
from drivers.agent.protocol import Acknowledge, Changed, FromServer, LookAt, Seen, Turned, Welcome
from stickers.names import AgentName, Digest
from tests.api.agents.authorities import Papers
from tests.api.agents.between import proxy, wire
from tests.api.agents.houses import T1, Clock, House, hello_of, house, opened

ORDER = Digest("sha256:" + "0" * 64)


@pytest.fixture
async def open_house(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as found:
        yield found


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "SOON", 0.1)


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
async def test_a_server_that_starts_again_has_its_agents_back(tmp_path: Path, way: Way) -> None:
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


@pytest.mark.parametrize("way", [Way.WEBSOCKET, Way.POLLING])
@pytest.mark.parametrize("said", ["settings", "environment"])
async def test_it_goes_through_a_proxy(open_house: House, way: Way, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    papers = open_house.invited()
    async with proxy() as between:
        url = f"http://127.0.0.1:{between.port}"
        chosen = Proxy(url=url) if said == "settings" else Proxy()
        monkeypatch.setenv("https_proxy", url if said == "environment" else "http://127.0.0.1:9")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with agent(of(open_house, papers), open_house.url, way=way, proxy=chosen) as meeting:
            await until(lambda: meeting.met)
            assert (await open_house.switchboard.look(T1, ORDER, None)).observation == "seen"
        assert between.asked[0] == f"CONNECT localhost:{open_house.port} HTTP/1.1"


@pytest.fixture
def no_websockets(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A middlebox that answers each upgrade itself, as long as the list has anything in it."""
    blocks = [True]
    real = Exchange._upgrade

    def upgrade(self: Exchange) -> None:
        if blocks:
            raise Refusal(400, "x", "no upgrades here")
        real(self)

    monkeypatch.setattr(Exchange, "_upgrade", upgrade)
    monkeypatch.setattr(Exchange, "_refuse", lambda self, why: self._write(why.status, b"<html>", lasting=False))
    return blocks


async def test_where_no_websocket_passes_it_polls_and_tries_again_later(
    open_house: House, no_websockets: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "WEBSOCKET_AGAIN", 0.3)
    papers = open_house.invited()
    async with agent(of(open_house, papers), open_house.url) as meeting:
        await until(lambda: meeting.met)
        assert open_house.switchboard.contacts()[AgentName("web-1")].way == "polling"
        assert (await open_house.switchboard.look(T1, ORDER, None)).observation == "seen"
        await asyncio.sleep(0.5)  # it has been tried again, in vain, and the polls have gone on
        assert len(meeting.met) == 1
        no_websockets.clear()
        await until(lambda: len(meeting.met) == 2)
        assert open_house.switchboard.contacts()[AgentName("web-1")].way == "websocket"
        assert (await open_house.switchboard.look(T1, ORDER, None)).observation == "seen"


@pytest.mark.parametrize(
    "meddled", [lambda self, data: self._connection.abort(), lambda self, data: None], ids=["breaks", "swallows"]
)
async def test_a_websocket_that_has_no_welcome_twice_is_taken_for_blocked(
    open_house: House, monkeypatch: pytest.MonkeyPatch, meddled: Callable[[Talk, bytes], None]
) -> None:
    monkeypatch.setattr("drivers.agent.channels.over_websocket.WELCOME_WITHIN", 0.3)
    papers = open_house.invited()
    monkeypatch.setattr(Talk, "received", meddled)
    async with agent(of(open_house, papers), open_house.url) as meeting:
        await until(lambda: meeting.met)
        assert open_house.switchboard.contacts()[AgentName("web-1")].way == "polling"


async def test_a_server_that_cannot_be_reached_makes_nobody_poll(
    open_house: House,
) -> None:
    papers = open_house.invited()
    async with wire(1) as nothing, agent(of(open_house, papers), f"https://localhost:{nothing.port}") as meeting:
        await until(lambda: nothing.came > 5)
        assert not meeting.met


@pytest.mark.parametrize("way", [Way.WEBSOCKET, Way.POLLING])
@pytest.mark.parametrize(
    ("state", "speaks", "code"),
    [(State.LOCKED, (1, 1), "LOCKED"), (State.REMOVED, (1, 1), "REMOVED"), (State.ACTIVE, (0, 0), "TOO_OLD")],
)
async def test_one_who_is_turned_away_is_told_why_and_asks_seldom(
    open_house: House, way: Way, state: State, speaks: tuple[int, int], code: str
) -> None:
    papers = open_house.invited()
    open_house.roll.put(papers.serial, state=state)
    hello = lambda: hello_of(protocol=speaks)  # noqa: E731
    async with agent(of(open_house, papers), open_house.url, way=way, hello=hello) as meeting:
        await until(lambda: meeting.turned)
        await asyncio.sleep(0.3)
    assert [turned.code for turned in meeting.turned] == [code]
    assert not meeting.met


async def test_a_server_that_has_yet_to_hear_of_an_identity_is_asked_again_soon(open_house: House) -> None:
    papers = open_house.invited()
    members = dict(open_house.roll.members)
    open_house.roll.members.clear()
    async with agent(of(open_house, papers), open_house.url) as meeting:
        await until(lambda: meeting.turned)
        open_house.roll.members.update(members)
        await until(lambda: meeting.met, within=3)
    assert {turned.code for turned in meeting.turned} == {"UNKNOWN"}


@pytest.mark.parametrize("way", [Way.WEBSOCKET, Way.POLLING])
async def test_one_who_is_locked_while_connected_is_told_why(open_house: House, way: Way) -> None:
    papers = open_house.invited()
    async with agent(of(open_house, papers), open_house.url, way=way) as meeting:
        await until(lambda: meeting.met)
        open_house.roll.put(papers.serial, state=State.LOCKED)
        open_house.switchboard.revised()
        await until(lambda: meeting.turned)
        await until(lambda: meeting.ended)
    assert [turned.code for turned in meeting.turned] == ["LOCKED"]


@pytest.mark.parametrize("way", [Way.WEBSOCKET, Way.POLLING])
async def test_a_dead_wire_is_noticed_by_the_beat_that_has_no_answer(tmp_path: Path, way: Way) -> None:
    async with house(tmp_path, beat=0.4) as home, wire(home.port) as between:
        papers = home.invited()
        async with agent(of(home, papers), f"https://localhost:{between.port}", way=way) as meeting:
            await until(lambda: meeting.met)
            await asyncio.sleep(1.0)  # beats that are answered keep it
            assert meeting.ended == 0
            between.frozen = True
            await until(lambda: meeting.ended == 1, within=3)
            between.frozen = False
            await until(lambda: len(meeting.met) == 2)


async def test_a_renewed_identity_makes_the_channel_anew(tmp_path: Path) -> None:
    async with house(tmp_path, beat=0.2) as home:
        first = home.invited()
        contexts = [home.authority.client(first)]
        async with agent(lambda: contexts[-1], home.url) as meeting:
            await until(lambda: meeting.met)
            second = home.authority.papers("web-1")
            home.roll.members[second.serial] = replace(home.roll.members[first.serial], generation=2)
            contexts.append(home.authority.client(second))
            await until(lambda: len(meeting.met) == 2)
            assert home.switchboard.contacts()[AgentName("web-1")].generation == 2
            assert meeting.turned == []


async def test_there_is_a_channel_to_each_server_that_is_named(open_house: House, tmp_path: Path) -> None:
    papers = open_house.invited()
    async with opened(open_house.authority, open_house.roll, Clock()) as other:
        open_house.roll.terms_of[AgentName("web-1")] = Terms(servers=(open_house.url, other.url, "ftp://nobody"))
        async with agent(of(open_house, papers), open_house.url) as meeting:
            await until(lambda: len(meeting.met) == 2)
            assert {channel.server for channel, _ in meeting.met} == {open_house.url, other.url}
            open_house.roll.terms_of[AgentName("web-1")] = Terms(servers=(open_house.url,))
            open_house.switchboard.revised()
            other.switchboard.revised()
            await until(lambda: meeting.ended == 1)
            assert other.switchboard.session(AgentName("web-1")).way is None  # type: ignore[union-attr]


async def test_what_is_no_server_is_refused() -> None:
    for server in ("http://localhost:1", "localhost:1", "https://", "https://localhost/path"):
        with pytest.raises(ValueError, match="expected https://host:port"):
            await connected([server], lambda: ssl.create_default_context(), hello_of, Meeting().meet)


async def test_a_poll_whose_answer_is_lost_brings_nothing_twice(
    open_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third answer to a poll is lost on its way, and every fourth poll."""
    papers, count = open_house.invited(), [0]
    post = OverPolls._post

    async def lossy(self: OverPolls, poll: Poll) -> Polled:
        count[0] += 1
        if count[0] % 4 == 0:
            raise OSError("lost")
        polled = await post(self, poll)
        if count[0] % 3 == 0:
            raise OSError("lost")
        return polled

    monkeypatch.setattr(OverPolls, "_post", lossy)
    monkeypatch.setattr("drivers.agent.channels.over_polls.PAUSE", 0.01)
    monkeypatch.setattr("drivers.agent.channels.over_polls.TRIES", 50)
    async with agent(of(open_house, papers), open_house.url, way=Way.POLLING) as meeting:
        await until(lambda: meeting.met)
        for number in range(30):
            await open_house.switchboard.tell_all(Acknowledge(task=f"task-{number}"))
            look = await open_house.switchboard.look(T1, ORDER, None)
            assert look.observation == "seen"
        heard = [frame.task for frame in meeting.heard if isinstance(frame, Acknowledge)]
        assert heard == [f"task-{number}" for number in range(30)]
        assert len(meeting.met) == 1


def test_a_lost_channel_is_made_again_soon_and_after_a_while_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(channels, "SOON", 2.0)
    monkeypatch.setattr("drivers.agent.channels.channel.time.monotonic", lambda: now[0])
    manner = channels.Manner(tls=lambda: ssl.create_default_context(), hello=hello_of, met=Meeting().meet)
    keepers = [channels.Keeper("https://x", manner, None, None) for _ in range(200)]  # type: ignore[arg-type]
    for _ in range(5):
        pauses = [keeper._pause() for keeper in keepers]
        assert max(pauses) <= 2.0
        assert max(pauses) - min(pauses) > 1.0  # a storm is spread
        now[0] += 2.5
    now[0] += 100
    longest = [max(keeper._pause() for keeper in keepers) for _ in range(8)]
    assert longest[0] <= 4.0
    assert 55 < longest[-1] <= 60.0


async def test_a_server_that_goes_by_two_addresses_is_spoken_with_by_one(
    open_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "JUST_NOW", 1.0)
    papers = open_house.invited()
    async with wire(open_house.port) as between:
        other = f"https://localhost:{between.port}"
        open_house.roll.terms_of[AgentName("web-1")] = Terms(servers=(other,))
        async with agent(of(open_house, papers), open_house.url) as meeting:
            await until(lambda: len(meeting.met) == 2 and meeting.ended == 1)
            await asyncio.sleep(1.0)
            assert [channel.server for channel, _ in meeting.met] == [open_house.url, other]
            assert meeting.turned == []
            between.cut()
            await until(lambda: len(meeting.met) >= 3 and len(meeting.met) - meeting.ended == 1)
