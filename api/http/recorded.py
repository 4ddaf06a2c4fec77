"""Every request has an id, which its answer bears and every line of the log that is written meanwhile, and one line of
its own: the route's template, never what stands in a path or a query, for that may be a secret.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from secrets import token_hex
from typing import Any, Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.telemetry.requests import Answered, Tracing

HEADER: Final = "X-Request-Id"
PROBES: Final = ("/livez", "/readyz", "/metrics")  # asked all day by machines
BROKEN_OFF: Final = 499  # where nothing was answered


class Recorded:
    """An application with the record of what was asked of it in front."""

    def __init__(self, app: ASGIApp, tracing: Tracing | None = None) -> None:
        self._app, self._tracing = app, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        id, began, status = token_hex(8), time.monotonic(), BROKEN_OFF

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = id
            await send(message)

        with structlog.contextvars.bound_contextvars(request=id), self._traced(scope) as answered:
            try:
                await self._app(scope, receive, sending)
            finally:
                answered(_route(scope), status)
                _write(scope, status, time.monotonic() - began)

    def _traced(self, scope: Scope) -> AbstractContextManager[Answered]:
        if self._tracing is None or scope["path"] in PROBES:
            return nullcontext(lambda route, status: None)
        return self._tracing.request(scope["method"], Headers(scope=scope))


def _write(scope: Scope, status: int, took: float) -> None:
    log = structlog.get_logger()
    route = _route(scope)
    tell = log.warning if status >= 500 else log.debug if route in PROBES else log.info
    tell("answered", method=scope["method"], route=route, status=status, ms=round(took * 1000, 1), actor=_actor(scope))


def _route(scope: Scope) -> str | None:
    route: str | None = getattr(scope.get("route"), "path", None)
    return route


def _actor(scope: Scope) -> str | None:
    """Who asked, where that was found out."""
    state: dict[str, Any] = scope.get("state", {})
    actor: str | None = getattr(state.get("principal"), "actor", None)
    return actor
