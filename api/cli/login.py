"""`holdfast login` and `logout`: the token for a server, kept for its user alone."""

from __future__ import annotations

import getpass
import sys
from argparse import Namespace

from api import tokens
from api.cli import show
from api.client import Server, exchanged
from api.problem import OK, Problem
from api.settings import Settings


def login(settings: Settings, given: Namespace) -> int:
    server = _server(settings)
    token = _made_by(server, given.user) if given.user else _read()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise Problem("BAD_ARGUMENT", "that is no token: it is printable ASCII without spaces")
    _insist_on_known(server.with_token(token))
    file = tokens.keep(server.url, token)
    print(f"{show.clean(server.url)} knows you; the token is kept in {file}")
    return OK


def logout(settings: Settings, given: Namespace) -> int:
    server = _server(settings)
    found = tokens.forget(server.url)
    print(f"the token for {show.clean(server.url)} is forgotten" if found else "no token was kept for it")
    return OK


def _server(settings: Settings) -> Server:
    if not settings.server:
        raise Problem("BAD_SETTING", "which server is not said; give its address, or set HOLDFAST_SERVER")
    return Server.of(settings)


def _read() -> str:
    return (getpass.getpass("token: ") if sys.stdin.isatty() else sys.stdin.readline()).strip()


def _made_by(server: Server, user: str) -> str:
    password = getpass.getpass(f"password of {user}: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    answer = exchanged(server, "POST", "/api/v1/login", {"user": user, "password": password})
    return str(answer.get("token", ""))


def _insist_on_known(server: Server) -> None:
    """Whoever is known may have no rights yet: that is for others to say."""
    try:
        exchanged(server, "GET", "/api/v1/environments")
    except Problem as problem:
        if problem.code != "FORBIDDEN":
            raise
