"""A probe asks one address once, is never led away, and never waits or reads for longer than allowed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from functools import partial

import anyio
import pytest
from anyio.abc import ByteStream
from hypothesis import given
from hypothesis import strategies as st

from desired_state.health import HttpCheck, TcpCheck
from drivers import probes
from stickers.observation import Health, HealthState
from tests.harness.wire import Asked, Server, answer, serving

HEALTHY, UNHEALTHY, UNKNOWN = HealthState.HEALTHY, HealthState.UNHEALTHY, HealthState.UNKNOWN
LONG = timedelta(seconds=20)
SHORT = timedelta(seconds=0.2)
CHECK = HttpCheck(port=8080, path="/health")

Respond = Callable[[Asked, ByteStream], Awaitable[None]]


@contextlib.asynccontextmanager
async def _saying(content: bytes, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    """A server that says this to everybody, and closes."""

    async def respond(asked: Asked, stream: ByteStream) -> None:
        await stream.send(content)
        await stream.aclose()

    async with serving(respond, host) as server:
        yield server


async def _asked(check: HttpCheck | TcpCheck, server: Server, timeout: timedelta = LONG) -> Health:
    return await probes.ask(check, "127.0.0.1", server.port, timeout)


async def _answer_to(content: bytes, check: HttpCheck = CHECK) -> tuple[HealthState, str]:
    async with _saying(content) as server:
        health = await _asked(check, server)
    return health.state, health.detail.partition(": ")[2]


async def test_the_expected_status_is_healthy() -> None:
    async with _saying(answer(200, b"fine")) as server:
        health = await _asked(CHECK, server)
    assert health == Health(state=HEALTHY, detail="http GET :8080/health answers 200")


async def test_another_status_is_unhealthy() -> None:
    assert await _answer_to(answer(503)) == (UNHEALTHY, "answered 503")


async def test_another_status_can_be_the_expected_one() -> None:
    assert await _answer_to(answer(401), HttpCheck(port=1, status=401)) == (HEALTHY, "")


async def test_a_redirect_is_an_answer_like_any_other_and_is_not_followed() -> None:
    async with _saying(answer(200)) as elsewhere:
        async with _saying(answer(302, location=f"http://{elsewhere.address}/")) as server:
            health = await _asked(CHECK, server)
        assert health.state is UNHEALTHY
        assert elsewhere.connections == 0
        assert server.connections == 1


async def test_the_body_contains_the_expected_text_or_is_unhealthy() -> None:
    check = HttpCheck(port=1, body="versiön 2")
    assert await _answer_to(answer(200, "I am versiön 2.".encode()), check) == (HEALTHY, "")
    lacks = (UNHEALTHY, "the body does not contain the expected text")
    assert await _answer_to(answer(200, "I am versiön 1.".encode()), check) == lacks


async def test_a_body_in_chunks_is_read_as_one() -> None:
    body = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nversi\r\n4\r\non 2\r\n0\r\n\r\n"
    assert await _answer_to(body, HttpCheck(port=1, body="version 2")) == (HEALTHY, "")


async def test_a_text_beyond_what_is_read_is_not_found() -> None:
    body = b"x" * probes.LARGEST_BODY
    assert (await _answer_to(answer(200, body[:-4] + b"text"), HttpCheck(port=1, body="text")))[0] is HEALTHY
    assert (await _answer_to(answer(200, body + b"text"), HttpCheck(port=1, body="text")))[0] is UNHEALTHY


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the connection ended early"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", "the connection ended early"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", "the connection ended early"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhal", "the connection ended early"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 twohundred OK\r\n\r\n", "the answer is not HTTP"),
        (b"\x16\x03\x01\0\xa5\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 10_000 + b"\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 102 X\r\n\r\n" * 10_000, "the answer is not HTTP"),
    ],
)
async def test_what_is_no_whole_answer_is_unhealthy(content: bytes, said: str) -> None:
    assert await _answer_to(content) == (UNHEALTHY, said)


async def _endless_head(asked: Asked, stream: ByteStream) -> None:
    await stream.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await stream.send(b"x-more: of the same\r\n" * 500)


async def _endless_body(asked: Asked, stream: ByteStream) -> None:
    await stream.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await stream.send(b"more " * 5000)


async def _silent(asked: Asked, stream: ByteStream) -> None:
    await anyio.sleep_forever()


async def _dripping_head(asked: Asked, stream: ByteStream) -> None:
    await stream.send(b"HTTP/1.1 200 OK\r\nx: ")
    while True:
        await stream.send(b"x")
        await anyio.sleep(0.01)


async def _dripping_body(asked: Asked, stream: ByteStream) -> None:
    await stream.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await stream.send(b"x")
        await anyio.sleep(0.01)


@pytest.mark.parametrize("respond", [_silent, _dripping_head, _dripping_body])
async def test_the_deadline_is_one_of_the_whole_answer(respond: Respond) -> None:
    async with serving(respond) as server:
        with anyio.fail_after(30):
            health = await _asked(CHECK, server, SHORT)
    assert health == Health(state=UNHEALTHY, detail="http GET :8080/health answers 200: no answer within 0.2 s")


async def test_a_head_without_end_is_unhealthy_and_not_read_to_the_end() -> None:
    async with serving(_endless_head) as server:
        assert (await _asked(CHECK, server)).state is UNHEALTHY


async def test_a_body_without_end_is_not_read_to_the_end() -> None:
    async with serving(_endless_body) as server:
        assert (await _asked(CHECK, server)).state is HEALTHY
        assert (await _asked(HttpCheck(port=1, body="less"), server)).state is UNHEALTHY


async def test_a_connection_that_is_reset_is_unhealthy() -> None:
    async def respond(asked: Asked, stream: ByteStream) -> None:
        raw: socket.socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.aclose()

    async with serving(respond) as server:
        health = await _asked(CHECK, server)
    assert health.state is UNHEALTHY
    assert "the connection is reset" in health.detail


async def _free_port() -> int:
    async with _saying(b"") as server:
        return server.port


@pytest.mark.parametrize("check", [CHECK, TcpCheck(port=8080)])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_nobody_listening_is_unhealthy(check: HttpCheck | TcpCheck, address: str) -> None:
    health = await probes.ask(check, address, await _free_port(), LONG)
    assert health == Health(state=UNHEALTHY, detail=f"{check}: the connection is refused")


async def test_a_connection_to_itself_is_nobody_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    port = await _free_port()
    from_there = partial(asyncio.open_connection, local_addr=("127.0.0.1", port))
    monkeypatch.setattr(asyncio, "open_connection", from_there)
    health = await probes.ask(TcpCheck(port=8080), "127.0.0.1", port, LONG)
    assert health == Health(state=UNHEALTHY, detail="tcp :8080 accepts: the connection is refused")


async def test_a_name_none_of_whose_addresses_listens_is_unhealthy() -> None:
    assert (await probes.ask(CHECK, "localhost", await _free_port(), LONG)).state is UNHEALTHY


@pytest.mark.parametrize("address", ["no-such-host.invalid", "", "256.256.256.256", "a b"])
async def test_an_address_that_is_none_is_unknown(address: str) -> None:
    health = await probes.ask(CHECK, address, 80, LONG)
    assert health.state is UNKNOWN
    assert "could not be asked" in health.detail


async def test_a_port_that_listens_is_healthy() -> None:
    async with serving(_silent) as server:
        assert await _asked(TcpCheck(port=8080), server) == Health(state=HEALTHY, detail="tcp :8080 accepts")


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/health?deep=1&x=%20", "/health?deep=1&x=%20"),
        ("@evil.example.com/", "/@evil.example.com/"),
        ("http://evil.example.com/", "/http://evil.example.com/"),
        ("//evil.example.com/", "//evil.example.com/"),
        ("/a b\r\nHost: evil", "/a%20b%0D%0AHost:%20evil"),
        ("/ä#part", "/%C3%A4%23part"),
        ("", "/"),
    ],
)
async def test_no_path_moves_the_host(path: str, sent: str) -> None:
    async with _saying(answer(200)) as server:
        assert (await _asked(HttpCheck(port=1, path=path), server)).state is HEALTHY
        assert server.asked[0].path == sent
        assert server.asked[0].headers["host"] == server.address


@given(st.text())
def test_any_path_is_sent_as_one_word_below_the_root(path: str) -> None:
    sent = probes.target(path.encode("utf-8", "replace").decode())
    assert sent.startswith("/")
    assert sent.isascii()
    assert not any(char.isspace() or not char.isprintable() for char in sent)


async def test_an_ipv6_address_is_asked_by_itself() -> None:
    async with _saying(answer(200), host="::1") as server:
        health = await probes.ask(CHECK, "::1", server.port, LONG)
        assert health.state is HEALTHY
        assert server.asked[0].headers["host"] == f"[::1]:{server.port}"


async def test_no_proxy_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _saying(answer(200)) as proxy, _saying(answer(503)) as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
        assert (await _asked(CHECK, server)).state is UNHEALTHY
        assert proxy.connections == 0


async def test_a_probe_leaves_no_connection() -> None:
    ended = anyio.Event()

    async def respond(asked: Asked, stream: ByteStream) -> None:
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            await stream.receive()
        ended.set()

    async with serving(respond) as server:
        assert (await _asked(CHECK, server, SHORT)).state is UNHEALTHY
        with anyio.fail_after(30):
            await ended.wait()


async def test_a_cancelled_probe_lets_the_cancellation_through() -> None:
    async with serving(_silent) as server:
        with anyio.move_on_after(0.05) as scope:
            await _asked(CHECK, server)
    assert scope.cancelled_caught
