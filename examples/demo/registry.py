"""A read-only registry on loopback that serves one OCI layout, so that an engine can pull from it by digest.

It needs nothing but Python: `python3 registry.py LAYOUT [PORT]` prints its address and serves until it is ended.
"""

from __future__ import annotations

import http.server
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

ASKED = re.compile(r"/v2/[a-z0-9/._-]+/(manifests|blobs)/sha256:([0-9a-f]{64})")


class Registry(http.server.BaseHTTPRequestHandler):
    """`GET` and `HEAD` of manifests and blobs, by digest only; whoever pulls verifies what it gets."""

    protocol_version = "HTTP/1.1"

    def __init__(self, layout: Path, *rest: object) -> None:
        self.layout = layout
        super().__init__(*rest)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        asked = ASKED.fullmatch(self.path)
        path = self.layout / "blobs" / "sha256" / asked[2] if asked else None
        if self.path == "/v2/":
            self._answer(200, b"{}", "application/json")
        elif asked is None or path is None or not path.is_file():
            self._answer(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}', "application/json")
        else:
            content = path.read_bytes()
            media_type = json.loads(content)["mediaType"] if asked[1] == "manifests" else "application/octet-stream"
            self._answer(200, content, media_type, asked[2])

    do_HEAD = do_GET  # noqa: N815 - the name http.server asks for

    def _answer(self, status: int, body: bytes, media_type: str, digest: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        if digest:
            self.send_header("Docker-Content-Digest", f"sha256:{digest}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the terminal belongs to what is shown."""


def bound(layout: Path, port: int = 0) -> http.server.ThreadingHTTPServer:
    return http.server.ThreadingHTTPServer(("127.0.0.1", port), partial(Registry, layout))


@contextmanager
def serving(layout: Path, port: int) -> Iterator[None]:
    """The registry in a thread, for as long as the block lasts."""
    with bound(layout, port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    with bound(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0) as server:
        print(f"127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
