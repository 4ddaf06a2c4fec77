"""The command wire, which the command line speaks.

`POST /v1/<command>` with a JSON object of arguments answers JSON lines: any number of `{"event": …}`, then one
`{"result": …}` or `{"problem": …}`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import StreamingResponse

from api import commands, wire
from api.house import House
from api.http import problems
from api.http.guard import for_the_known
from api.problem import Problem

LINES = "application/x-ndjson"


def router(house: House) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.post("/v1/{command}", dependencies=[for_the_known("each command asks for its own verb")])
    async def carry_out(command: str, request: Request) -> StreamingResponse:
        arguments = _arguments(await request.body())
        return StreamingResponse(_lines(house, command, arguments, request), media_type=LINES)

    return router


async def _lines(house: House, name: str, arguments: dict[str, Any], request: Request) -> AsyncIterator[bytes]:
    try:
        principal, key = request.state.principal, request.headers.get("idempotency-key")
        async with aclosing(commands.carry_out(house, name, arguments, principal=principal, key=key)) as events:
            async for event in events:
                yield wire.line(event).encode() + b"\n"
    except Problem as problem:
        yield wire.line({"problem": problem.document()}).encode() + b"\n"
    except Exception as error:
        yield wire.line({"problem": problems.broken(error, name).document()}).encode() + b"\n"


def _arguments(body: bytes) -> dict[str, Any]:
    try:
        arguments = json.loads(body or b"{}")
    except ValueError:
        raise Problem("BAD_REQUEST", "the request body is not JSON") from None
    if not isinstance(arguments, dict):
        raise Problem("BAD_REQUEST", "the request body is not a JSON object")
    return arguments
