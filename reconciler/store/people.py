"""People, what they are granted, their tokens and their sessions. Every change writes its line into the audit log of
the installation, in the same transaction.

Sessions of a person end with a change of password, of grants or of groups, and when the person is disabled. Secrets are
here as hashes alone. What a grant means is decided elsewhere: here it is a word and a place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, bindparam, delete, select, update

from reconciler.store import audit
from reconciler.store.errors import Missing, StoreError
from reconciler.store.statements import insert
from reconciler.store.tables import granted as granted_table
from reconciler.store.tables import person as table
from reconciler.store.tables import session as session_table
from reconciler.store.tables import token as token_table

SEEN_EVERY: Final = timedelta(minutes=1)  # a session's last use is written this often
USED_EVERY: Final = timedelta(hours=1)  # a token's
GROUP: Final = "group:"


class NameTaken(StoreError):
    code = "NAME_TAKEN"


class Granted(NamedTuple):
    """A word (a role or a verb) and the place where it counts."""

    what: str
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Known by a password, or by what a provider calls them (`issuer`, `subject`) with the groups it said last."""

    id: str
    name: str
    password: str | None = None
    issuer: str | None = None
    subject: str | None = None
    groups: tuple[str, ...] = ()
    created_at: datetime
    created_by: str
    disabled_at: datetime | None = None

    @property
    def holders(self) -> tuple[str, ...]:
        """Under which names grants are kept that this person has."""
        return (self.id, *(GROUP + group for group in self.groups))


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A machine's right. `person` is who made it, when that was a person known here: it ends with them."""

    id: str
    name: str
    hash: str
    person: str | None
    scopes: tuple[Granted, ...]
    created_at: datetime
    created_by: str
    expires_at: datetime
    used_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One login of one browser. `ends_at` is its end however much it is used."""

    hash: str
    person: str
    begun_at: datetime
    seen_at: datetime
    ends_at: datetime


# -- people -----------------------------------------------------------------------------------------------------------


def add(c: Connection, person: Person) -> Person:
    """Somebody new; `NameTaken` when the name is somebody else's."""
    if not _inserted(c, person):
        raise NameTaken(f"there is a user {person.name} already")
    said = {"name": person.name, "issuer": person.issuer}
    _told(c, person.created_by, "user.added", person.name, said, person.created_at)
    return person


def add_first(c: Connection, person: Person, granted: Iterable[Granted]) -> bool:
    """The first of all, with grants; False, and nothing is written, where there is anybody."""
    if c.execute(select(table.c.id).limit(1)).first() is not None or not _inserted(c, person):
        return False
    _told(c, person.created_by, "user.added", person.name, {"name": person.name, "issuer": None}, person.created_at)
    for each in granted:
        grant(c, person.id, person.name, each, person.created_by, person.created_at)
    return True


def all(c: Connection) -> tuple[Person, ...]:
    return tuple(_person(row) for row in c.execute(select(table).order_by(table.c.name)))


def by_name(c: Connection, name: str) -> Person | None:
    return _one(c, table.c.name == name)


def by_id(c: Connection, id: str) -> Person | None:
    row = c.execute(_PERSON, {"id_is": id}).first()
    return None if row is None else _person(row)


def by_identity(c: Connection, issuer: str, subject: str) -> Person | None:
    return _one(c, (table.c.issuer == issuer) & (table.c.subject == subject))


def set_password(c: Connection, id: str, encoded: str, actor: str, now: datetime) -> None:
    """Another password; nobody stays logged in by the former."""
    person = _changed(c, id, {"password": encoded})
    end_sessions(c, id)
    _told(c, actor, "user.password", person.name, {}, now)


def rehash(c: Connection, id: str, former: str, encoded: str) -> None:
    """The same password, kept under harder parameters; unless it has been changed since."""
    c.execute(update(table).where(table.c.id == id, table.c.password == former).values(password=encoded))


def set_groups(c: Connection, person: Person, groups: tuple[str, ...], now: datetime) -> Person:
    """What the provider says by now. When it says otherwise, sessions begun under the former groups end."""
    if groups == person.groups:
        return person
    changed = _changed(c, person.id, {"groups": list(groups)})
    end_sessions(c, person.id)
    _told(c, audit.HOLDFAST, "user.groups", person.name, {"groups": groups, "before": person.groups}, now)
    return changed


def disable(c: Connection, id: str, actor: str, now: datetime) -> Person:
    """No login, no session and no token of this person counts any more."""
    person = _changed(c, id, {"disabled_at": now})
    end_sessions(c, id)
    _told(c, actor, "user.disabled", person.name, {}, now)
    return person


def enable(c: Connection, id: str, actor: str, now: datetime) -> Person:
    person = _changed(c, id, {"disabled_at": None})
    _told(c, actor, "user.enabled", person.name, {}, now)
    return person


# -- grants -----------------------------------------------------------------------------------------------------------


def grant(c: Connection, holder: str, name: str, what: Granted, actor: str, now: datetime) -> bool:
    """Whether it is new. `holder` is a person's id or `group:NAME`, `name` what people call it."""
    row = {"holder": holder, "what": what.what, "place": what.place, "granted_at": now, "granted_by": actor}
    offered = insert(c, granted_table).values(row).on_conflict_do_nothing().returning(granted_table.c.holder)
    if c.execute(offered).first() is None:
        return False
    _end_of(c, holder)
    _told(c, actor, "grant.given", name, what._asdict(), now)
    return True


def revoke(c: Connection, holder: str, name: str, what: Granted, actor: str, now: datetime) -> bool:
    """Whether there was such a grant."""
    here = (granted_table.c.holder == holder, granted_table.c.what == what.what, granted_table.c.place == what.place)
    if c.execute(delete(granted_table).where(*here).returning(granted_table.c.holder)).first() is None:
        return False
    _end_of(c, holder)
    _told(c, actor, "grant.taken", name, what._asdict(), now)
    return True


def grants(c: Connection, holders: Iterable[str]) -> tuple[Granted, ...]:
    return tuple(Granted(what, place) for what, place in c.execute(_GRANTED, {"holders": list(holders)}))


def granted_to(c: Connection) -> Mapping[str, tuple[Granted, ...]]:
    """Everything that is granted, by holder."""
    found: dict[str, tuple[Granted, ...]] = {}
    ordered = select(granted_table).order_by(granted_table.c.holder, granted_table.c.what, granted_table.c.place)
    for row in c.execute(ordered):
        found[row.holder] = (*found.get(row.holder, ()), Granted(row.what, row.place))
    return found


# -- tokens -----------------------------------------------------------------------------------------------------------


def add_token(c: Connection, token: Token) -> None:
    row = {name: getattr(token, name) for name in Token.__slots__} | {"scopes": [list(each) for each in token.scopes]}
    c.execute(insert(c, token_table).values(row))
    said = {"name": token.name, "scopes": [list(each) for each in token.scopes], "expires_at": token.expires_at}
    _told(c, token.created_by, "token.created", token.id, said, token.created_at)


def token(c: Connection, id: str) -> Token | None:
    row = c.execute(_TOKEN, {"id_is": id}).first()
    return None if row is None else _token(row)


def tokens(c: Connection) -> tuple[Token, ...]:
    """Newest first; the ended are among them."""
    ordered = select(token_table).order_by(token_table.c.created_at.desc(), token_table.c.id)
    return tuple(_token(row) for row in c.execute(ordered))


def revoke_token(c: Connection, id: str, actor: str, now: datetime) -> bool:
    """Whether it was in force until now. `Missing` when there is no such token."""
    revoked = update(token_table).where(token_table.c.id == id, token_table.c.revoked_at.is_(None))
    if c.execute(revoked.values(revoked_at=now, revoked_by=actor).returning(token_table.c.id)).first() is None:
        if token(c, id) is None:
            raise Missing(f"there is no token {id}")
        return False
    _told(c, actor, "token.revoked", id, {}, now)
    return True


def token_used(c: Connection, id: str, now: datetime) -> None:
    c.execute(update(token_table).where(token_table.c.id == id).values(used_at=now))


# -- sessions ---------------------------------------------------------------------------------------------------------


def begin(c: Connection, session: Session, name: str, how: str) -> None:
    """A login. What ended long ago is swept out with it."""
    c.execute(delete(session_table).where(session_table.c.ends_at < session.begun_at))
    c.execute(insert(c, session_table).values({name: getattr(session, name) for name in Session.__slots__}))
    _told(c, name, "user.logged_in", name, {"by": how}, session.begun_at)


def session(c: Connection, hash: str) -> Session | None:
    row = c.execute(_SESSION, {"hash_is": hash}).first()
    return None if row is None else Session(**row._mapping)


def seen(c: Connection, hash: str, now: datetime) -> None:
    c.execute(update(session_table).where(session_table.c.hash == hash).values(seen_at=now))


def end(c: Connection, hash: str, name: str, now: datetime) -> None:
    """A logout."""
    ended = delete(session_table).where(session_table.c.hash == hash).returning(session_table.c.hash)
    if c.execute(ended).first() is not None:
        _told(c, name, "user.logged_out", name, {}, now)


def end_sessions(c: Connection, id: str) -> None:
    c.execute(delete(session_table).where(session_table.c.person == id))


def _end_of(c: Connection, holder: str) -> None:
    """Sessions under a grant that has changed: of the person, or of everybody in the group."""
    if not holder.startswith(GROUP):
        end_sessions(c, holder)
        return
    group = holder.removeprefix(GROUP)
    for each in all(c):
        if group in each.groups:
            end_sessions(c, each.id)


# -- rows -------------------------------------------------------------------------------------------------------------


def _inserted(c: Connection, person: Person) -> bool:
    row = {name: getattr(person, name) for name in Person.__slots__} | {"groups": list(person.groups)}
    offered = insert(c, table).values(row).on_conflict_do_nothing().returning(table.c.id)
    return c.execute(offered).first() is not None


def _one(c: Connection, which: Any) -> Person | None:
    row = c.execute(select(table).where(which)).first()
    return None if row is None else _person(row)


def _changed(c: Connection, id: str, values: Mapping[str, Any]) -> Person:
    row = c.execute(update(table).where(table.c.id == id).values(values).returning(*table.c)).first()
    if row is None:
        raise Missing(f"there is no user {id}")
    return _person(row)


def _told(c: Connection, actor: str, action: str, subject: str, detail: Mapping[str, object], now: datetime) -> None:
    audit.append(c, environment=None, actor=actor, action=action, subject=subject, detail=detail, now=now)


def _person(row: Row[Any]) -> Person:
    return Person(**{**row._mapping, "groups": tuple(row.groups)})


def _token(row: Row[Any]) -> Token:
    return Token(**{**row._mapping, "scopes": tuple(Granted(*each) for each in row.scopes)})


# -- what every request asks for, built once: building a statement takes longer than carrying it out -------------------

_PERSON: Final = select(table).where(table.c.id == bindparam("id_is"))
_TOKEN: Final = select(token_table).where(token_table.c.id == bindparam("id_is"))
_SESSION: Final = select(session_table).where(session_table.c.hash == bindparam("hash_is"))
_GRANTED: Final = (
    select(granted_table.c.what, granted_table.c.place)
    .where(granted_table.c.holder.in_(bindparam("holders", expanding=True)))
    .order_by(granted_table.c.what, granted_table.c.place)
)
