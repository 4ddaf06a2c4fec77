"""Who may pass through which door. Every route declares the verb it asks for, or why it asks for none; a route that
declares neither is refused when the application is built.

    @router.get("/environments/{project}/{environment}", dependencies=[guarded(Verb.READ)])

The principal stands in `request.state.principal` afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.routing import BaseRoute

from api.commands.rights import somewhere
from api.people.principal import Principal, Verb, authorise
from api.problem import Problem
from stickers import names
from stickers.names import EnvironmentId

SOMEWHERE: Final = "*somewhere*"  # the verb in any environment at all: the answer shows those only


class Doorkeeper(Protocol):
    """Knows people and machines by what their requests carry. `UNAUTHENTICATED` for whoever it does not know."""

    async def principal(self, request: Request) -> Principal: ...


class NobodyKnown:
    """Stands at a door where no people are kept: lets nobody in."""

    async def principal(self, request: Request) -> Principal:
        raise Problem("UNAUTHENTICATED", "nobody is known here yet")


@dataclass(frozen=True, slots=True)
class Guard:
    """Lets those pass who have the verb in the environment that the path or the query names; None: in the installation
    as a whole, `SOMEWHERE`: in any environment."""

    verb: Verb
    environment_from: str | None

    async def __call__(self, request: Request) -> Principal:
        principal = await known(request)
        if self.environment_from is SOMEWHERE:
            somewhere(principal, self.verb)
        else:
            authorise(principal, self.verb, environment_of(request, self.environment_from))
        return principal


@dataclass(frozen=True, slots=True)
class Known:
    """Lets everybody pass who is known; `reason` says what asks for the verb instead."""

    reason: str

    async def __call__(self, request: Request) -> Principal:
        return await known(request)


@dataclass(frozen=True, slots=True)
class Open:
    """Lets everybody pass, and says why."""

    reason: str

    async def __call__(self, request: Request) -> None:
        return None


def guarded(verb: Verb, environment_from: str | None = "environment") -> Any:
    """A dependency. `environment_from` names a parameter of the path (with `project` beside it) or of the query; None
    asks for the verb in the installation as a whole, `SOMEWHERE` in any environment."""
    return Depends(Guard(verb, environment_from))


def for_the_known(reason: str) -> Any:
    """For what anybody known may ask, since the verb is asked for deeper down, or is their own affair."""
    return Depends(Known(reason))


def open_to_all(reason: str) -> Any:
    return Depends(Open(reason))


async def known(request: Request) -> Principal:
    """Who asks; found once for each request."""
    found: Principal | None = getattr(request.state, "principal", None)
    if found is None:
        found = await request.app.state.doorkeeper.principal(request)
        request.state.principal = found
    return found


def environment_of(request: Request, name: str | None) -> EnvironmentId | None:
    """The environment that the request names: `project` and `environment` of the path, or one text. None: no
    parameter of that name is given, so it is about the installation as a whole."""
    if name is None:
        return None
    text = request.path_params.get(name) or request.query_params.get(name)
    if text is None:
        return None
    project = request.path_params.get("project")
    return environment_named(f"{project}/{text}" if project else text)


def environment_named(text: str) -> EnvironmentId:
    project, slash, name = text.rpartition("/")
    try:
        return names.environment_id(names.name(project) if slash else names.DEFAULT_PROJECT, names.name(name))
    except names.InvalidName as error:
        raise Problem("BAD_ARGUMENT", str(error)) from None


# -- the table ------------------------------------------------------------------------------------------------------


def guards(route: APIRoute) -> Iterator[Guard | Known | Open]:
    """What the route declares."""
    for dependant in route.dependant.dependencies:
        if isinstance(dependant.call, Guard | Known | Open):
            yield dependant.call


def insist(routes: Iterable[BaseRoute]) -> None:
    """Every route declares exactly one guard; anything else is a programming error, told before anybody is served."""
    for route in routes:
        if not isinstance(route, APIRoute) or len(list(guards(route))) != 1:
            raise TypeError(f"{getattr(route, 'path', route)} declares no guard, or more than one")
