"""People, their grants, and tokens of machines."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from api import client
from api.cli import show
from api.problem import OK, Problem
from api.settings import Settings


def whoami(settings: Settings, given: Namespace) -> int:
    answer = client.ask(settings, "whoami")
    if given.output == "json":
        show.as_json(answer)
        return OK
    print(f"{show.clean(answer['actor'])}{'' if answer['natural'] else ' (a machine)'}")
    for place, verbs in sorted(answer["grants"].items()):
        print(f"    {_place(place)}: {', '.join(verbs)}")
    return OK


def add(settings: Settings, given: Namespace) -> int:
    asked = {"name": given.name, "grants": given.grant, "place": given.place, "password": _password(given)}
    return _told(given, client.ask(settings, "user_add", **asked))


def passwd(settings: Settings, given: Namespace) -> int:
    return _told(given, client.ask(settings, "user_password", name=given.name, password=_password(given)))


def grant(settings: Settings, given: Namespace) -> int:
    return _told(given, client.ask(settings, "user_grant", name=given.name, what=given.what, place=given.place))


def revoke(settings: Settings, given: Namespace) -> int:
    return _told(given, client.ask(settings, "user_revoke", name=given.name, what=given.what, place=given.place))


def disable(settings: Settings, given: Namespace) -> int:
    return _told(given, client.ask(settings, "user_disable", name=given.name))


def enable(settings: Settings, given: Namespace) -> int:
    return _told(given, client.ask(settings, "user_enable", name=given.name))


def index(settings: Settings, given: Namespace) -> int:
    answer = client.ask(settings, "users")
    if given.output == "json":
        show.as_json(answer)
        return OK
    rows = [
        (
            show.clean(each["name"]),
            "disabled" if each["disabled_at"] else "",
            show.brief(each["known_by"], 40),
            _granted(each["grants"]),
        )
        for each in answer["users"]
    ]
    rows += [(f"group:{show.clean(name)}", "", "", _granted(granted)) for name, granted in answer["groups"].items()]
    show.columns(("name", "state", "known by", "granted"), rows)
    return OK


def token_create(settings: Settings, given: Namespace) -> int:
    asked = {"name": given.name, "scopes": given.scopes, "places": given.places, "days": given.days}
    answer = client.ask(settings, "token_create", **asked)
    if given.output == "json":
        show.as_json(answer)
        return OK
    print(answer["token"])
    print(f"{answer['name']} ({answer['id']}) ends {show.ago(answer['expires_at'])}; shown this once", file=sys.stderr)
    return OK


def token_index(settings: Settings, given: Namespace) -> int:
    answer = client.ask(settings, "tokens")
    if given.output == "json":
        show.as_json(answer)
        return OK
    rows = (
        (
            each["id"],
            show.clean(each["name"]),
            "revoked" if each["revoked_at"] else show.ago(each["expires_at"]),
            show.ago(each["used_at"]) or "never",
            show.clean(each["created_by"]),
            _granted(each["scopes"]),
        )
        for each in answer["tokens"]
    )
    show.columns(("id", "name", "ends", "used", "made by", "scopes"), rows)
    return OK


def token_revoke(settings: Settings, given: Namespace) -> int:
    return _told(given, client.ask(settings, "token_revoke", id=given.id))


def _told(given: Namespace, answer: dict[str, Any]) -> int:
    if given.output == "json":
        show.as_json(answer)
        return OK
    print(show.clean(answer["message"]))
    if answer.get("password"):
        print(f"password, shown this once: {answer['password']}")
    return OK


def _password(given: Namespace) -> str | None:
    """The first line of the file. A password on the command line would be everybody's who lists processes."""
    file: str | None = given.password_file
    if file is None:
        return None
    try:
        text = sys.stdin.readline() if file == "-" else Path(file).read_text()
    except (OSError, ValueError) as error:
        raise Problem("NO_FILE", f"{file}: {getattr(error, 'strerror', None) or 'no text'}") from None
    lines = text.splitlines()
    if not lines:
        raise Problem("BAD_PASSWORD", f"{file} is empty")
    return lines[0]


def _granted(granted: list[dict[str, str]]) -> str:
    return ", ".join(f"{show.clean(each['what'])} ({_place(each['place'])})" for each in granted) or "nothing"


def _place(place: str) -> str:
    return "everywhere" if place == "*" else show.clean(place)
