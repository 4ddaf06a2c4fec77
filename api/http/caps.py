"""What stands in front of every route: how much a request may be, how long it may take, who it may call us, and the
headers that every answer carries."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import anyio
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http import problems
from api.problem import Problem

MEBIBYTE: Final = 1024 * 1024
STREAMS: Final = ("text/event-stream", "application/x-ndjson")  # answers that may take as long as they like
SECURITY: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cache-Control": "no-store",
}
HSTS: Final = "max-age=31536000"
_TOKENS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """`hosts` are the names that clients may call us by beside addresses (None: any, where no browser can come).
    `body` in bytes, `bodies` the same for addresses that begin so; `depth` of JSON; seconds for the body to arrive, for
    the answer to begin, and for a client to take what it is sent."""

    hosts: frozenset[str] | None = None
    requests: int = 256
    body: int = MEBIBYTE
    bodies: Mapping[str, int] = field(default_factory=lambda: {"/hooks/": 5 * MEBIBYTE})
    depth: int = 32
    arrives: float = 20.0
    answers: float = 90.0
    stalls: float = 60.0


class Gate:
    """An application with its caps in front."""

    def __init__(self, app: ASGIApp, caps: Caps) -> None:
        self._app, self._caps, self._inside = app, caps, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # nothing else is spoken here; the server closes
        passage = _Passage(self, scope, send, self._caps)
        try:
            passage.enter()
            with anyio.move_on_after(self._caps.answers) as passage.time:
                await self._app(scope, await self._arrived(scope, receive), passage.send)
            if passage.time.cancelled_caught:
                raise Problem("TIMED_OUT", f"no answer within {self._caps.answers:g} s; what was asked may go on")
        except Problem as problem:
            await passage.end(problem)
        except Exception as error:
            await passage.end(None if passage.began else problems.broken(error, scope["path"]))
        finally:
            passage.leave()

    def take_seat(self) -> None:
        if self._inside >= self._caps.requests:
            raise Problem("CROWDED", f"{self._inside} requests are being answered; try again")
        self._inside += 1

    def give_seat(self) -> None:
        self._inside -= 1

    async def _arrived(self, scope: Scope, receive: Receive) -> Receive:
        """A `receive` that has the whole body already, within its caps."""
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return receive
        headers, most = Headers(scope=scope), self._most(scope["path"])
        if (said := headers.get("content-length", "")).isdigit() and int(said[:20]) > most:
            raise _too_large(most)
        body = await self._body(Request(scope, receive), most)
        if "json" in headers.get("content-type", "json"):
            insist_on_depth(body, self._caps.depth)
        return _replayed(body, receive)

    def _most(self, path: str) -> int:
        return next((most for start, most in self._caps.bodies.items() if path.startswith(start)), self._caps.body)

    async def _body(self, request: Request, most: int) -> bytes:
        parts, length = [], 0
        with anyio.move_on_after(self._caps.arrives) as time:
            async for part in request.stream():
                parts.append(part)
                length += len(part)
                if length > most:
                    raise _too_large(most)
        if time.cancelled_caught:
            raise Problem("SLOW_REQUEST", f"the request's body did not arrive within {self._caps.arrives:g} s")
        return b"".join(parts)


class _Passage:
    """One request on its way through the gate."""

    def __init__(self, gate: Gate, scope: Scope, send: Send, caps: Caps) -> None:
        self._gate, self._scope, self._send, self._caps = gate, scope, send, caps
        self._seated = self.began = False
        self.time = anyio.CancelScope()

    def enter(self) -> None:
        self._gate.take_seat()
        self._seated = True
        host = _host(Headers(scope=self._scope))
        if self._caps.hosts is not None and host not in self._caps.hosts and not _is_address(host):
            raise Problem("BAD_HOST", f"{host[:60]!r} is no name of this server; HOLDFAST_HOSTS lists those it has")

    def leave(self) -> None:
        if self._seated:
            self._seated = False
            self._gate.give_seat()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begin(message)
        try:
            with anyio.fail_after(self._caps.stalls):
                await self._send(message)
        except TimeoutError:
            self._abort()
            raise

    async def end(self, problem: Problem | None) -> None:
        """Tell what went wrong where nothing was told yet; else all that can be done is to break off."""
        if self.began or problem is None:
            structlog.get_logger().debug("answer_broken_off", path=self._scope["path"])
            return
        response = problems.response(problem)
        await response(self._scope, _nothing_more, self.send)

    def _begin(self, message: Message) -> None:
        self.began = True
        headers = MutableHeaders(raw=message["headers"])
        message["headers"] = headers.raw
        for name, value in SECURITY.items():
            headers.setdefault(name, value)
        if self._scope.get("scheme") == "https":
            headers.setdefault("Strict-Transport-Security", HSTS)
        if headers.get("content-type", "").startswith(STREAMS):
            self.time.deadline = math.inf
            self.leave()  # streams are counted where they are made

    def _abort(self) -> None:
        """A client that takes nothing more: what is buffered for it goes too."""
        abort: Callable[[], None] | None = self._scope.get("state", {}).get("abort")
        if abort is not None:
            abort()


def insist_on_depth(body: bytes, most: int) -> None:
    """`TOO_DEEP` for JSON that nests deeper: parsers recurse."""
    if body.count(b"[") + body.count(b"{") <= most:
        return
    depth = 0
    for token in _TOKENS.finditer(body):
        match token[0]:
            case b"[" | b"{":
                depth += 1
                if depth > most:
                    raise Problem("TOO_DEEP", f"the request body nests deeper than {most} levels")
            case b"]" | b"}":
                depth -= 1


def _too_large(most: int) -> Problem:
    return Problem("BODY_TOO_LARGE", f"the request has more than {most} bytes")


def _host(headers: Headers) -> str:
    """The name without its port; brackets of an IPv6 address stay."""
    host = headers.get("host", "").lower()
    return host.rpartition(":")[0] if re.search(r":\d*$", host) and not host.endswith("]") else host


def _is_address(host: str) -> bool:
    """No name, so nobody's name server can have it lead here."""
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _replayed(body: bytes, receive: Receive) -> Receive:
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _nothing_more() -> Message:
    return {"type": "http.disconnect"}
