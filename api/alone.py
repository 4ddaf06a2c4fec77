"""A command where no daemon runs: this process takes the lock, reads the documents, does the work itself, and ends."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final

import anyio

from api import commands, wire
from api.actor import actor_of
from api.people.principal import owner
from api.problem import Problem
from api.settings import Settings
from api.wiring import built

LOOKING: Final = frozenset({"status", "drift", "why"})  # show what was seen last: that is now
QUIET: Final = frozenset(  # need no look at the world
    {"jobs", "job", "artifacts", "history", "evidence", "logs", "backup", "export", "audit"}
    | {"audit_verify", "audit_export", "whoami", "users", "user_add", "user_password", "user_grant"}
    | {"user_revoke", "user_disable", "user_enable", "tokens", "token_create", "token_revoke"}
)
END: Final[dict[str, Any]] = {}


def events(settings: Settings, command: str, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The command's events as they come, its problem as the last one."""
    queue: SimpleQueue[dict[str, Any]] = SimpleQueue()
    worker = Thread(target=_served, args=(settings, command, arguments, queue), daemon=True)
    worker.start()
    while (event := queue.get()) is not END:
        yield event
    worker.join()


def _served(settings: Settings, command: str, arguments: dict[str, Any], queue: SimpleQueue[dict[str, Any]]) -> None:
    try:
        anyio.run(_serve, settings, command, arguments, queue)
    except Problem as problem:
        queue.put({"problem": problem.document()})
    except BaseExceptionGroup as group:
        queue.put({"problem": _only_problem(group).document()})
    finally:
        queue.put(END)


async def _serve(
    settings: Settings, command: str, arguments: dict[str, Any], queue: SimpleQueue[dict[str, Any]]
) -> None:
    async with built(replace(settings, log_level="warning")) as house, anyio.create_task_group() as group:
        if command not in QUIET:
            await house.reconciler.begin_alone()
        if command in LOOKING:
            await house.reconciler.look()
        carried = False
        principal = owner(actor_of(os.getuid()))
        async with aclosing(commands.carry_out(house, command, arguments, principal=principal)) as found:
            async for event in found:
                queue.put(json.loads(wire.line(event)))
                if not carried and (job := event.get("event", {}).get("job")):
                    carried = True
                    group.start_soon(house.reconciler.carry, job)


def _only_problem(group: BaseExceptionGroup[BaseException]) -> Problem:
    problems = group.subgroup(Problem)
    if problems is None:
        raise group
    first: BaseException = problems
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, Problem)
    return first
