"""What each command asks for: a verb, and where. One table, asked before any command runs, whatever door it comes
through.

A command that names no environment shows what its principal may see and nothing else: targets and statements that
they may not see are not there for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from api.commands.given import Given
from api.people.principal import Principal, Verb, authorise
from api.problem import Problem
from stickers import names


class Where(StrEnum):
    """How the arguments of a command say which environment it is about."""

    ENVIRONMENT = "environment"
    ENVIRONMENT_OR_ALL = "environment or all"  # without one: those that the principal may see
    JOB = "job"
    FOUND = "found"  # by what is looked up: among what the principal may see
    ENVIRONMENT_OR_INSTALLATION = "environment or installation"  # without one: the verb everywhere
    INSTALLATION = "installation"
    ANYBODY = "anybody"  # about nobody but who asks


@dataclass(frozen=True, slots=True)
class Right:
    verb: Verb
    where: Where


RIGHTS: Final[Mapping[str, Right]] = {
    "status": Right(Verb.READ, Where.ENVIRONMENT_OR_ALL),
    "drift": Right(Verb.READ, Where.ENVIRONMENT_OR_ALL),
    "plan": Right(Verb.READ, Where.ENVIRONMENT),
    "why": Right(Verb.READ, Where.FOUND),
    "evidence": Right(Verb.READ, Where.FOUND),
    "history": Right(Verb.READ, Where.ENVIRONMENT),
    "sync": Right(Verb.DEPLOY, Where.ENVIRONMENT),
    "rollback": Right(Verb.ROLLBACK, Where.ENVIRONMENT),
    "adopt": Right(Verb.DEPLOY, Where.ENVIRONMENT),
    "suspend": Right(Verb.FREEZE, Where.ENVIRONMENT),
    "resume": Right(Verb.FREEZE, Where.ENVIRONMENT),
    "jobs": Right(Verb.READ, Where.ENVIRONMENT_OR_ALL),
    "job": Right(Verb.READ, Where.JOB),
    "follow": Right(Verb.READ, Where.JOB),
    "request": Right(Verb.DEPLOY, Where.JOB),
    "artifacts": Right(Verb.READ, Where.JOB),
    "logs": Right(Verb.READ, Where.FOUND),
    "sources": Right(Verb.READ, Where.FOUND),
    "source": Right(Verb.READ, Where.FOUND),
    "refresh": Right(Verb.REQUEST, Where.FOUND),
    "apply": Right(Verb.TARGET_EDIT, Where.FOUND),
    "export": Right(Verb.READ, Where.FOUND),
    "targets": Right(Verb.READ, Where.ENVIRONMENT),
    "components": Right(Verb.READ, Where.ENVIRONMENT),
    "releases": Right(Verb.READ, Where.FOUND),  # in projects where anything may be read
    "release": Right(Verb.READ, Where.FOUND),
    "backup": Right(Verb.ADMIN, Where.INSTALLATION),
    "whoami": Right(Verb.READ, Where.ANYBODY),
    "users": Right(Verb.ADMIN, Where.INSTALLATION),
    "user_add": Right(Verb.ADMIN, Where.INSTALLATION),
    "user_password": Right(Verb.ADMIN, Where.INSTALLATION),
    "user_disable": Right(Verb.ADMIN, Where.INSTALLATION),
    "user_enable": Right(Verb.ADMIN, Where.INSTALLATION),
    "user_grant": Right(Verb.ADMIN, Where.FOUND),
    "user_revoke": Right(Verb.ADMIN, Where.FOUND),
    "tokens": Right(Verb.TOKEN_ADMIN, Where.FOUND),
    "token_create": Right(Verb.TOKEN_ADMIN, Where.FOUND),
    "token_revoke": Right(Verb.TOKEN_ADMIN, Where.FOUND),
    "agents": Right(Verb.READ, Where.FOUND),
    "agent": Right(Verb.READ, Where.FOUND),
    "agent_invite": Right(Verb.AGENT_ADMIN, Where.INSTALLATION),
    "agent_lock": Right(Verb.AGENT_ADMIN, Where.INSTALLATION),
    "agent_unlock": Right(Verb.AGENT_ADMIN, Where.INSTALLATION),
    "agent_remove": Right(Verb.AGENT_ADMIN, Where.INSTALLATION),
    "agent_drain": Right(Verb.AGENT_ADMIN, Where.INSTALLATION),
    "agent_grant": Right(Verb.AGENT_ADMIN, Where.INSTALLATION),
    "agent_revoke": Right(Verb.AGENT_ADMIN, Where.INSTALLATION),
    "agent_bind": Right(Verb.AGENT_ADMIN, Where.INSTALLATION),
    "agent_unbind": Right(Verb.AGENT_ADMIN, Where.INSTALLATION),
    "agent_take": Right(Verb.AGENT_ADMIN, Where.INSTALLATION),
    "agent_declare_dead": Right(Verb.AGENT_ADMIN, Where.INSTALLATION),
    "agent_hold": Right(Verb.AGENT_ADMIN, Where.INSTALLATION),
    "agent_run": Right(Verb.AGENT_ADMIN, Where.INSTALLATION),
    "agent_upload": Right(Verb.AGENT_ADMIN, Where.INSTALLATION),
    "agent_upgrade": Right(Verb.AGENT_ADMIN, Where.INSTALLATION),
    "agent_inspect": Right(Verb.AGENT_ADMIN, Where.INSTALLATION),
    "agent_trust": Right(Verb.AGENT_ADMIN, Where.INSTALLATION),
    "authority": Right(Verb.AGENT_ADMIN, Where.INSTALLATION),
    "authority_rotate": Right(Verb.AGENT_ADMIN, Where.INSTALLATION),
    "authority_retire": Right(Verb.AGENT_ADMIN, Where.INSTALLATION),
    "audit": Right(Verb.AUDIT_READ, Where.ENVIRONMENT_OR_INSTALLATION),
    "audit_verify": Right(Verb.AUDIT_READ, Where.ENVIRONMENT_OR_INSTALLATION),
    "audit_export": Right(Verb.AUDIT_READ, Where.ENVIRONMENT_OR_INSTALLATION),
}


def insist(name: str, given: Given) -> None:
    """`FORBIDDEN` unless the principal may do what the command is for. A command without a row here is nobody's."""
    right, principal = RIGHTS[name], given.principal
    match right.where:
        case Where.ENVIRONMENT:
            authorise(principal, right.verb, given.environment())
        case Where.JOB:
            authorise(principal, right.verb, names.environment_of(given.job()))
        case Where.ENVIRONMENT_OR_INSTALLATION:
            authorise(principal, right.verb, given.environment_or_none())
        case Where.INSTALLATION:
            authorise(principal, right.verb)
        case Where.ANYBODY:
            pass
        case Where.ENVIRONMENT_OR_ALL if (named := given.environment_or_none()) is not None:
            authorise(principal, right.verb, named)
        case _:
            somewhere(principal, right.verb)
    if name == "refresh" and given.text_or_none("allow"):  # it lets a rewritten history in
        authorise(principal, Verb.POLICY_EDIT)
    if name == "resume" and given.flag("lift_refused"):  # it lets the loop deploy what had failed
        authorise(principal, Verb.DEPLOY, given.environment())


def somewhere(principal: Principal, verb: Verb) -> None:
    """The verb in any environment at all."""
    if not any(grant.verb is verb for grant in principal.grants):
        raise Problem("FORBIDDEN", f"{principal.actor} has no grant to {verb} anywhere")
