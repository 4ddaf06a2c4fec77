"""Machine tokens: `holdfast_<id>_<secret>`. The secret is 256 random bits, shown once and kept as its SHA-256; the
prefix makes a leaked one findable by every scanner."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from api.people.principal import Grant, Verb
from api.problem import Problem
from reconciler.store.people import Granted, Token

DEFAULT: Final = timedelta(days=90)
LONGEST: Final = timedelta(days=366)
FORM: Final = re.compile(r"holdfast_(?P<id>[0-9a-f]{12})_(?P<secret>[A-Za-z0-9_-]{43})")
FORBIDDEN: Final = frozenset({Verb.APPROVE, Verb.ADMIN, Verb.TOKEN_ADMIN})  # what only a person does


@dataclass(frozen=True, slots=True)
class Presented:
    """A token as a request carries it."""

    id: str
    hash: str


def made() -> tuple[str, Presented]:
    """A new one: its text, to be shown once, and what is kept of it."""
    id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    return f"holdfast_{id}_{secret}", Presented(id, _hash(secret))


def presented(text: str) -> Presented | None:
    """What the text says it is; None when it is no token at all."""
    found = FORM.fullmatch(text)
    return None if found is None else Presented(found["id"], _hash(found["secret"]))


def is_in_force(token: Token, by: Presented, now: datetime) -> bool:
    fits = hmac.compare_digest(token.hash, by.hash)
    return fits and token.revoked_at is None and now < token.expires_at


def actor(token: Token) -> str:
    return f"token {token.name} ({token.id})"


def expiry(now: datetime, days: int | None) -> datetime:
    wanted = DEFAULT if days is None else timedelta(days=days)
    if not timedelta() < wanted <= LONGEST:
        raise Problem("BAD_ARGUMENT", f"a token lives from 1 to {LONGEST.days} days, not {days}")
    return now + wanted


def check_scopes(scopes: tuple[Granted, ...], grants: tuple[Grant, ...]) -> None:
    """A token does what is done by machines, and names it."""
    if not scopes:
        raise Problem("BAD_ARGUMENT", "a token without a scope could do nothing; name a role or verbs")
    for grant in grants:
        if grant.verb in FORBIDDEN:
            raise Problem("BAD_ARGUMENT", f"a token cannot be given {grant.verb}: that is done by a person")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
