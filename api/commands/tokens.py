"""Commands about machine tokens: make one, shown once; list them; revoke one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from api.commands.given import Given
from api.house import House
from api.people import machine, roles
from api.people.principal import EVERYWHERE, Principal, Verb, authorise
from api.problem import Problem
from reconciler.store import people
from reconciler.store.people import Granted, Token
from stickers import names
from stickers.names import EnvironmentId

Events = AsyncGenerator[dict[str, Any], None]


async def create(house: House, given: Given) -> Events:
    """A token that does no more than who makes it: in the places where they may make one."""
    name, days = given.text("name"), given.count("days", machine.DEFAULT.days, machine.LONGEST.days)
    try:
        names.name(name)
    except names.InvalidName as error:
        raise Problem("BAD_ARGUMENT", str(error)) from None
    places = given.texts("places") or (EVERYWHERE,)
    scopes = tuple(roles.granted(what, place) for what in given.texts("scopes") for place in places)
    _insist(given.principal, scopes)
    text, presented = machine.made()
    now = house.now()
    maker = await house.store.read(lambda c: people.by_name(c, given.actor))
    token = Token(
        id=presented.id,
        name=name,
        hash=presented.hash,
        person=maker.id if maker else None,
        scopes=scopes,
        created_at=now,
        created_by=given.actor,
        expires_at=machine.expiry(now, days),
    )
    await house.store.write(lambda c: people.add_token(c, token))
    yield {"result": _row(token) | {"token": text, "message": f"{name} ({token.id}) is shown this once: {text}"}}


async def index(house: House, given: Given) -> Events:
    """Those that whoever asks may revoke."""
    found = await house.store.read(people.tokens)
    yield {"result": {"tokens": [_row(each) for each in found if _may(given.principal, each)]}}


async def revoke(house: House, given: Given) -> Events:
    id = given.text("id")
    token = await house.store.read(lambda c: people.token(c, id))
    if token is None or not _may(given.principal, token):
        raise Problem("NO_TOKEN", f"there is no token {id[:40]!r}; `holdfast token list` shows them")
    gone = await house.store.write(lambda c: people.revoke_token(c, id, given.actor, house.now()))
    message = f"{token.name} ({id}) {'is revoked' if gone else 'was revoked already'}"
    yield {"result": {"id": id, "name": token.name, "changed": gone, "message": message}}


def _insist(principal: Principal, scopes: tuple[Granted, ...]) -> None:
    grants = roles.grants(scopes)
    machine.check_scopes(scopes, grants)
    for scope in scopes:
        authorise(principal, Verb.TOKEN_ADMIN, _place(scope))
    for grant in grants:
        if not roles.within(grant, principal.grants):
            raise Problem("FORBIDDEN", f"{principal.actor} has no grant to {grant.verb} in {grant.where} to hand on")


def _may(principal: Principal, token: Token) -> bool:
    return all(principal.may(Verb.TOKEN_ADMIN, _place(scope)) for scope in token.scopes)


def _place(scope: Granted) -> EnvironmentId | None:
    return None if scope.place == EVERYWHERE else EnvironmentId(scope.place)


def _row(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "scopes": [{"what": each.what, "place": each.place} for each in token.scopes],
        "created_at": token.created_at,
        "created_by": token.created_by,
        "expires_at": token.expires_at,
        "used_at": token.used_at,
        "revoked_at": token.revoked_at,
        "revoked_by": token.revoked_by,
    }
