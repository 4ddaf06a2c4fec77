"""Hanging up on a database that does not answer: a thread that waits for an answer cannot be woken in another way.

A network that swallows what is sent, or a server that is stopped, leaves a connection open for ever; neither the
server's own limits nor TCP's keep-alive end it. So each transaction has a time, after which its socket is shut.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import Any, Final

from sqlalchemy import Engine, event

SECONDS: Final = 20.0
_EACH: Final = 0.25  # seconds between two looks at what is under way


class Patience:
    """Connections in use, and when each is hung up on. Its thread lives from the first use until `close`."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._used: dict[Any, float] = {}
        self._guard = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, engine: Engine) -> None:
        """From now on, every transaction of the engine."""
        event.listen(engine, "checkout", self._taken)
        event.listen(engine, "checkin", self._returned)
        event.listen(engine, "invalidate", self._returned)

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _taken(self, connection: Any, *_: object) -> None:
        with self._guard:
            self._used[connection] = time.monotonic() + self.seconds
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="patience", daemon=True)
                self._thread.start()

    def _returned(self, connection: Any, *_: object) -> None:
        with self._guard:
            self._used.pop(connection, None)

    def _run(self) -> None:
        while not self._closed.wait(_EACH):
            self.hang_up(time.monotonic())

    def hang_up(self, now: float) -> int:
        """On everything that is overdue; how many that were."""
        with self._guard:
            overdue = [connection for connection, until in self._used.items() if until <= now]
            for connection in overdue:
                del self._used[connection]
                _shut(connection)
        return len(overdue)


def _shut(connection: Any) -> None:
    """Both ways, so that who waits for an answer reads the end."""
    with contextlib.suppress(Exception), socket.socket(fileno=os.dup(connection.pgconn.socket)) as line:
        line.shutdown(socket.SHUT_RDWR)  # where it is closed already, nobody waits
