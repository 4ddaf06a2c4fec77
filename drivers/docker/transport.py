"""Transport to a Unix socket: the SDK's, mended, and a bare one for plain questions.

The SDK keeps a pool of connections for every single URL, and leaves its socket open when nobody answers. Asking costs
it five times the CPU of a bare connection, and asking is most of what a look, and a good part of what a deploy, costs
this process at all.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
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


class Lines:
    """Kept HTTP/1.1 connections for GETs."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._idle: list[_Bare] = []
        self._closed = False

    def get(self, target: str, timeout: float) -> tuple[int, bytes]:
        """Status and body. A kept connection that the other side has closed meanwhile is made again, once."""
        kept = self._kept()
        if kept is not None:
            with contextlib.suppress(ConnectionError, http.client.HTTPException):
                return self._asked(kept, target, timeout)
        return self._asked(_Bare(self._path), target, timeout)

    def close(self) -> None:
        self._closed = True
        while (kept := self._kept()) is not None:
            kept.close()

    def _kept(self) -> _Bare | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _asked(self, connection: _Bare, target: str, timeout: float) -> tuple[int, bytes]:
        try:
            connection.within(timeout)
            connection.request("GET", target)
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
