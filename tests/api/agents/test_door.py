"""The door for agents lets in who may speak, says why not to everybody else, and gives none more than its share."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api.agents.door import Limits
from api.agents.roll import State, Terms
from drivers.agent import protocol
from drivers.agent.protocol import Beat, Turned, Welcome
from stickers.names import AgentName, TargetId
from tests.api.agents.authorities import Authority, Papers
from tests.api.agents.houses import T1, House, hello_of, house

QUICK = Limits(request=1.0, handshake=2.0)
UPGRADE = (
    b"GET /agent/v1/channel HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
HELLO = protocol.text(hello_of()).encode()


@pytest.fixture
async def open_house(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as found:
        yield found


@pytest.fixture
async def quick_house(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path, QUICK) as found:
        yield found


class Raw:
    """Bytes over TLS, with papers or without."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, Any]:
        async with asyncio.timeout(5):
            head = await self.reader.readuntil(b"\r\n\r\n")
            size = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            body = await self.reader.readexactly(size[0]) if size else b"null"
        return int(head.split()[1]), json.loads(body)

    async def rest(self) -> bytes:
        """Until the server ends it."""
        async with asyncio.timeout(5):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def upgraded(self) -> None:
        self.write(UPGRADE)
        assert (await self.answer())[0] == 101
        self.write(frame(HELLO))
        await self.reader.readexactly(4)


@asynccontextmanager
async def raw(home: House, papers: Papers | None, context: ssl.SSLContext | None = None) -> AsyncIterator[Raw]:
    tls = context or home.authority.client(papers)
    reader, writer = await asyncio.open_connection("127.0.0.1", home.port, ssl=tls, server_hostname="localhost")
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


def frame(payload: bytes, first: int = 0x81) -> bytes:
    """Masked with zeros, so that it reads as it is written."""
    size = len(payload)
    length = (
        bytes([0x80 | size])
        if size < 126
        else b"\xfe" + size.to_bytes(2, "big")
        if size < 65536
        else b"\xff" + size.to_bytes(8, "big")
    )
    return bytes([first]) + length + bytes(4) + payload


def request(path: str, body: bytes = b"", method: str = "POST", head: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


# -- who is let in -----------------------------------------------------------------------------------------------------


async def test_an_agent_is_welcomed_and_its_beats_are_answered(open_house: House) -> None:
    papers = open_house.invited("web-1", "default/t1", "default/t2")
    open_house.roll.terms_of[AgentName("web-1")] = Terms(servers=("https://other:1",), renew=True)
    async with open_house.agent(papers) as agent:
        assert agent.welcome == Welcome(
            protocol=1,
            targets=(T1, TargetId("default/t2")),
            kinds=("docker",),
            servers=("https://other:1",),
            renew=True,
        )
        await agent.say(Beat(at=31_000, queue=2))
        assert await agent.hear(Beat) == Beat(at=31_000, queue=2)


@pytest.mark.parametrize("papers", ["another authority's", "expired", "a server's"])
async def test_a_certificate_that_is_not_an_agents_is_refused_by_tls(
    open_house: House, tmp_path: Path, papers: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shown = {
        "another authority's": lambda: Authority(other).papers("web-1"),
        "expired": lambda: open_house.authority.papers("web-1", days=-1),
        "a server's": lambda: open_house.authority.papers("web-1", server=True),
    }[papers]()
    open_house.invited()
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        async with raw(open_house, shown) as peer:
            peer.write(UPGRADE)
            await peer.answer()


async def test_older_tls_and_resumed_sessions_are_refused(open_house: House) -> None:
    papers = open_house.invited()
    old = open_house.authority.client(papers)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        async with raw(open_house, papers, old):
            pass
    async with raw(open_house, papers) as peer:
        await peer.upgraded()
        shown = peer.writer.get_extra_info("ssl_object")
        assert shown.version() == "TLSv1.3"
        assert shown.session is None or not shown.session.has_ticket


@pytest.mark.parametrize("path", ["/agent/v1/poll", "/agent/v1/renew", "/agent/v1/channel"])
async def test_without_a_certificate_only_joins_are_heard(open_house: House, path: str) -> None:
    async with raw(open_house, None) as peer:
        peer.write(UPGRADE if path.endswith("channel") else request(path))
        status, said = await peer.answer()
        assert (status, said["code"]) == (401, "CERTIFICATE_MISSING")
        assert await peer.rest() == b""
    async with raw(open_house, None) as peer:
        peer.write(request("/agent/v1/join", b'{"token": "x"}'))
        assert await peer.answer() == (200, {"name": "web-1"})
    assert open_house.enrolled == [("POST", "/agent/v1/join", b'{"token": "x"}', None, "127.0.0.1")]


async def test_a_renewal_hands_on_the_certificate_that_was_shown(open_house: House) -> None:
    papers = open_house.invited()
    async with raw(open_house, papers) as peer:
        peer.write(request("/agent/v1/renew", b"{}"))
        assert (await peer.answer())[0] == 200
    shown = ssl.PEM_cert_to_DER_cert(papers.path.read_text().partition("-----BEGIN PRIVATE")[0])
    assert open_house.enrolled == [("POST", "/agent/v1/renew", b"{}", shown, "127.0.0.1")]


REFUSED = {State.LOCKED: "LOCKED", State.REMOVED: "REMOVED", State.SUPERSEDED: "SUPERSEDED", None: "UNKNOWN"}


@pytest.mark.parametrize("state", REFUSED)
async def test_who_may_not_speak_is_told_why_at_the_upgrade_and_at_a_poll(
    open_house: House, state: State | None
) -> None:
    papers = open_house.invited()
    if state is None:
        open_house.roll.members.clear()
    else:
        open_house.roll.put(papers.serial, state=state)
    with pytest.raises(InvalidStatus) as caught:
        async with open_house.websocket(papers):
            pass
    assert caught.value.response.status_code == 403
    turned = protocol.from_server(bytes(caught.value.response.body or b"").decode())
    assert isinstance(turned, Turned)
    assert turned.code == REFUSED[state]
    for path in ("/agent/v1/poll", "/agent/v1/renew"):
        async with raw(open_house, papers) as peer:
            peer.write(request(path, b"{}"))
            status, said = await peer.answer()
            assert (status, said["code"]) == (403, REFUSED[state])
    assert open_house.enrolled == []
    assert open_house.roll.reported == ([papers.serial] if state is State.SUPERSEDED else [])


@pytest.mark.parametrize(("speaks", "code"), [((0, 0), "TOO_OLD"), ((2, 3), "TOO_NEW")])
async def test_a_protocol_that_is_not_spoken_here_is_refused_with_what_to_do(
    open_house: House, speaks: tuple[int, int], code: str
) -> None:
    papers = open_house.invited()
    async with open_house.websocket(papers) as connection:
        await connection.send(protocol.text(hello_of(protocol=speaks)))
        turned = protocol.from_server(str(await connection.recv()))
        assert isinstance(turned, Turned)
        assert turned.code == code
        assert "upgrade the server" in turned.sentence or "install the holdfast-agent" in turned.sentence
        with pytest.raises(ConnectionClosed):
            await connection.recv()
    async with raw(open_house, papers) as peer:
        hello = protocol.text(hello_of(protocol=speaks))
        peer.write(
            request("/agent/v1/poll", json.dumps({"line": "a", "got": 0, "first": 1, "frames": [hello]}).encode())
        )
        status, said = await peer.answer()
        assert (status, said["code"]) == (426, code)


# -- who loses the right to speak --------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.LOCKED, State.REMOVED, None])
async def test_who_is_locked_or_removed_while_connected_is_turned_away_at_once(
    open_house: House, state: State | None
) -> None:
    papers = open_house.invited()
    async with open_house.agent(papers) as agent:
        if state is None:
            open_house.roll.members.clear()
        else:
            open_house.roll.put(papers.serial, state=state)
        open_house.switchboard.revised()
        assert (await agent.hear(Turned)).code == REFUSED[state]
        with pytest.raises(ConnectionClosed):
            await agent.frame()


async def test_the_frame_after_a_lock_is_not_heard_even_if_nobody_rang(open_house: House) -> None:
    papers = open_house.invited()
    async with open_house.agent(papers) as agent:
        open_house.roll.put(papers.serial, state=State.LOCKED)
        await agent.say(Beat(at=1))
        assert (await agent.hear(Turned)).code == "LOCKED"


async def test_new_targets_and_grants_are_told_as_another_welcome(open_house: House) -> None:
    papers = open_house.invited()
    async with open_house.agent(papers) as agent:
        open_house.switchboard.revised()  # nothing about this one
        open_house.roll.put(papers.serial, kinds=frozenset({"docker", "process"}))
        open_house.switchboard.revised()
        assert (await agent.hear(Welcome)).kinds == ("docker", "process")


async def test_an_agent_that_comes_again_takes_the_place_of_its_former_channel(open_house: House) -> None:
    papers = open_house.invited()
    async with open_house.agent(papers) as former, open_house.agent(papers) as newer:
        assert (await former.hear(Turned)).code == "REPLACED"
        await newer.say(Beat(at=5))
        await newer.hear(Beat)


# -- who behaves badly -------------------------------------------------------------------------------------------------


async def test_half_open_and_half_said_is_broken_off(quick_house: House) -> None:
    papers = quick_house.invited()
    silent, writer = await asyncio.open_connection("127.0.0.1", quick_house.port)  # no TLS at all
    async with raw(quick_house, papers) as quiet, raw(quick_house, papers) as slow, raw(quick_house, papers) as half:
        half.write(UPGRADE)  # and never a hello
        await half.answer()
        slow.write(b"POST /agent/v1/poll HTTP/1.1\r\n")
        for peer in (quiet, slow, half):
            assert await peer.rest() == b""
    async with asyncio.timeout(5):
        assert await silent.read() == b""
    writer.close()


async def test_a_body_that_comes_by_drops_is_broken_off(quick_house: House) -> None:
    papers = quick_house.invited()
    async with raw(quick_house, papers) as peer:
        peer.write(b"POST /agent/v1/poll HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        began = asyncio.get_running_loop().time()
        while not peer.reader.at_eof() and asyncio.get_running_loop().time() - began < 5:
            peer.write(b" ")
            try:
                async with asyncio.timeout(0.05):
                    await peer.reader.read(1)
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert asyncio.get_running_loop().time() - began < 4


async def test_nobody_is_broken_off_for_the_time_in_which_this_process_came_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.agents.door.SWEEP", 0.1)
    async with house(tmp_path, Limits(request=0.7)) as home, raw(home, home.invited()) as peer:
        peer.write(UPGRADE)
        await peer.answer()
        time.sleep(1.0)  # noqa: ASYNC251 - the loop itself stands still
        peer.write(frame(HELLO))
        await peer.reader.readuntil(b"welcome")


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /agent/v1/poll HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"GET /agent/v1/channel HTTP/1.1\r\nHost: x\r\n\r\n", 426),
        (b"GET /agent/v1/channel HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000, 431),
        (request("/agent/v1/join", b"x" * 70_000), 413),
        (request("/agent/v1/poll", b"no json"), 400),
        (request("/agent/v1/poll", b'{"line": "a", "got": 0, "first": 5, "frames": []}'), 409),
    ],
)
async def test_what_is_no_request_of_this_door_is_refused(open_house: House, said: bytes, status: int) -> None:
    papers = open_house.invited()
    async with raw(open_house, papers) as peer:
        peer.write(said)
        assert (await peer.answer())[0] == status
        assert await peer.rest() == b""


async def test_polls_that_come_before_the_answer_are_answered_one_by_one(open_house: House) -> None:
    papers = open_house.invited()
    first = json.dumps({"line": "a", "got": 0, "first": 1, "frames": [HELLO.decode()]}).encode()
    again = json.dumps({"line": "a", "got": 1, "first": 2, "frames": []}).encode()
    async with raw(open_house, papers) as peer:
        peer.write(request("/agent/v1/poll", first) + request("/agent/v1/poll", again) * 500)
        answers = [await peer.answer() for _ in range(501)]
    assert {status for status, _ in answers} == {200}
    assert [len(said["frames"]) for _, said in answers] == [1] + [0] * 500


async def test_a_request_that_never_ends_behind_a_poll_that_waits_is_broken_off(open_house: House) -> None:
    papers = open_house.invited()
    first = json.dumps({"line": "a", "got": 0, "first": 1, "frames": [HELLO.decode()]}).encode()
    waits = json.dumps({"line": "a", "got": 1, "first": 2, "frames": [], "wait": 20}).encode()
    async with raw(open_house, papers) as peer:
        peer.write(request("/agent/v1/poll", first) + request("/agent/v1/poll", waits))
        await peer.answer()
        peer.write(b"x" * 100_000)
        assert await peer.rest() == b""


BAD = {
    "binary": (frame(b"\x00\x01", 0x82), 1003),
    "garbage": (b"GET / HTTP/1.1\r\n\r\n", 1002),
    "unmasked": (b"\x81\x02{}", 1002),
    "oversized": (b"\x81\xff" + (3 * 1024 * 1024).to_bytes(8, "big") + bytes(4), 1009),
    "no json": (frame(b"{}}"), 1008),
    "no frame": (frame(b'{"frame": "welcome"}'), 1008),
    "no utf-8": (frame(b"\xff\xfe"), 1008),
    "too many characters": (frame(b" " * (1024 * 1024 + 1)), 1008),
    "fragments that are too large": (frame(b"a" * 65000, 0x01) + frame(b"a" * 65000, 0x00) * 40, 1009),
}


@pytest.mark.parametrize("kind", BAD)
async def test_frames_that_are_none_end_the_channel_and_nobody_elses(open_house: House, kind: str) -> None:
    papers, other = open_house.invited("web-1"), open_house.invited("web-2", "default/t2")
    said, code = BAD[kind]
    async with open_house.agent(other) as neighbour, raw(open_house, papers) as peer:
        await peer.upgraded()
        peer.write(said)
        rest = await peer.rest()
        assert code.to_bytes(2, "big") in rest
        await neighbour.say(Beat(at=5))
        await neighbour.hear(Beat)


async def test_pieces_and_pings_are_understood(open_house: House) -> None:
    papers = open_house.invited()
    beat = protocol.text(Beat(at=77)).encode()
    async with raw(open_house, papers) as peer:
        await peer.upgraded()
        said = frame(beat[:5], 0x01) + frame(b"ping", 0x89) + frame(beat[5:], 0x80)
        for each in said:
            peer.write(bytes([each]))
            await asyncio.sleep(0)
        peer.write(frame(beat) + frame(beat))
        peer.write(frame(beat))
        peer.write(frame((1000).to_bytes(2, "big"), 0x88))
        rest = await peer.rest()
    assert rest.count(beat) == 4
    assert b"\x8a\x04ping" in rest
    assert rest.endswith(b"\x88\x02\x03\xe8")


async def test_an_agent_that_floods_is_cut_off_and_its_neighbours_are_not(open_house: House) -> None:
    papers, other = open_house.invited("web-1"), open_house.invited("web-2", "default/t2")
    async with open_house.agent(other) as neighbour, open_house.agent(papers) as flooding:
        with pytest.raises((ConnectionClosed, AssertionError), match="FLOODS"):
            for _ in range(3000):
                await flooding.say(Beat(at=1))
            while True:
                await flooding.hear(Beat)
        await neighbour.say(Beat(at=5))
        await neighbour.hear(Beat)
        async with open_house.websocket(papers) as again:
            await again.send(HELLO.decode())
            assert "FLOODS" in str(await again.recv())
        open_house.clock.at += 60
        async with open_house.agent(papers):
            pass


async def test_an_agent_that_pings_without_end_is_cut_off(open_house: House) -> None:
    papers = open_house.invited()
    async with raw(open_house, papers) as peer:
        await peer.upgraded()
        peer.write(frame(b"", 0x89) * 3000)
        assert b"FLOODS" in await peer.rest()


async def test_an_agent_that_reads_nothing_is_cut_off(open_house: House) -> None:
    papers = open_house.invited()
    async with raw(open_house, papers) as peer:
        await peer.upgraded()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        turned = Turned(code="X", sentence="x" * 900_000)
        for _ in range(20):
            await open_house.switchboard.tell_all(turned)
        async with asyncio.timeout(5):
            while open_house.switchboard.session(AgentName("web-1")).way is not None:  # type: ignore[union-attr]  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_where_there_is_no_place_one_waits_and_is_not_refused(tmp_path: Path) -> None:
    async with house(tmp_path, Limits(connections=20)) as small, asyncio.timeout(20):
        papers = [small.invited(f"web-{number}") for number in range(25)]
        await asyncio.gather(*(_stays(small, one) for one in papers))


async def test_those_who_dawdle_on_the_way_in_keep_nobody_out(
    open_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.agents.door.ON_THE_WAY", 5)
    papers = open_house.invited()
    idle = [await asyncio.open_connection("127.0.0.1", open_house.port) for _ in range(40)]
    async with open_house.agent(papers) as agent:
        await agent.say(Beat(at=5))
        await agent.hear(Beat)
    for _, writer in idle:
        writer.transport.abort()


async def _stays(home: House, papers: Papers) -> None:
    async with home.agent(papers):
        await asyncio.sleep(0.2)


async def test_a_door_that_closes_says_goodbye(open_house: House) -> None:
    papers = open_house.invited()
    async with open_house.agent(papers) as agent:
        open_house.stop()
        assert (await agent.hear(Turned)).code == "CLOSING"
