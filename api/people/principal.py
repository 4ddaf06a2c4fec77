"""Whoever asks for something, and the one function that says whether they may."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from api.problem import Problem
from stickers.names import EnvironmentId

EVERYWHERE: Final = "*"


class Verb(StrEnum):
    """What a grant allows. `admin` is none that includes the others."""

    READ = "read"
    REQUEST = "request"  # ask for a plan to be carried out later by somebody who may
    APPROVE = "approve"
    DEPLOY = "deploy"
    ROLLBACK = "rollback"
    FREEZE = "freeze"  # suspend and resume
    TARGET_EDIT = "target.edit"  # documents of environments that the database owns
    POLICY_EDIT = "policy.edit"
    AGENT_ADMIN = "agent.admin"
    TOKEN_ADMIN = "token.admin"  # noqa: S105 - a right, not a password
    AUDIT_READ = "audit.read"
    ADMIN = "admin"  # people and their grants


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One verb in one environment (`project/name`), in one project (`project/*`) or everywhere (`*`)."""

    verb: Verb
    where: str = EVERYWHERE

    def covers(self, verb: Verb, environment: EnvironmentId | None) -> bool:
        if verb is not self.verb:
            return False
        if self.where == EVERYWHERE:
            return True
        return environment is not None and (
            self.where == environment or (self.where.endswith("/*") and environment.startswith(self.where[:-1]))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Somebody known. `actor` is how records name them; `natural` is a person, not a machine's token."""

    actor: str
    grants: tuple[Grant, ...] = ()
    natural: bool = False

    def may(self, verb: Verb, environment: EnvironmentId | None = None) -> bool:
        """Whether any grant covers it. Without an environment it is about the installation as a whole."""
        return any(grant.covers(verb, environment) for grant in self.grants)


def authorise(principal: Principal, verb: Verb, environment: EnvironmentId | None = None) -> None:
    """Nothing, or the problem `FORBIDDEN`. Every route, command and stream asks here and nowhere else."""
    if not principal.may(verb, environment):
        place = f" in {environment}" if environment else ""
        raise Problem("FORBIDDEN", f"{principal.actor} has no grant to {verb}{place}")


def owner(actor: str) -> Principal:
    """The user the daemon runs as, at its own socket: may do everything, as they could in the state directory."""
    return Principal(actor=actor, grants=tuple(Grant(verb=verb) for verb in Verb), natural=True)
