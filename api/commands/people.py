"""Commands about people: who there is, what they are granted, and who asks."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection

from api.commands.given import Given
from api.house import House
from api.people import passwords, roles
from api.people.principal import EVERYWHERE, Verb, authorise
from api.problem import Problem
from reconciler.store import people
from reconciler.store.people import GROUP, Granted, Person
from stickers.names import EnvironmentId

Events = AsyncGenerator[dict[str, Any], None]

NAME: Final = re.compile(r"[a-z][a-z0-9._-]{0,62}")
RESERVED: Final = frozenset({"holdfast", "nobody", "root"})


async def whoami(house: House, given: Given) -> Events:
    yield {"result": roles.described(given.principal)}


async def index(house: House, given: Given) -> Events:
    """Everybody, and the groups that anything is granted to."""
    everybody = await house.store.read(people.all)
    granted = await house.store.read(people.granted_to)
    groups = {holder.removeprefix(GROUP): _said(what) for holder, what in granted.items() if holder.startswith(GROUP)}
    yield {"result": {"users": [_row(each, granted.get(each.id, ())) for each in everybody], "groups": groups}}


async def add(house: House, given: Given) -> Events:
    """A person with a password of their own, or a random one that the answer tells, this once."""
    name, chosen = given.text("name"), given.text_or_none("password")
    if not NAME.fullmatch(name) or name in RESERVED:
        raise Problem("BAD_ARGUMENT", f"{name[:64]!r} is no name; expected a-z, 0-9, . _ -, first a letter, at most 63")
    granted = [roles.granted(what, given.text_or_none("place") or EVERYWHERE) for what in given.texts("grants")]
    password = _chosen(chosen)
    person = Person(
        id=secrets.token_hex(6),
        name=name,
        password=await passwords.encoded(password),
        created_at=house.now(),
        created_by=given.actor,
    )

    def written(c: Connection) -> None:
        people.add(c, person)
        for each in granted:
            people.grant(c, person.id, name, each, given.actor, house.now())

    await house.store.write(written)
    told = None if chosen is not None else password
    yield {"result": _row(person, tuple(granted)) | {"password": told, "message": f"{name} is added"}}


async def password(house: House, given: Given) -> Events:
    person, chosen = await _found(house, given.text("name")), given.text_or_none("password")
    if person.password is None:
        raise Problem("BAD_ARGUMENT", f"{person.name} logs in at {person.issuer}; the password is kept there")
    text = _chosen(chosen)
    encoded = await passwords.encoded(text)
    await house.store.write(lambda c: people.set_password(c, person.id, encoded, given.actor, house.now()))
    told = None if chosen is not None else text
    message = f"{person.name} has a new password, and is logged out everywhere"
    yield {"result": {"name": person.name, "password": told, "message": message}}


async def disable(house: House, given: Given) -> Events:
    person = await _found(house, given.text("name"))
    await house.store.write(lambda c: people.disable(c, person.id, given.actor, house.now()))
    message = f"{person.name} is disabled and logged out everywhere; their tokens count no more"
    yield {"result": {"name": person.name, "message": message}}


async def enable(house: House, given: Given) -> Events:
    person = await _found(house, given.text("name"))
    await house.store.write(lambda c: people.enable(c, person.id, given.actor, house.now()))
    yield {"result": {"name": person.name, "message": f"{person.name} is enabled"}}


async def grant(house: House, given: Given) -> Events:
    asked = await _asked(house, given)
    new = await house.store.write(
        lambda c: people.grant(c, asked.holder, asked.name, asked.granted, given.actor, house.now())
    )
    did = "has" if new else "had already"
    yield {"result": _grant_row(asked, new, f"{asked.name} {did} {_text(asked.granted)}")}


async def revoke(house: House, given: Given) -> Events:
    asked = await _asked(house, given)
    gone = await house.store.write(
        lambda c: people.revoke(c, asked.holder, asked.name, asked.granted, given.actor, house.now())
    )
    did = "has no more" if gone else "never had"
    yield {"result": _grant_row(asked, gone, f"{asked.name} {did} {_text(asked.granted)}")}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A grant to be given or taken: whose, and which."""

    holder: str
    name: str
    granted: Granted


async def _asked(house: House, given: Given) -> _Asked:
    """Granting at a place asks for the verb `admin` there: whoever has it in one project grants in that project."""
    granted = roles.granted(given.text("what"), given.text_or_none("place") or EVERYWHERE)
    authorise(given.principal, Verb.ADMIN, None if granted.place == EVERYWHERE else EnvironmentId(granted.place))
    name = given.text("name")
    if name.startswith(GROUP):
        if not 0 < len(name.removeprefix(GROUP)) <= 200:
            raise Problem("BAD_ARGUMENT", "a group has a name of 1 to 200 characters: group:platform")
        return _Asked(holder=name, name=name, granted=granted)
    person = await _found(house, name)
    return _Asked(holder=person.id, name=person.name, granted=granted)


async def _found(house: House, name: str) -> Person:
    person = await house.store.read(lambda c: people.by_name(c, name))
    if person is None:
        raise Problem("NO_USER", f"there is no user {name[:64]!r}; `holdfast user list` shows them")
    return person


def _chosen(password: str | None) -> str:
    if password is None:
        return passwords.made()
    passwords.check(password)
    return password


def _row(person: Person, granted: tuple[Granted, ...]) -> dict[str, Any]:
    return {
        "name": person.name,
        "known_by": "password" if person.issuer is None else person.issuer,
        "groups": list(person.groups),
        "grants": _said(granted),
        "disabled_at": person.disabled_at,
        "created_at": person.created_at,
        "created_by": person.created_by,
    }


def _said(granted: tuple[Granted, ...]) -> list[dict[str, str]]:
    return [{"what": each.what, "place": each.place} for each in granted]


def _grant_row(asked: _Asked, changed: bool, message: str) -> dict[str, Any]:
    return {"name": asked.name, **asked.granted._asdict(), "changed": changed, "message": message}


def _text(granted: Granted) -> str:
    return f"{granted.what} {'everywhere' if granted.place == EVERYWHERE else f'in {granted.place}'}"
