"""Health asked over the network: one question, one answer, and never longer or larger than allowed.

The connection goes to the address given and nowhere else: no redirect, no proxy, no path moves it. The sentences are
stable: the same state of a workload gives the same words.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Final, assert_never
from urllib.parse import quote

import anyio
import h11

from desired_state.health import HttpCheck, TcpCheck
from drivers import tls
from stickers.observation import Health, HealthState

LARGEST_BODY: Final = 64 * 1024  # bytes that are read of an answer's body
LARGEST_HEAD: Final = 16 * 1024
RECEIVE: Final = 16 * 1024
SPARED: Final = "/?&=+,;:@!$'()*~%[]"  # what a path keeps as it is declared; the rest is percent-encoded

_UNHEALTHY: Final = {
    errno.ECONNREFUSED: "the connection is refused",
    errno.ECONNRESET: "the connection is reset",
    errno.EPIPE: "the connection is reset",
    errno.EHOSTUNREACH: "no answer",
    errno.ETIMEDOUT: "no answer",
}


Connected = Callable[[str, int], AbstractAsyncContextManager[tuple[tls.Reader, tls.Writer]]]


class _Bad(Exception):
    """What is wrong with an answer, as the end of a sentence."""


async def ask(
    check: HttpCheck | TcpCheck, address: str, port: int, timeout: timedelta, connected: Connected | None = None
) -> Health:
    """Ask once at this address and port; the declared port is where the workload itself listens, and may be another.
    `connected` is the way there, where it does not begin here.

    `unhealthy` is an answer, or none, of the workload; `unknown` means that it could not be asked from here.
    """
    seconds, way = timeout.total_seconds(), connected or _connected
    try:
        with anyio.fail_after(seconds):
            match check:
                case HttpCheck():
                    await _http(check, address, port, way)
                case TcpCheck():
                    async with way(address, port):
                        pass
                case _:
                    assert_never(check)
    except TimeoutError:
        return Health(state=HealthState.UNHEALTHY, detail=f"{check}: no answer within {seconds:g} s")
    except (_Bad, tls.Failed) as bad:
        return Health(state=HealthState.UNHEALTHY, detail=f"{check}: {bad}")
    except tls.Unready as unready:
        return Health(state=HealthState.UNKNOWN, detail=f"{check}: could not be asked: {unready}")
    except OSError as error:
        return _not_connected(check, error)
    return Health(state=HealthState.HEALTHY, detail=str(check))


def _not_connected(check: HttpCheck | TcpCheck, error: OSError) -> Health:
    reason = os.strerror(error.errno or 0)
    if isinstance(error, socket.gaierror):
        reason = "the name of its host is not known here"
    elif error.errno is None or error.errno in _UNHEALTHY:  # None: a name of several addresses, each tried
        said = _UNHEALTHY.get(error.errno or 0, "none of its addresses takes the connection")
        return Health(state=HealthState.UNHEALTHY, detail=f"{check}: {said}")
    return Health(state=HealthState.UNKNOWN, detail=f"{check}: could not be asked: {reason}")


@asynccontextmanager
async def _connected(address: str, port: int) -> AsyncIterator[tuple[tls.Reader, tls.Writer]]:
    reader, writer = await asyncio.open_connection(address, port)  # half the CPU of anyio's, which every look pays
    try:
        if writer.get_extra_info("sockname") == writer.get_extra_info("peername"):
            # nobody listens, and the system gave our own end the very port that was asked
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        yield reader, writer
    finally:
        writer.transport.abort()


async def _http(check: HttpCheck, address: str, port: int, way: Connected) -> None:
    """Returns when the answer is good; else raises `_Bad`."""
    trusting = None if check.tls is None else await tls.trusting(check.tls.ca)
    async with way(address, port) as (plain, writing):
        reader: tls.Reader = plain
        writer: tls.Writer = writing
        if check.tls is not None and trusting is not None:
            name = check.tls.server_name or address.partition("%")[0]
            reader = writer = await tls.secured(plain, writing, trusting, name)
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=LARGEST_HEAD)
        writer.write(_request(connection, check, address, port))
        try:
            await _judge(check, connection, reader)
        except h11.RemoteProtocolError:
            _, ended = connection.trailing_data
            raise _Bad("the connection ended early" if ended else "the answer is not HTTP") from None


def _request(connection: h11.Connection, check: HttpCheck, address: str, port: int) -> bytes:
    headers = [("host", _host(check, address, port)), ("user-agent", "holdfast"), ("accept", "*/*")]
    headers += [("accept-encoding", "identity"), ("connection", "close")]
    request = h11.Request(method="GET", target=target(check.path), headers=headers)
    return (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")


def _host(check: HttpCheck, address: str, port: int) -> str:
    """Who is asked for: a name only where the certificate must be for it. The connection goes to the address."""
    if check.tls is not None and check.tls.server_name is not None:
        return check.tls.server_name
    host = address.partition("%")[0]  # without the zone of a link-local address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def target(path: str) -> str:
    """The path as it is sent: always below the root of the address that is asked, whatever it says."""
    return quote(path if path.startswith("/") else "/" + path, safe=SPARED)


async def _judge(check: HttpCheck, connection: h11.Connection, reader: tls.Reader) -> None:
    body, room, answered = bytearray(), LARGEST_HEAD + LARGEST_BODY, False
    while room > 0 and not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            piece = await reader.read(RECEIVE)
            room -= len(piece)
            connection.receive_data(piece)
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.Response):
            answered = True
            if event.status_code != check.status:
                raise _Bad(f"answered {event.status_code}")
    if not answered:
        raise _Bad("the answer is not HTTP")  # informational answers without end
    if check.body is not None and check.body.encode() not in body[:LARGEST_BODY]:
        raise _Bad("the body does not contain the expected text")
