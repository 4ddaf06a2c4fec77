"""A command's result as an HTTP answer: plain JSON, with a mark by which a client can ask whether it changed."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from api import commands, wire
from api.house import House

JSON: Final = "application/json"
UNTIL_ASKED: Final = "private, no-cache"  # may be kept, and is asked about each time
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


async def result_of(house: House, request: Request, command: str, **arguments: Any) -> Any:
    """The result of a command, as who sent the request may have it. What is None was not given."""
    given = {name: value for name, value in arguments.items() if value is not None}
    principal, key = request.state.principal, request.headers.get("idempotency-key")
    result = None
    async with aclosing(commands.carry_out(house, command, given, principal=principal, key=key)) as events:
        async for event in events:
            result = event.get("result", result)
    return result


async def shown(house: House, request: Request, command: str, **arguments: Any) -> Response:
    return answered(request, await result_of(house, request, command, **arguments))


def answered(
    request: Request, result: Any, status: int = 200, headers: Mapping[str, str] | None = None, version: str = ""
) -> Response:
    """`version` begins the mark, for those who send it back with a change."""
    return _marked(request, wire.line(result).encode(errors="replace"), JSON, status, headers, version)


def table(request: Request, columns: Iterable[str], rows: Iterable[Mapping[str, Any]], name: str) -> Response:
    """The rows as CSV (RFC 4180); what a spreadsheet would take for a formula is made text."""
    out, names = io.StringIO(), list(columns)
    writer = csv.writer(out)
    writer.writerow(names)
    writer.writerows([[_cell(row.get(column)) for column in names] for row in rows])
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return _marked(request, out.getvalue().encode(errors="replace"), "text/csv; charset=utf-8", 200, headers)


def raw(request: Request, text: str, name: str) -> Response:
    """A kept text under its own name, to be saved and never shown as what it may pretend to be."""
    said = quote(name.rpartition("/")[2] or "file", safe="")
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{said}"}
    return _marked(request, text.encode(errors="replace"), "text/plain; charset=utf-8", 200, headers)


def _cell(value: Any) -> str:
    text = "" if value is None else "; ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _marked(
    request: Request,
    body: bytes,
    media_type: str,
    status: int,
    headers: Mapping[str, str] | None = None,
    version: str = "",
) -> Response:
    more = dict(headers or {})
    if request.method == "GET" and status == 200:
        mark = f'"{version}{hashlib.sha256(body).hexdigest()[:32]}"'
        more |= {"ETag": mark, "Cache-Control": UNTIL_ASKED, "Vary": "Accept, Authorization, Cookie"}
        if mark in (each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")):
            return Response(status_code=304, headers=more)
    return Response(body, status, more, media_type)
