"""Agents on hosts that nothing can reach, and the authority that issues their certificates."""

from __future__ import annotations

import base64
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any, Final

from api import client
from api.cli import show
from api.problem import FAILED, OK, Problem
from api.settings import Settings

COLOURS: Final = {"online": "32", "degraded": "33", "offline": "31", "locked": "31"}


def invite(settings: Settings, given: Namespace) -> int:
    asked = {"name": given.name, "targets": given.targets, "kinds": given.kinds, "shared": given.shared}
    answer = client.ask(settings, "agent_invite", **asked)
    if given.output == "json":
        show.as_json(answer)
        return OK
    print(answer["token"])
    print(f"{show.clean(answer['message'])}: give it to `{answer['run']}` on the host", file=sys.stderr)
    return OK


def index(settings: Settings, given: Namespace) -> int:
    answer = client.ask(settings, "agents")
    rows = [each for each in answer["agents"] if given.all or each["state"] != "removed"]
    if given.output == "json":
        show.as_json({"agents": rows})
    elif rows:
        show.columns(("agent", "state", "heard", "version", "works with", "queue", "targets"), map(_row, rows))
    else:
        print("No agent is invited yet. `holdfast agent invite NAME --target TARGET --kind docker` prints a token.")
    return OK


def _row(each: dict[str, Any]) -> tuple[object, ...]:
    return (
        show.clean(each["name"]),
        _state(each),
        show.ago(each["heard_at"]) or "never",
        show.brief(each["version"], 20),
        ", ".join(_works_with(each)) or "nothing",
        each["queue"] or "",
        show.brief(", ".join(each["targets"]), 60),
    )


def _state(each: dict[str, Any]) -> str:
    word = each["presence"]
    more = " (draining)" if each["state"] == "draining" else ""
    return show.paint(f"{word}{more}", COLOURS.get(word, "2"))


def _works_with(each: dict[str, Any]) -> list[str]:
    """What is granted, and of that marked what the host has not."""
    known = each["reported"]
    return [show.clean(kind) + ("" if not known or kind in known else " (not there)") for kind in each["granted"]]


def show_one(settings: Settings, given: Namespace) -> int:
    answer = client.ask(settings, "agent", name=given.name)
    if given.output == "json":
        show.as_json(answer)
    else:
        _print(answer)
    return OK if answer["state"] in ("active", "draining") else FAILED


def _print(answer: dict[str, Any]) -> None:
    print(f"{show.clean(answer['name'])}: {_state(answer)}, generation {answer['generation']}")
    for name, value in (
        ("reason", answer["reason"]),
        ("version", answer["version"]),
        ("heard", show.ago(answer["heard_at"]) or "never"),
        ("connected", _connected(answer)),
        ("queue", answer["queue"]),
        ("works with", ", ".join(_works_with(answer)) or "nothing"),
        ("serves", ", ".join(_served(answer)) or "nothing"),
        ("invited", f"{show.ago(answer['invited_at'])} ago by {answer['invited_by']}"),
    ):
        if value not in ("", None):
            print(f"    {name:<12} {show.clean(value)}")
    print()
    show.columns(
        ("generation", "issuer", "ends", "state"),
        (
            (each["generation"], each["issuer"], show.moment(each["not_after"]), _certificate(each))
            for each in answer["certificates"]
        ),
    )


def _connected(answer: dict[str, Any]) -> str:
    return f"to {answer['server']} by {answer['way']} from {answer['peer']}" if answer["way"] else ""


def _served(answer: dict[str, Any]) -> list[str]:
    def said(target: str) -> str:
        if target not in answer["shared"]:
            return target
        return f"{target} ({'holds it' if target in answer['holds'] else 'shared, held by another'})"

    return [said(target) for target in answer["targets"]]


def _certificate(each: dict[str, Any]) -> str:
    if each["revoked_at"]:
        return "revoked"
    return "counts" if each["counts"] else "ended"


def lock(settings: Settings, given: Namespace) -> int:
    return _told(given, client.ask(settings, "agent_lock", name=given.name, reason=given.reason))


def unlock(settings: Settings, given: Namespace) -> int:
    return _told(given, client.ask(settings, "agent_unlock", name=given.name))


def remove(settings: Settings, given: Namespace) -> int:
    return _told(given, client.ask(settings, "agent_remove", name=given.name))


def drain(settings: Settings, given: Namespace) -> int:
    return _told(given, client.ask(settings, "agent_drain", name=given.name, end=given.end))


def grant(settings: Settings, given: Namespace) -> int:
    return _told(given, client.ask(settings, "agent_grant", name=given.name, kinds=given.kinds))


def revoke(settings: Settings, given: Namespace) -> int:
    return _told(given, client.ask(settings, "agent_revoke", name=given.name, kinds=given.kinds))


def bind(settings: Settings, given: Namespace) -> int:
    asked = {"name": given.name, "target": given.target, "shared": given.shared}
    return _told(given, client.ask(settings, "agent_bind", **asked))


def unbind(settings: Settings, given: Namespace) -> int:
    return _told(given, client.ask(settings, "agent_unbind", name=given.name, target=given.target))


def take(settings: Settings, given: Namespace) -> int:
    return _told(given, client.ask(settings, "agent_take", name=given.name, target=given.target))


def hold(settings: Settings, given: Namespace) -> int:
    return _told(given, client.ask(settings, "agent_hold", **{"target": given.target, "for": given.span}))


def run(settings: Settings, given: Namespace) -> int:
    asked = {"target": given.target, "name": given.name, "arguments": given.arguments}
    answer = client.ask(settings, "agent_run", **asked)
    if given.output == "json":
        show.as_json(answer)
    else:
        for line in answer["said"].splitlines():
            print(show.clean(line))
        print(f"{show.clean(answer['name'])}: {show.clean(answer['why'])}", file=sys.stderr)
    return OK if answer["exit_code"] == 0 else FAILED


def upload(settings: Settings, given: Namespace) -> int:
    files = dict(_file(text) for text in given.files)
    answer = client.ask(settings, "agent_upload", target=given.target, name=given.name, files=files)
    if given.output == "json":
        show.as_json(answer)
    else:
        print(f"{len(answer['files'])} files are in {show.clean(answer['name'])} of {show.clean(answer['target'])}")
    return OK


def _file(text: str) -> tuple[str, dict[str, Any]]:
    """`FILE`, or `PATH=FILE` where it is to be called otherwise there."""
    from stickers import digest

    name, _, place = text.rpartition("=")
    try:
        content = Path(place).read_bytes()
    except OSError as error:
        raise Problem("NO_FILE", f"{place}: {error.strerror}") from None
    name = name or Path(place).name
    plain = {"path": name, "content": base64.b64encode(content).decode(), "digest": digest.of_bytes(content)}
    return name, plain


def upgrade(settings: Settings, given: Namespace) -> int:
    asked = {"name": given.name, "artifact": given.artifact, "version": given.version}
    return _told(given, client.ask(settings, "agent_upgrade", **asked))


def inspect(settings: Settings, given: Namespace) -> int:
    answer = client.ask(settings, "agent_inspect", target=given.target)
    if given.output == "json":
        show.as_json(answer)
    elif answer["unseen"]:
        print(f"{show.clean(answer['target'])} cannot be seen by its agent: {show.clean(answer['unseen'])}")
    else:
        told = ("component", "state", "health", "detail", "artifact")
        show.columns(told, (tuple(show.clean(one[name]) for name in told) for one in answer["seen"]))
    return FAILED if answer["unseen"] else OK


def trust(settings: Settings, given: Namespace) -> int:
    answer = client.ask(settings, "agent_trust")
    left = [each for each in answer["agents"] if each["problem"]]
    if given.output == "json":
        show.as_json(answer)
    else:
        for each in left:
            print(f"{show.clean(each['name'])}: {show.clean(each['problem'])}")
        print(f"{len(answer['agents']) - len(left)} of {len(answer['agents'])} agents believe the new key")
    return FAILED if left else OK


def declare_dead(settings: Settings, given: Namespace) -> int:
    return _told(given, client.ask(settings, "agent_declare_dead", name=given.name))


def authority(settings: Settings, given: Namespace) -> int:
    answer = client.ask(settings, "authority")
    if given.output == "json":
        show.as_json(answer)
    else:
        _print_authority(answer)
    return FAILED if answer["due"] else OK


def _print_authority(answer: dict[str, Any]) -> None:
    root = answer["root"]
    where = f"at {answer['directory']}" if root["key_here"] else "kept elsewhere"
    print(f"root {root['id']} ends {show.moment(root['not_after'])}; its private key is {show.clean(where)}")
    print(f"    {root['fingerprint']}")
    show.columns(
        ("issuer", "ends", "agents", "state"),
        ((each["id"], show.moment(each["not_after"]), each["agents"], _standing(each)) for each in answer["issuers"]),
    )
    if answer["due"]:
        print(show.paint("\nThe issuer ends soon: `holdfast authority rotate`.", "33"))


def _standing(each: dict[str, Any]) -> str:
    if each["retired_at"]:
        return f"retired {show.ago(each['retired_at'])} ago"
    return "issues" if each["issues"] else "trusted"


def rotate(settings: Settings, given: Namespace) -> int:
    return _told(given, client.ask(settings, "authority_rotate"))


def retire(settings: Settings, given: Namespace) -> int:
    return _told(given, client.ask(settings, "authority_retire", id=given.id, force=given.force))


def _told(given: Namespace, answer: dict[str, Any]) -> int:
    if given.output == "json":
        show.as_json(answer)
    else:
        print(show.clean(answer["message"]))
    return OK
