"""Who asks: known by a machine's token, or by the session of a person. Nobody else is let in.

A request with an `Authorization` header is judged by it alone, whatever cookies it carries: a machine's token, or the
session that a person began at the command line. A session in a cookie changes nothing unless the browser says that our
own page asks, and the page knows the session's token (header `X-CSRF-Token`, or the field `csrf_token` of a form);
pages find it in `request.state.csrf`.
"""

from __future__ import annotations

import hmac
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

import structlog
from sqlalchemy import Connection
from starlette.requests import Request

from api.house import House
from api.people import cookies, machine, oidc, passwords, peers, roles
from api.people.limits import Limit, network
from api.people.oidc import Identity
from api.people.peers import Peer
from api.people.principal import Principal
from api.problem import Problem
from reconciler.store import people
from reconciler.store.errors import StoreError
from reconciler.store.people import Granted, Person, Session, Token

T = TypeVar("T")

IDLE: Final = timedelta(minutes=30)
ABSOLUTE: Final = timedelta(hours=12)
FORM: Final = "application/x-www-form-urlencoded"
WRONG: Final = "name or password is wrong"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How often who knows no right answer may guess: from one network, and at one account."""

    peer: Limit
    account: Limit
    token: Limit


def default_limits() -> Limits:
    return Limits(peer=Limit(20, 60), account=Limit(20, 600), token=Limit(600, 60))


@dataclass(frozen=True, slots=True)
class _Begun:
    """A session as its request is judged by it."""

    secret: str
    session: Session
    person: Person
    granted: tuple[Granted, ...]


class Doorkeeper:
    """One for each process: it counts what was tried. Its provider's connections are let go of by `aclose`."""

    def __init__(self, house: House, limits: Limits | None = None) -> None:
        self._house, self._limits = house, limits or default_limits()
        self._trusted = peers.networks(filter(None, map(str.strip, house.settings.trusted_proxies.split(","))))
        client = oidc.client(house.settings)
        self.provider = None if client is None else oidc.Provider(client, house.now)

    async def aclose(self) -> None:
        if self.provider is not None:
            await self.provider.aclose()

    def peer(self, request: Request) -> Peer:
        return peers.peer(request, self._trusted)

    async def principal(self, request: Request) -> Principal:
        """Who asks; `UNAUTHENTICATED`, `FORBIDDEN` or `TOO_MANY_REQUESTS` for nobody we know, or not like this."""
        peer = self.peer(request)
        said = request.headers.get("authorization")
        if said is not None:
            return await self._machine(said, peer)
        secret = cookies.read(request, peer)
        if secret is None:
            raise Problem("UNAUTHENTICATED", "log in, or send a token: Authorization: Bearer holdfast_…")
        return await self._browser(request, secret)

    # -- machines -----------------------------------------------------------------------------------------------------

    async def _machine(self, said: str, peer: Peer) -> Principal:
        self._let(self._limits.token, network(peer.address))
        scheme, _, text = said.partition(" ")
        if scheme.lower() == "bearer" and (begun := await self._begun_at_a_terminal(text.strip())) is not None:
            return await self._person(begun)
        presented = machine.presented(text.strip()) if scheme.lower() == "bearer" else None
        found = await self._read(lambda c: _by_token(c, presented)) if presented else None
        if presented is None or found is None or not self._is_in_force(*found, presented):
            self._limits.token.count(network(peer.address))
            raise Problem("UNAUTHENTICATED", "the token is unknown, has expired or was revoked")
        token, person, granted = found
        now = self._house.now()
        if token.used_at is None or now - token.used_at >= people.USED_EVERY:
            await self._write(lambda c: people.token_used(c, token.id, now))
        grants = roles.grants(token.scopes)
        if person is not None:  # a token does no more than who made it may do by now
            makers = roles.grants(granted)
            grants = tuple(grant for grant in grants if roles.within(grant, makers))
        return Principal(actor=machine.actor(token), grants=grants)

    def _is_in_force(
        self, token: Token, person: Person | None, granted: tuple[Granted, ...], presented: machine.Presented
    ) -> bool:
        made_by_somebody = token.person is None or (person is not None and person.disabled_at is None)
        return machine.is_in_force(token, presented, self._house.now()) and made_by_somebody

    # -- browsers -----------------------------------------------------------------------------------------------------

    async def _browser(self, request: Request, secret: str) -> Principal:
        begun = await self._begun(secret)
        if begun is None:
            raise Problem("UNAUTHENTICATED", "the session has ended; log in again")
        request.state.csrf, request.state.session = cookies.csrf(secret), begun.session.hash
        if request.method not in peers.SAFE:
            peers.insist_on_own_origin(request, self._house.settings.public_url)
            await _insist_on_token(request, secret)
        return await self._person(begun)

    async def _person(self, begun: _Begun) -> Principal:
        now = self._house.now()
        if now - begun.session.seen_at >= people.SEEN_EVERY:
            await self._write(lambda c: people.seen(c, begun.session.hash, now))
        return Principal(actor=begun.person.name, grants=roles.grants(begun.granted), natural=True)

    async def _begun_at_a_terminal(self, text: str) -> _Begun | None:
        found = cookies.AT_A_TERMINAL.fullmatch(text)
        return None if found is None else await self._begun(found["secret"])

    async def _begun(self, secret: str) -> _Begun | None:
        """The session, unless it has ended in any of the ways in which one ends."""
        begun = await self._read(lambda c: _by_session(c, secret))
        now = self._house.now()
        if begun is None or begun.person.disabled_at is not None:
            return None
        over = now >= begun.session.ends_at or now - begun.session.seen_at >= IDLE
        return None if over else begun

    # -- logging in and out -------------------------------------------------------------------------------------------

    async def log_in(self, request: Request, name: str, password: str) -> str:
        """The secret of a new session. Whoever is unknown, disabled or wrong gets one answer, after the same time."""
        cookies.insist_on_a_place_for_sessions(self.peer(request))
        self._insist_on_nobody_elses_page(request)
        person = await self._person_with(request, name, password)
        harder = await passwords.encoded(password) if passwords.outdated(person.password or "") else None
        secret = await self._write(lambda c: self._logged_in(c, request, person, harder))
        if secret is None:
            raise Problem("UNAUTHENTICATED", WRONG)
        return secret

    async def _person_with(self, request: Request, name: str, password: str) -> Person:
        """Whose name and password these are. Tries are counted before the answer is known: many at once are many."""
        address = self.peer(request).address
        keys = (self._limits.peer, network(address)), (self._limits.account, name[:100])
        for limit, key in keys:
            self._let(limit, key)
        for limit, key in keys:
            limit.count(key)
        person = await self._read(lambda c: people.by_name(c, name))
        fits = await passwords.fits(password, person.password if person else None)
        if person is None or not fits or person.disabled_at is not None:
            log.warning("login_refused", peer=address, known=person is not None)
            raise Problem("UNAUTHENTICATED", WRONG)
        for limit, key in keys:
            limit.forgive(key)
        return person

    async def change_password(self, request: Request, principal: Principal, old: str, new: str) -> None:
        """A person's own, for who knows the old one; they are logged out everywhere, here too."""
        if not principal.natural:
            raise Problem("FORBIDDEN", "a machine has no password")
        cookies.insist_on_a_place_for_sessions(self.peer(request))
        passwords.check(new)
        person = await self._person_with(request, principal.actor, old)
        encoded = await passwords.encoded(new)
        await self._write(lambda c: people.set_password(c, person.id, encoded, principal.actor, self._house.now()))

    def _logged_in(self, c: Connection, request: Request, person: Person, harder: str | None) -> str | None:
        fresh = people.by_id(c, person.id)
        if fresh is None or fresh.disabled_at is not None or fresh.password != person.password:
            return None  # changed while the password was looked at
        if harder is not None:
            people.rehash(c, person.id, person.password or "", harder)
        return self._begin(c, request, person, "password")

    async def log_in_by(self, request: Request, identity: Identity) -> str:
        """The secret of a new session for whom the provider vouches; `FORBIDDEN` when nothing is granted to them."""
        cookies.insist_on_a_place_for_sessions(self.peer(request))
        secret = await self._write(lambda c: self._vouched(c, request, identity))
        if secret is None:
            log.warning("login_refused", peer=self.peer(request).address, subject=identity.subject[:80])
            raise Problem("FORBIDDEN", f"{identity.name} is in no group that anything is granted to, or is disabled")
        return secret

    def _vouched(self, c: Connection, request: Request, identity: Identity) -> str | None:
        now = self._house.now()
        person = people.by_identity(c, identity.issuer, identity.subject)
        if person is not None:
            person = people.set_groups(c, person, identity.groups, now)
        else:
            person = _newcomer(c, identity, now)
        granted = people.grants(c, person.holders)
        if not identity.groups or not roles.grants(granted) or person.disabled_at is not None:
            return None
        if people.by_id(c, person.id) is None:
            people.add(c, person)
        return self._begin(c, request, person, "oidc")

    def _begin(self, c: Connection, request: Request, person: Person, how: str) -> str:
        """A session under a new secret; the one that the browser had ends."""
        now, secret = self._house.now(), cookies.made()
        former = cookies.read(request, self.peer(request))
        if former is not None:
            people.end(c, cookies.kept(former), person.name, now)
        begun = Session(hash=cookies.kept(secret), person=person.id, begun_at=now, seen_at=now, ends_at=now + ABSOLUTE)
        people.begin(c, begun, person.name, how)
        return secret

    async def log_out(self, request: Request, actor: str) -> None:
        """End the session that the request was let in by; a token's request has none."""
        hash, now = getattr(request.state, "session", None), self._house.now()
        if hash is not None:
            await self._write(lambda c: people.end(c, hash, actor, now))

    def _insist_on_nobody_elses_page(self, request: Request) -> None:
        """Nobody is logged in by another site as somebody else. A client that is no browser says nothing of pages."""
        if not peers.is_own_origin(request, self._house.settings.public_url):
            raise Problem("FORBIDDEN", "another site tried to log you in")

    def _let(self, limit: Limit, key: str) -> None:
        wait = limit.wait(key)
        if wait > 0:
            raise Problem("TOO_MANY_REQUESTS", "too many tries; wait", retry_after=math.ceil(wait))

    # -- the store ----------------------------------------------------------------------------------------------------

    async def _read(self, query: Callable[[Connection], T]) -> T:
        try:
            return await self._house.store.read(query)
        except StoreError as error:
            raise Problem(error.code, str(error)) from None

    async def _write(self, query: Callable[[Connection], T]) -> T:
        try:
            return await self._house.store.write(query)
        except StoreError as error:
            raise Problem(error.code, str(error)) from None


def _by_token(c: Connection, presented: machine.Presented) -> tuple[Token, Person | None, tuple[Granted, ...]] | None:
    token = people.token(c, presented.id)
    if token is None:
        return None
    person = people.by_id(c, token.person) if token.person else None
    return token, person, people.grants(c, person.holders) if person else ()


def _by_session(c: Connection, secret: str) -> _Begun | None:
    session = people.session(c, cookies.kept(secret))
    person = people.by_id(c, session.person) if session else None
    if session is None or person is None:
        return None
    return _Begun(secret, session, person, people.grants(c, person.holders))


def _newcomer(c: Connection, identity: Identity, now: Any) -> Person:
    """Somebody the provider vouches for and who never was here. Two who are called alike are told apart."""
    id = secrets.token_hex(6)
    name = identity.name if people.by_name(c, identity.name) is None else f"{identity.name}-{id}"
    return Person(
        id=id,
        name=name,
        issuer=identity.issuer,
        subject=identity.subject,
        groups=identity.groups,
        created_at=now,
        created_by="holdfast",
    )


async def _insist_on_token(request: Request, secret: str) -> None:
    said = request.headers.get(cookies.CSRF_HEADER)
    if said is None and request.headers.get("content-type", "").partition(";")[0].strip().lower() == FORM:
        await request.body()  # kept, so that the route can read it too
        field = (await request.form()).get(cookies.CSRF_FIELD)
        said = field if isinstance(field, str) else None
    if said is None or not hmac.compare_digest(said.encode(), cookies.csrf(secret).encode()):
        raise Problem("FORBIDDEN", f"the session's token is missing: send it as {cookies.CSRF_HEADER}")
