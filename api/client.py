"""The client's side of a command: the daemon's socket, or, where no daemon runs, this very process.

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
from pathlib import Path
from typing import Any, Final

from api.problem import Problem
from api.settings import Settings


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


LOCKED: Final = "STORE_LOCKED"
MOST: Final = 64 * 1024  # bytes read of a refusal
STARTING: Final = 5.0  # seconds that a daemon may hold the store without listening yet


def events(settings: Settings, command: str, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The command's events, then its `{"result": …}`; a problem is raised."""
    until = time.monotonic() + STARTING
    while True:
        try:
            yield from _events(settings, command, arguments)
            return
        except Problem as problem:
            if problem.code != LOCKED or time.monotonic() > until:
                raise
        time.sleep(0.1)


def _events(settings: Settings, command: str, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    stream = _from_daemon(settings, command, arguments)
    if stream is None:
        from api.alone import events as alone  # builds the whole house; only where no daemon runs

        stream = alone(settings, command, arguments)
    for line in stream:
        if "problem" in line:
            raise Problem.from_document(line["problem"])
        yield line


def ask(settings: Settings, command: str, **arguments: Any) -> Any:
    """The result of a command that has no events worth showing."""
    result = None
    for line in events(settings, command, arguments):
        result = line.get("result", result)
    return result


def _from_daemon(settings: Settings, command: str, arguments: dict[str, Any]) -> Iterator[dict[str, Any]] | None:
    if not settings.socket.exists():
        return None
    connection = _SocketConnection(settings.socket)
    try:
        connection.request("POST", f"/v1/{command}", json.dumps(arguments), {"Content-Type": "application/json"})
        answer = connection.getresponse()
    except (ConnectionRefusedError, FileNotFoundError):
        connection.close()
        return None  # left behind by a daemon that was killed; the lock tells whether one lives
    except PermissionError:
        raise Problem(
            "FORBIDDEN", f"{settings.socket} belongs to another user; run as the user of the daemon"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise Problem("DAEMON_LOST", f"the daemon at {settings.socket} did not answer: {error}") from None
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
        raise Problem("DAEMON_LOST", "the daemon ended before it answered; what was asked may go on when it returns")


def _refusal(answer: http.client.HTTPResponse) -> Problem:
    said = answer.read(MOST)
    try:
        document = json.loads(said)
        document = {name: value for name, value in document.items() if name not in ("type", "title", "status")}
        return Problem.from_document(document)
    except (ValueError, KeyError, AttributeError):
        return Problem("BAD_REQUEST", f"the daemon answered {answer.status}: {said[:200].decode(errors='replace')}")
