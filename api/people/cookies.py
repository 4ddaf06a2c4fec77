"""The session's cookie, and the token that a page has to repeat with every change.

Over TLS the cookie is called `__Host-holdfast`: browsers send it to this host alone, over TLS alone, and let no other
host set it. Over plain HTTP some browsers refuse that name, so there the cookie is `holdfast_here`, and sessions are
begun and believed only where browser and server are the same machine; everywhere else plain HTTP is refused.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from api.people.peers import Peer
from api.problem import Problem

OVER_TLS: Final = "__Host-holdfast"
HERE: Final = "holdfast_here"
LOGIN: Final = "login"  # suffix of the cookie that remembers a login under way at a provider
LOGIN_SECONDS: Final = 600
CSRF_HEADER: Final = "x-csrf-token"
CSRF_FIELD: Final = "csrf_token"
AT_A_TERMINAL: Final = re.compile(r"holdfast_session_(?P<secret>[A-Za-z0-9_-]{43})")  # as the command line sends one
_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{43}")


def made() -> str:
    """A new secret of 256 bits."""
    return secrets.token_urlsafe(32)


def kept(secret: str) -> str:
    """What is kept of it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def derived(secret: str, purpose: str) -> str:
    """Another secret, which tells nothing of the first."""
    found = hmac.digest(secret.encode(), f"holdfast {purpose}".encode(), "sha256")
    return base64.urlsafe_b64encode(found).rstrip(b"=").decode()


def csrf(secret: str) -> str:
    return derived(secret, "csrf")


def insist_on_a_place_for_sessions(peer: Peer) -> None:
    if not peer.secure and not peer.loopback:
        raise Problem(
            "TLS_REQUIRED", "sessions need TLS: a password or a cookie sent over plain HTTP is everybody's on the way"
        )


def name(peer: Peer, suffix: str = "") -> str:
    """As the cookie is called for this peer."""
    return (OVER_TLS if peer.secure else HERE) + (f"_{suffix}" if suffix else "")


def read(request: Request, peer: Peer, suffix: str = "") -> str | None:
    """The secret that the browser sent; none where sessions have no place, and none that cannot be ours."""
    found = request.cookies.get(name(peer, suffix)) if peer.secure or peer.loopback else None
    return found if found is not None and _SECRET.fullmatch(found) else None


def put(response: Response, peer: Peer, secret: str) -> None:
    response.set_cookie(name(peer), secret, path="/", secure=peer.secure, httponly=True, samesite="strict")


def put_login(response: Response, peer: Peer, secret: str) -> None:
    """Lax, since the provider sends the browser back from another site."""
    response.set_cookie(
        name(peer, LOGIN),
        secret,
        max_age=LOGIN_SECONDS,
        path="/",
        secure=peer.secure,
        httponly=True,
        samesite="lax",
    )


def take(response: Response, peer: Peer, suffix: str = "") -> None:
    response.delete_cookie(name(peer, suffix), path="/", secure=peer.secure, httponly=True)
