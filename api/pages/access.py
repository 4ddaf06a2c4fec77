"""What whoever looks may see and may do in an environment: asked before a link or a button is shown, and again by the
command behind it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from starlette.requests import Request

from api.pages.frame import principal_of
from api.people.principal import Principal, Verb
from api.problem import Problem
from reconciler.store.records import EnvironmentRow
from stickers import names
from stickers.names import EnvironmentId


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """Which actions are offered."""

    deploy: bool
    rollback: bool
    freeze: bool

    @property
    def anything(self) -> bool:
        return self.deploy or self.rollback or self.freeze


def allowed(principal: Principal, id: EnvironmentId) -> Allowed:
    return Allowed(
        deploy=principal.may(Verb.DEPLOY, id),
        rollback=principal.may(Verb.ROLLBACK, id),
        freeze=principal.may(Verb.FREEZE, id),
    )


def readable(request: Request, rows: Iterable[EnvironmentRow]) -> list[EnvironmentRow]:
    """The environments that whoever looks may see."""
    principal = principal_of(request)
    return [row for row in rows if principal.may(Verb.READ, row.id)]


def environment_of(project: str, environment: str) -> EnvironmentId:
    """The environment in the path."""
    try:
        return names.environment_id(project, environment)
    except names.InvalidName as error:
        raise Problem("NO_ENVIRONMENT", str(error)) from None
