"""The SDK's transport to a Unix socket, mended in two places: it kept a pool of connections for every single URL, and
it left its socket open when nobody answered."""

from __future__ import annotations

import socket
from typing import Any

from docker.transport.unixconn import UnixHTTPAdapter, UnixHTTPConnection, UnixHTTPConnectionPool


def knock(path: str, timeout: float) -> None:
    """Raises `OSError` when nobody listens; the SDK's first call is made before its transport can be replaced."""
    _connected(path, timeout).close()


class Adapter(UnixHTTPAdapter):
    """One pool for the one socket, whatever is asked there."""

    def get_connection(self, url: Any, proxies: Any = None) -> UnixHTTPConnectionPool:
        with self.pools.lock:
            if self.pools.get(self.socket_path) is None:
                self.pools[self.socket_path] = _Pool(
                    "http+docker://localhost", self.socket_path, self.timeout, maxsize=self.max_pool_size
                )
        return super().get_connection(self.socket_path, proxies)


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
