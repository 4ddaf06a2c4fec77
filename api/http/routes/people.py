"""Users, their grants, and the tokens of machines. Who one is oneself is told where people come in."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from api.house import House
from api.http import shapes
from api.http.answers import answered, result_of, shown
from api.http.guard import SOMEWHERE, guarded
from api.http.routes.words import PREFIX
from api.people.principal import EVERYWHERE, Verb

EVERYTHING = [guarded(Verb.ADMIN, None)]
ADMINS = [guarded(Verb.ADMIN, SOMEWHERE)]
KEEPERS = [guarded(Verb.TOKEN_ADMIN, SOMEWHERE)]
UserName = Annotated[str, Path(min_length=1, max_length=210, examples=["ada", "group:platform"])]
TokenId = Annotated[str, Path(min_length=1, max_length=80)]
What = Annotated[str, Query(min_length=1, max_length=40, description="a role or a verb")]
Where = Annotated[str, Query(min_length=1, max_length=127, description="an environment, `project/*`, or `*`")]


def router(house: House) -> APIRouter:
    router = APIRouter(prefix=PREFIX, tags=["people"])
    _users(router, house)
    _one(router, house)
    _grants(router, house)
    _tokens(router, house)
    return router


def _users(router: APIRouter, house: House) -> None:
    @router.get("/users", response_model=shapes.Users, dependencies=EVERYTHING)
    async def users(request: Request) -> Response:
        """Everybody, and the groups that anything is granted to."""
        return await shown(house, request, "users")

    @router.post("/users", status_code=201, response_model=shapes.UserMade, dependencies=EVERYTHING)
    async def add(request: Request, asked: shapes.UserOffered) -> Response:
        """Add a person. Without a password one is made, and told this once."""
        return answered(request, await result_of(house, request, "user_add", **asked.model_dump()), 201)


def _one(router: APIRouter, house: House) -> None:
    @router.post("/users/{name}/password", response_model=shapes.PasswordSet, dependencies=EVERYTHING)
    async def password(name: UserName, request: Request, asked: shapes.PasswordAsked | None = None) -> Response:
        """Set another password, and end every session of theirs. Without one it is made, and told this once."""
        words = (asked or shapes.PasswordAsked()).model_dump()
        return await shown(house, request, "user_password", name=name, **words)

    @router.post("/users/{name}/disable", response_model=shapes.UserMoved, dependencies=EVERYTHING)
    async def disable(name: UserName, request: Request) -> Response:
        """Let them in no more; what they did stays told."""
        return await shown(house, request, "user_disable", name=name)

    @router.post("/users/{name}/enable", response_model=shapes.UserMoved, dependencies=EVERYTHING)
    async def enable(name: UserName, request: Request) -> Response:
        """Let them in again."""
        return await shown(house, request, "user_enable", name=name)


def _grants(router: APIRouter, house: House) -> None:
    @router.post("/users/{name}/grants", response_model=shapes.GrantMoved, dependencies=ADMINS)
    async def grant(name: UserName, request: Request, asked: shapes.GrantAsked) -> Response:
        """Grant a role or a verb at a place, where you may."""
        return await shown(house, request, "user_grant", name=name, **asked.model_dump())

    @router.delete("/users/{name}/grants", response_model=shapes.GrantMoved, dependencies=ADMINS)
    async def revoke(name: UserName, request: Request, what: What, place: Where = EVERYWHERE) -> Response:
        """Take a grant back, where you may."""
        return await shown(house, request, "user_revoke", name=name, what=what, place=place)


def _tokens(router: APIRouter, house: House) -> None:
    @router.get("/tokens", response_model=shapes.Tokens, dependencies=KEEPERS)
    async def tokens(request: Request) -> Response:
        """The tokens of machines that you may revoke; never their secrets."""
        return await shown(house, request, "tokens")

    @router.post("/tokens", status_code=201, response_model=shapes.TokenMade, dependencies=KEEPERS)
    async def create(request: Request, asked: shapes.TokenAsked) -> Response:
        """Make a token that does no more than you may. It is told this once."""
        return answered(request, await result_of(house, request, "token_create", **asked.model_dump()), 201)

    @router.delete("/tokens/{id}", response_model=shapes.TokenRevoked, dependencies=KEEPERS)
    async def revoke(id: TokenId, request: Request) -> Response:
        """It counts no more, from the next request on."""
        return await shown(house, request, "token_revoke", id=id)
