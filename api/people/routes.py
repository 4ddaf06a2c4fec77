"""Logging in and out over HTTP, and asking who one is.

    POST /login                  {"name": …, "password": …} as JSON, or a form; sets the session's cookie
    POST /logout                 ends the session
    POST /api/v1/login           {"user": …, "password": …}; answers a session for the command line, sent as Bearer
    POST /api/v1/password        {"old": …, "new": …}; one's own; ends all of one's sessions
    GET  /login/oidc             to the provider, and back to …
    GET  /login/oidc/callback
    GET  /api/v1/whoami          actor, grants, and the token that a session's changes have to carry

The page with the form is the dashboard's; a form that is refused leads back to it with the problem's code.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final
from urllib.parse import urlencode

import structlog
from fastapi import APIRouter
from pydantic import BaseModel, Field, SecretStr
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from api.house import House
from api.http.guard import for_the_known, open_to_all
from api.people import cookies, oidc
from api.people.doorkeeper import FORM, Doorkeeper
from api.people.oidc import OidcRefused
from api.people.roles import described
from api.problem import Problem

HOME: Final = "/"
OWN_PATH: Final = re.compile(r"/(?![/\\])[!-\[\]-~]*")  # no other host, by whatever a browser takes for a slash
# no redirect: a browser that comes from the provider's site keeps the strict cookie back until one of our pages asks
GO_ON: Final = (
    f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={HOME}">'
    f'<title>Logged in</title></head><body><main><p>Logged in. <a href="{HOME}">Go on</a></p></main></body></html>'
)


class Login(BaseModel):
    """Name and password; neither is repeated in what is said of them."""

    user: str = Field(max_length=200)
    password: SecretStr = Field(max_length=1000)


class Change(BaseModel):
    """The password one has, and the one to come."""

    old: SecretStr = Field(max_length=1000)
    new: SecretStr = Field(max_length=1000)


def router(house: House) -> APIRouter:
    router = APIRouter()
    _by_password(router)
    _by_provider(router)
    _at_a_terminal(router)
    return router


def _by_password(router: APIRouter) -> None:
    @router.post("/login", dependencies=[open_to_all("whoever logs in is not known yet")], include_in_schema=False)
    async def log_in(request: Request) -> Response:
        keeper, form = _keeper(request), _is_form(request)
        onward = await _onward(request) if form else HOME
        try:
            secret = await keeper.log_in(request, *await _named(request, form=form))
        except Problem as problem:
            if not form:
                raise
            return RedirectResponse(f"/login?{urlencode({'problem': problem.code, 'next': onward})}", 303)
        answer = RedirectResponse(onward, 303) if form else JSONResponse({"csrf": cookies.csrf(secret)})
        cookies.put(answer, keeper.peer(request), secret)
        return answer

    @router.post("/logout", dependencies=[for_the_known("everybody may leave")], include_in_schema=False)
    async def log_out(request: Request) -> Response:
        keeper = _keeper(request)
        await keeper.log_out(request, request.state.principal.actor)
        answer = RedirectResponse("/login", 303) if _is_form(request) else Response(status_code=204)
        cookies.take(answer, keeper.peer(request))
        return answer


def _by_provider(router: APIRouter) -> None:
    @router.get("/login/oidc", dependencies=[open_to_all("leads to the provider")], include_in_schema=False)
    async def to_provider(request: Request) -> Response:
        keeper = _keeper(request)
        cookies.insist_on_a_place_for_sessions(keeper.peer(request))
        provider, secret = oidc.insist(keeper.provider), cookies.made()
        try:
            answer = RedirectResponse(await provider.address(secret), 303)
        except OidcRefused as refused:
            raise _unheard(refused) from None
        cookies.put_login(answer, keeper.peer(request), secret)
        return answer

    @router.get(oidc.CALLBACK, dependencies=[open_to_all("comes from the provider")], include_in_schema=False)
    async def from_provider(request: Request) -> Response:
        keeper = _keeper(request)
        provider, peer = oidc.insist(keeper.provider), keeper.peer(request)
        begun = cookies.read(request, peer, cookies.LOGIN)
        if begun is None:
            raise Problem("UNAUTHENTICATED", "no login was begun in this browser, or it took too long; begin again")
        try:
            identity = await provider.identity(begun, dict(request.query_params))
        except OidcRefused as refused:
            raise _unheard(refused) from None
        secret = await keeper.log_in_by(request, identity)
        answer = HTMLResponse(GO_ON)
        cookies.put(answer, peer, secret)
        cookies.take(answer, peer, cookies.LOGIN)
        return answer


def _at_a_terminal(router: APIRouter) -> None:
    @router.post("/api/v1/login", dependencies=[open_to_all("whoever logs in is not known yet")])
    async def log_in_at_a_terminal(request: Request, said: Login) -> dict[str, str]:
        secret = await _keeper(request).log_in(request, said.user, said.password.get_secret_value())
        return {"token": f"holdfast_session_{secret}"}

    @router.post(
        "/api/v1/password", status_code=204, dependencies=[for_the_known("one's own, by who knows the old one")]
    )
    async def change_password(request: Request, said: Change) -> Response:
        old, new = said.old.get_secret_value(), said.new.get_secret_value()
        await _keeper(request).change_password(request, request.state.principal, old, new)
        return Response(status_code=204)

    @router.get("/api/v1/whoami", dependencies=[for_the_known("about nobody but who asks")])
    async def whoami(request: Request) -> dict[str, Any]:
        return described(request.state.principal) | {"csrf": getattr(request.state, "csrf", None)}


def _keeper(request: Request) -> Doorkeeper:
    """The one who knows people; at the Unix socket, where everybody is the owner, nobody logs in."""
    keeper = request.app.state.doorkeeper
    if not isinstance(keeper, Doorkeeper):
        raise Problem("NO_LOGIN", "nobody logs in here: whoever can open this socket is its owner")
    return keeper


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == FORM


async def _onward(request: Request) -> str:
    """Where the form leads to: a path of ours, whatever it says."""
    said = (await request.form()).get("next")
    return said if isinstance(said, str) and len(said) <= 2_000 and OWN_PATH.fullmatch(said) else HOME


async def _named(request: Request, *, form: bool) -> tuple[str, str]:
    if form:
        said: Any = dict(await request.form())
    elif request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        said = _object(await request.body())
    else:
        raise Problem("WRONG_TYPE", "a login is JSON or a form")
    name, password = said.get("name"), said.get("password")
    if not isinstance(name, str) or not isinstance(password, str):
        raise Problem("BAD_ARGUMENT", "name and password are missing; expected two texts")
    return name, password


def _object(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise Problem("BAD_REQUEST", "the request body is not a JSON object")
    return said


def _unheard(refused: OidcRefused) -> Problem:
    """The browser learns that it was refused; the log learns why."""
    structlog.get_logger().warning("oidc_refused", reason=str(refused))
    return Problem("UNAUTHENTICATED", "the provider's answer was refused; the log of the daemon says why")
