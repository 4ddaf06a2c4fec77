"""What people and programs can ask of the house, one function per command, whatever door they come through.

A command is an async generator of plain JSON events; the last one is its `{"result": …}`. Whatever ends it early is a
`Problem`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from api.commands import (
    act,
    agents,
    artifacts,
    audit,
    backup,
    documents,
    errands,
    fleet,
    history,
    inventory,
    jobs,
    logs,
    people,
    rights,
    sources,
    tokens,
)
from api.commands.given import Given
from api.house import House
from api.people.principal import Principal
from api.problem import Problem
from drivers.errors import DriverError
from reconciler.commands import Declined
from reconciler.store.errors import JobActive, StoreError

Events = AsyncGenerator[dict[str, Any], None]
Command = Callable[[House, Given], Events]

COMMANDS: Mapping[str, Command] = {
    "status": fleet.status,
    "drift": fleet.drift,
    "plan": fleet.plan,
    "why": fleet.why,
    "evidence": fleet.evidence,
    "history": history.history,
    "sync": act.sync,
    "rollback": act.rollback,
    "adopt": act.adopt,
    "suspend": act.suspend,
    "resume": act.resume,
    "jobs": jobs.index,
    "job": jobs.show,
    "follow": jobs.follow,
    "request": jobs.request,
    "artifacts": artifacts.index,
    "logs": logs.logs,
    "sources": sources.index,
    "source": sources.show,
    "refresh": sources.refresh,
    "apply": documents.apply,
    "export": documents.export,
    "backup": backup.backup,
    "targets": inventory.targets,
    "components": inventory.components,
    "releases": inventory.index,
    "release": inventory.release,
    "whoami": people.whoami,
    "users": people.index,
    "user_add": people.add,
    "user_password": people.password,
    "user_grant": people.grant,
    "user_revoke": people.revoke,
    "user_disable": people.disable,
    "user_enable": people.enable,
    "tokens": tokens.index,
    "token_create": tokens.create,
    "token_revoke": tokens.revoke,
    "agents": agents.index,
    "agent": agents.show,
    "agent_invite": agents.invite,
    "agent_lock": agents.lock,
    "agent_unlock": agents.unlock,
    "agent_remove": agents.remove,
    "agent_drain": agents.drain,
    "agent_grant": agents.grant,
    "agent_revoke": agents.revoke,
    "agent_bind": agents.bind,
    "agent_unbind": agents.unbind,
    "agent_take": agents.take,
    "agent_declare_dead": agents.declare_dead,
    "agent_hold": agents.hold,
    "agent_run": errands.run,
    "agent_upload": errands.upload,
    "agent_upgrade": errands.upgrade,
    "agent_inspect": errands.inspect,
    "agent_trust": errands.trust,
    "authority": agents.authority,
    "authority_rotate": agents.rotate,
    "authority_retire": agents.retire,
    "audit": audit.index,
    "audit_verify": audit.verify,
    "audit_export": audit.export,
}


async def carry_out(
    house: House, name: str, arguments: Mapping[str, Any], *, principal: Principal, key: str | None = None
) -> Events:
    """The events of the named command; unknown names, what the principal may not, and everything that may go wrong are
    a `Problem`. A command that acts is carried out once for each `key` of its principal."""
    if name not in COMMANDS:
        raise Problem("UNKNOWN_COMMAND", f"{name[:40]!r} is no command; known are {', '.join(COMMANDS)}")
    given = Given(arguments, principal, key)
    rights.insist(name, given)
    try:
        async with aclosing(COMMANDS[name](house, given)) as events:
            async for event in events:
                yield event
    except DriverError as error:
        raise Problem(error.code, house.redactor.clean(str(error))) from None
    except Declined as error:
        raise Problem(error.code, str(error)) from None
    except JobActive as error:
        raise Problem(error.code, str(error), job=error.job, environment=error.environment) from None
    except StoreError as error:
        raise Problem(error.code, str(error)) from None
