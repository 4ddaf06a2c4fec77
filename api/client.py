"""The client's side of a command: a server that is named, else the daemon's socket, or, where no daemon runs, this very
process.

Imports nothing heavy before it must: `status` against a daemon is asked many times a day.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from api.imports import imported
from api.problem import Problem
from api.settings import Settings
from api.telemetry.asking import asking


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("holdfast", timeout=None)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.sock.connect(f"/proc/self/fd/{directory}/{self._path.name}")
        finally:
            os.close(directory)


@dataclass(frozen=True, slots=True)
class Server:
    """A Holdfast that listens over TCP, and what it knows us by."""

    url: str
    token: str | None
    authorities: str = ""

    @classmethod
    def of(cls, settings: Settings) -> Server:
        from api import tokens

        url = settings.server.rstrip("/")
        _insist_on_address(url, settings)
        return cls(url, settings.token or tokens.of(url), settings.server_ca)

    def with_token(self, token: str) -> Server:
        return replace(self, token=token)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def parts(self) -> SplitResult:
        return urlsplit(self.url)

    def connection(self) -> http.client.HTTPConnection:
        where = self.parts
        assert where.hostname is not None
        if where.scheme == "http":
            return http.client.HTTPConnection(where.hostname, where.port, timeout=CONNECTS)
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.authorities or None)
        except (OSError, ssl.SSLError) as error:
            raise Problem("BAD_SETTING", f"HOLDFAST_SERVER_CA is {self.authorities!r}: {error}") from None
        return http.client.HTTPSConnection(where.hostname, where.port, timeout=CONNECTS, context=context)


LOCKED: Final = "STORE_LOCKED"
UNKNOWN: Final = "UNAUTHENTICATED"
LOST: Final = "DAEMON_LOST"
MOST: Final = 64 * 1024  # bytes read of a refusal
STARTING: Final = 5.0  # seconds that a daemon may hold the store without listening yet
CONNECTS: Final = 30.0  # seconds for a connection to a server
TRIES: Final = 3  # at a server whose connection breaks before it has answered


def events(settings: Settings, command: str, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The command's events, then its `{"result": …}`; a problem is raised."""
    until = time.monotonic() + STARTING
    while True:
        try:
            with asking(settings, command) as more:
                yield from _events(settings, command, arguments, more)
            return
        except Problem as problem:
            if problem.code != LOCKED or time.monotonic() > until:
                raise
        time.sleep(0.1)


def _events(
    settings: Settings, command: str, arguments: dict[str, Any], more: dict[str, str]
) -> Iterator[dict[str, Any]]:
    stream = _from_server(settings, command, arguments, more) or _from_daemon(settings, command, arguments, more)
    if stream is None:
        alone = imported("api.alone")  # builds the whole house; only where no daemon runs
        stream = alone.events(settings, command, arguments)
    yield from _told(stream)


def _told(stream: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for line in stream:
        if "problem" in line:
            raise Problem.from_document(line["problem"])
        yield line


def taken_up(settings: Settings, command: str, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same from a server or a daemon alone: whoever watched one does not become one when it is gone."""
    stream = _from_server(settings, command, arguments, {}) or _from_daemon(settings, command, arguments, {})
    if stream is None:
        raise Problem(LOST, f"no daemon answers at {settings.socket}")
    yield from _told(stream)


def ask(settings: Settings, command: str, **arguments: Any) -> Any:
    """The result of a command that has no events worth showing."""
    result = None
    for line in events(settings, command, arguments):
        result = line.get("result", result)
    return result


# -- a server that is named -------------------------------------------------------------------------------------------


def exchanged(server: Server, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """One request under `/api`, and its answer."""
    with closing(server.connection()) as connection:
        answer = _asked(server, connection, method, path, body)
        if answer.status >= http.client.BAD_REQUEST:
            raise _refusal(answer)
        return json.loads(answer.read() or b"null")


def _from_server(
    settings: Settings, command: str, arguments: dict[str, Any], more: dict[str, str]
) -> Iterator[dict[str, Any]] | None:
    return _from(Server.of(settings), command, arguments, more) if settings.server else None


def _from(server: Server, command: str, arguments: dict[str, Any], more: dict[str, str]) -> Iterator[dict[str, Any]]:
    """With one key for all tries: what took effect before the connection broke is not done again."""
    key = {"Idempotency-Key": os.urandom(16).hex(), **more}
    for tries in range(1, TRIES + 1):
        began = False
        try:
            connection = server.connection()
            answer = _asked(server, connection, "POST", f"/v1/{command}", arguments, key)
            for line in _lines(connection, answer):
                began = True
                yield line
            return
        except Problem as problem:
            if problem.code == UNKNOWN:
                raise Problem(UNKNOWN, f"{problem.detail}; `holdfast login` keeps a token for {server.url}") from None
            if problem.code != LOST or began or tries == TRIES:
                raise
        time.sleep(tries)


def _asked(
    server: Server,
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    more: dict[str, str] | None = None,
) -> http.client.HTTPResponse:
    headers = {"Content-Type": "application/json", "Accept": "application/json", **server.headers, **(more or {})}
    try:
        connection.request(method, server.parts.path + path, None if body is None else json.dumps(body), headers)
        if connection.sock is not None:
            connection.sock.settimeout(None)  # a job may take its time; the server's deadlines end the rest
            _notice_silence(connection.sock)
        return connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise Problem(LOST, f"{server.url} did not answer: {_words(error)}") from None


def _notice_silence(connected: socket.socket) -> None:
    """The kernel asks a silent peer whether it is still there: a connection cut without a word ends in 30 seconds."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _words(error: Exception) -> str:
    """Why a certificate is not trusted, without the library's own frame around it."""
    return str(getattr(error, "verify_message", "") or error or type(error).__name__)


def _insist_on_address(url: str, settings: Settings) -> None:
    where = urlsplit(url)
    try:
        good = where.scheme in ("http", "https") and where.hostname and (where.port or 1) and not where.username
    except ValueError:
        good = False
    if not good or where.query or where.fragment:
        raise Problem("BAD_SETTING", f"HOLDFAST_SERVER is {url[:80]!r}; expected https://HOST or https://HOST:PORT")
    if (
        where.scheme == "http"
        and settings.plain_http != "on"
        and where.hostname not in ("localhost", "127.0.0.1", "::1")
    ):
        raise Problem(
            "BAD_SETTING",
            f"{url[:80]} would be sent your token in clear text; use https, or set HOLDFAST_PLAIN_HTTP=on",
        )


# -- the daemon at its socket -----------------------------------------------------------------------------------------


def _from_daemon(
    settings: Settings, command: str, arguments: dict[str, Any], more: dict[str, str]
) -> Iterator[dict[str, Any]] | None:
    if not settings.socket.exists():
        return None
    connection = _SocketConnection(settings.socket)
    try:
        headers = {"Content-Type": "application/json", **more}
        connection.request("POST", f"/v1/{command}", json.dumps(arguments), headers)
        answer = connection.getresponse()
    except (ConnectionRefusedError, FileNotFoundError):
        connection.close()
        return None  # left behind by a daemon that was killed; the lock tells whether one lives
    except PermissionError:
        raise Problem(
            "FORBIDDEN", f"{settings.socket} belongs to another user; run as the user of the daemon"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise Problem(LOST, f"the daemon at {settings.socket} did not answer: {error}") from None
    return _lines(connection, answer)


def _lines(connection: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    with closing(connection), answer:
        yield from _events_of(answer)


def _events_of(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    if answer.status != http.client.OK:
        raise _refusal(answer)
    finished = False
    try:
        for line in answer:
            event = json.loads(line)
            finished = finished or "result" in event or "problem" in event
            yield event
    except (OSError, http.client.HTTPException, ValueError):
        pass
    if not finished:
        raise Problem(LOST, "the daemon ended before it answered; what was asked may go on when it returns")


def _refusal(answer: http.client.HTTPResponse) -> Problem:
    said = answer.read(MOST)
    try:
        document = json.loads(said)
        document = {name: value for name, value in document.items() if name not in ("type", "title", "status")}
        return Problem.from_document(document)
    except (ValueError, KeyError, AttributeError):
        return Problem("BAD_REQUEST", f"the server answered {answer.status}: {said[:200].decode(errors='replace')}")
