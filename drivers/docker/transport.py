"""Transport to a Unix socket: the SDK's, mended, and a bare one for the list that every look asks for.

The SDK keeps a pool of connections for every single URL, and leaves its socket open when nobody answers. The bare one
costs a third of the SDK's CPU, which is most of what a look at an unchanged engine costs at all.
"""

from __future__ import annotations

import http.client
import socket
import threading
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


class Line:
    """One kept HTTP/1.1 connection for GETs, one at a time."""

    def __init__(self, path: str, timeout: float) -> None:
        self._connection = _Bare(path, timeout)
        self._turn = threading.Lock()

    def get(self, target: str) -> tuple[int, bytes]:
        """Status and body. A kept connection that the other side has closed meanwhile is made again, once."""
        with self._turn:
            kept = self._connection.sock is not None
            try:
                return self._asked(target)
            except (ConnectionError, http.client.HTTPException):
                if not kept:
                    raise
            return self._asked(target)

    def close(self) -> None:
        self._connection.close()

    def _asked(self, target: str) -> tuple[int, bytes]:
        try:
            self._connection.request("GET", target)
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except BaseException:
            self._connection.close()
            raise


class _Bare(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

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
