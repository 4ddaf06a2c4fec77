"""Transport to a Unix socket: the SDK's, mended, and a bare one for what is asked often.

The SDK keeps a pool of connections for every single URL, and leaves its socket open when nobody answers. A call costs
it three times the CPU of one over a bare connection, and calls are most of what a look, and a good part of what a
deploy, costs this process at all.
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
from dataclasses import dataclass
from typing import Any

from docker.transport.unixconn import UnixHTTPAdapter, UnixHTTPConnection, UnixHTTPConnectionPool


class Adapter(UnixHTTPAdapter):
    """One pool for the one socket, whatever is asked there."""

    def get_connection(self, url: Any, proxies: Any = None) -> UnixHTTPConnectionPool:
        with self.pools.lock:
            if self.pools.get(self.socket_path) is None:
                self.pools[self.socket_path] = _Pool(
                    "http+docker://localhost", self.socket_path, self.timeout, maxsize=self.max_pool_size
                )
        return super().get_connection(self.socket_path, proxies)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question or change. `body` is JSON; a GET may be asked twice, anything else is sent once."""

    method: str
    target: str
    body: bytes | None = None
    timeout: float


class Lines:
    """Kept HTTP/1.1 connections."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._idle: list[_Bare] = []
        self._closed = False

    def ask(self, request: Request) -> tuple[int, bytes]:
        """Status and body. A kept connection that the other side has closed is not used; where it closes while a GET is
        on its way, that is asked again, once."""
        kept = self._kept()
        if kept is not None and request.method == "GET":
            with contextlib.suppress(ConnectionError, http.client.HTTPException):
                return self._asked(kept, request)
            kept = None
        return self._asked(kept or _Bare(self._path), request)

    def close(self) -> None:
        self._closed = True
        while (kept := self._kept()) is not None:
            kept.close()

    def _kept(self) -> _Bare | None:
        """The one that was used last, if any is left that still stands."""
        with contextlib.suppress(IndexError):
            while True:
                kept = self._idle.pop()
                if kept.stands():
                    return kept
                kept.close()
        return None

    def _asked(self, connection: _Bare, request: Request) -> tuple[int, bytes]:
        try:
            connection.within(request.timeout)
            headers = {"Content-Type": "application/json"} if request.body is not None else {}
            connection.request(request.method, request.target, request.body, headers)
            answer = connection.getresponse()
            found = answer.status, answer.read()
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        if self._closed:  # while this was on its way
            self.close()
        return found


class _Bare(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def stands(self) -> bool:
        """Nothing was said since the last answer, not even that it is over."""
        if self.sock is None:
            return False
        said = select.poll()
        said.register(self.sock, select.POLLIN)
        return not said.poll(0)

    def within(self, timeout: float) -> None:
        self.timeout = timeout
        if self.sock is not None:
            self.sock.settimeout(timeout)

    def connect(self) -> None:
        self.sock = _connected(self._path, self.timeout)


class _Pool(UnixHTTPConnectionPool):
    def _new_conn(self) -> Any:
        return _Connection(self.base_url, self.socket_path, self.timeout)  # type: ignore[arg-type]


class _Connection(UnixHTTPConnection):
    def connect(self) -> None:
        self.sock = _connected(self.unix_socket, self.timeout)


def _connected(path: str, timeout: Any) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        opened.settimeout(timeout)
        opened.connect(path)
    except OSError:
        opened.close()
        raise
    return opened
