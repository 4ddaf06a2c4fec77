"""Health checks as declared: what to ask, how often, and how many good answers count as healthy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckTls:
    """How the certificate of an instance is judged; it always is. `ca`: a file of authorities where the question is
    asked from, the system's own when None. `server_name`: whose certificate it must be; None: that of the address."""

    ca: str | None = None
    server_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCheck:
    """GET `path` on the instance's own address, over TLS when `tls`. Redirects are not followed: one is an answer like
    any other."""

    port: int
    path: str = "/"
    status: int = 200
    body: str | None = None  # the answer must contain this text
    tls: CheckTls | None = None
    kind: Literal["http"] = "http"  # told apart by it when kept or sent as plain data

    def __str__(self) -> str:
        body = f", body contains {self.body[:40]!r}" if self.body else ""
        scheme = "http" if self.tls is None else "https"
        return f"{scheme} GET :{self.port}{self.path} answers {self.status}{body}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpCheck:
    """The port accepts a connection."""

    port: int
    kind: Literal["tcp"] = "tcp"

    def __str__(self) -> str:
        return f"tcp :{self.port} accepts"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandCheck:
    """The argv, run inside the workload, exits 0. Never a shell line."""

    argv: tuple[str, ...]
    kind: Literal["command"] = "command"

    def __str__(self) -> str:
        return f"command {' '.join(self.argv)[:60]} exits 0"


Check = HttpCheck | TcpCheck | CommandCheck


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Healthy means `successes` consecutive good answers of one instance that has run for at least `minimum`, all
    within `deadline` of its start, without a restart."""

    check: Check
    interval: timedelta = timedelta(seconds=1)
    timeout: timedelta = timedelta(seconds=5)
    successes: int = 3
    minimum: timedelta = timedelta(0)
    deadline: timedelta = timedelta(seconds=60)
