"""Pages ask what the command line asks, through the same commands: both are told the same and may do the same."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import anyio
from starlette.requests import Request

from api import commands
from api.pages.frame import Desk, principal_of
from api.problem import Problem


async def answer(
    desk: Desk, request: Request, command: str, *, within: float = 60.0, **arguments: Any
) -> dict[str, Any]:
    """The result of a command, carried out as whoever looks at the page."""
    found: dict[str, Any] = {}
    with anyio.move_on_after(within) as scope:
        events = commands.carry_out(desk.house, command, arguments, principal=principal_of(request))
        async with aclosing(events) as following:
            async for event in following:
                found = event
    if scope.cancelled_caught:
        raise Problem("TIMED_OUT", f"{command} took longer than {within:.0f} s; it was given up")
    result: dict[str, Any] = found["result"]
    return result


async def form(request: Request) -> dict[str, str]:
    """The texts of a form; files are none of ours."""
    async with request.form(max_files=0, max_fields=20, max_part_size=64 * 1024) as given:
        return {name: value for name, value in given.items() if isinstance(value, str)}
