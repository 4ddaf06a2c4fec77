"""Real git repositories for tests: written to as people do, and served over HTTP by git's own `http-backend`."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

BACKEND: Final = "/usr/lib/git-core/git-http-backend"
NAMES: Final = {
    "GIT_AUTHOR_NAME": "Ann",
    "GIT_AUTHOR_EMAIL": "ann@example.com",
    "GIT_COMMITTER_NAME": "Ann",
    "GIT_COMMITTER_EMAIL": "ann@example.com",
}


class Work:
    """A working copy with its own bare repository beside it, `bare`, which sources read."""

    def __init__(self, home: Path, name: str = "shop") -> None:
        self.home, self.tree, self.bare = home, home / f"{name}-work", home / "served" / f"{name}.git"
        self.settings: list[str] = []
        self.bare.mkdir(parents=True)
        git(self.bare, "init", "--quiet", "--bare", "--initial-branch=main")
        git(self.bare, "config", "http.receivepack", "true")
        git(home, "clone", "--quiet", str(self.bare), str(self.tree))
        git(self.tree, "checkout", "--quiet", "-B", "main")

    @property
    def url(self) -> str:
        return f"file://{self.bare}"

    def write(self, files: Mapping[str, str | bytes | None]) -> None:
        """None takes a file away."""
        for name, content in files.items():
            path = self.tree / name
            if content is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(self, files: Mapping[str, str | bytes | None], *words: str, push: bool = True) -> str:
        """A commit with these files changed; its id."""
        self.write(files)
        git(self.tree, "add", "--all")
        git(self.tree, *self.settings, "commit", "--quiet", "--allow-empty", "--message", "change", *words)
        if push:
            self.push()
        return self.head()

    def push(self, *words: str) -> None:
        git(self.tree, "push", "--quiet", *words, "origin", "HEAD:main")

    def head(self) -> str:
        return git(self.tree, "rev-parse", "HEAD")

    def back(self, commits: int) -> str:
        """The branch set back by so many commits, and forced."""
        git(self.tree, "reset", "--quiet", "--hard", f"HEAD~{commits}")
        self.push("--force")
        return self.head()


def git(place: Path, *words: str) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "LC_ALL": "C",
    } | NAMES
    done = subprocess.run(
        ["git", *words],
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


class Served:
    """What the HTTP server does with requests; a test changes it while the server runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.status: int | None = None  # answer this instead
        self.location = ""
        self.login: str | None = None  # user:password that is asked for
        self.pause = 0.0  # seconds before each byte of an answer
        self.closed = False  # every connection is ended without an answer
        self.seen: list[str] = []  # the requests' Authorization
        self.port = 0

    def url(self, name: str = "shop") -> str:
        return f"http://127.0.0.1:{self.port}/{name}.git"


@contextmanager
def served(root: Path) -> Iterator[Served]:
    """The repositories below the root, over HTTP on loopback until the block ends."""
    state = Served(root)

    class Asked(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self, state)

        def do_POST(self) -> None:
            answer(self, state)

        def log_message(self, *words: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def answer(asked: BaseHTTPRequestHandler, state: Served) -> None:
    if state.closed:
        asked.connection.shutdown(socket.SHUT_RDWR)
        return
    state.seen.append(asked.headers.get("Authorization", ""))
    body = asked.rfile.read(int(asked.headers.get("Content-Length") or 0)) if asked.command == "POST" else b""
    if state.status is not None:
        plain(asked, state.status, {"Location": state.location} if state.location else {})
        return
    if state.login is not None and not _is_login(asked, state.login):
        plain(asked, 401, {"WWW-Authenticate": 'Basic realm="git"'})
        return
    path, _, query = asked.path.partition("?")
    environment = {
        "PATH": os.environ["PATH"],
        "GIT_PROJECT_ROOT": str(state.root),
        "GIT_HTTP_EXPORT_ALL": "1",
        "GIT_CONFIG_NOSYSTEM": "1",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "REQUEST_METHOD": asked.command,
        "CONTENT_TYPE": asked.headers.get("Content-Type", ""),
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_CONTENT_ENCODING": asked.headers.get("Content-Encoding", ""),
        "GIT_PROTOCOL": asked.headers.get("Git-Protocol", ""),
        "REMOTE_USER": "ann",
    }
    done = subprocess.run([BACKEND], input=body, env=environment, capture_output=True, timeout=60, check=False)
    head, _, content = done.stdout.partition(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
    status = int(fields.pop("Status", "200 OK").split()[0])
    plain(asked, status, fields, content, state.pause)


def plain(
    asked: BaseHTTPRequestHandler, status: int, fields: Mapping[str, str], content: bytes = b"", pause: float = 0.0
) -> None:
    try:
        asked.send_response(status)
        for name, value in fields.items():
            asked.send_header(name, value)
        asked.send_header("Content-Length", str(len(content)))
        asked.end_headers()
        for at in range(0, len(content), 1) if pause else ():
            asked.wfile.write(content[at : at + 1])
            asked.wfile.flush()
            time.sleep(pause)
        if not pause:
            asked.wfile.write(content)
    except OSError:
        pass  # the other side has gone


def _is_login(asked: BaseHTTPRequestHandler, login: str) -> bool:
    return asked.headers.get("Authorization") == "Basic " + base64.b64encode(login.encode()).decode()
