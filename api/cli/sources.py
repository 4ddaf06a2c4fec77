"""`holdfast source`: where documents come from, how old what is known of them is, and what is wrong."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from api.cli import show
from api.client import ask
from api.problem import FAILED, OK
from api.settings import Settings


def index(settings: Settings, given: Namespace) -> int:
    answer = ask(settings, "sources")
    if given.output == "json":
        show.as_json(answer)
    else:
        _table(answer["sources"])
    return FAILED if any(row["fault"] or row["stale"] for row in answer["sources"]) else OK


def show_one(settings: Settings, given: Namespace) -> int:
    return _shown(given, ask(settings, "source", source=given.source))


def refresh(settings: Settings, given: Namespace) -> int:
    return _shown(given, ask(settings, "refresh", source=given.source, allow=given.allow))


def _table(rows: list[dict[str, Any]]) -> None:
    show.columns(
        ("source", "type", "revision", "read", "environments", "state"),
        (
            (
                show.clean(row["name"]),
                row["type"],
                show.clean(_revision(row)),
                show.ago(row["read_at"]) or "never",
                len(row["environments"]),
                _state(row),
            )
            for row in rows
        ),
    )


def _revision(row: dict[str, Any]) -> str:
    return show.short(row["revision"]) if row["revision"] else "none"


def _state(row: dict[str, Any]) -> str:
    if row["fault"]:
        return show.paint(f"{row['fault']['code']}: {show.brief(row['fault']['message'])}", "31")
    return show.paint("stale", "33") if row["stale"] else show.paint("taken", "32")


def _shown(given: Namespace, row: dict[str, Any]) -> int:
    if given.output == "json":
        show.as_json(row)
    else:
        _whole(row)
    return FAILED if row["fault"] or row["stale"] else OK


def _whole(row: dict[str, Any]) -> None:
    print(f"{show.clean(row['name'])}: {row['type']}, {show.clean(row['where'])}")
    print(f"  accepted      {show.clean(row['revision']) or 'nothing yet'}  {show.moment(row['accepted_at'])}")
    if row["signer"]:
        print(f"  signed by     {show.clean(row['signer'])}")
    limit = f", more than {row['limit']:g} s is an alarm" if row["stale"] else ""
    print(f"  last read     {show.ago(row['read_at']) or 'never'}{limit}")
    print(f"  environments  {show.clean(', '.join(row['environments'])) or 'none'}")
    if fault := row["fault"]:
        print(show.paint(f"  {fault['code']}: {show.clean(fault['message'])}", "31"))
        if fault["revision"]:
            print(f"  refused is    {show.clean(fault['revision'])}")
        print("  The last accepted state stays in force.")
