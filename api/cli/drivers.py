"""What runtimes are installed: their powers, and what each was proven against. No daemon is needed."""

from __future__ import annotations

from argparse import Namespace
from typing import Any, Final

from api.cli import show
from api.problem import FAILED, OK
from api.settings import Settings

POWERS: Final = ("events", "logs", "adopts", "doctor")


def index(settings: Settings, given: Namespace) -> int:
    from drivers import registry

    rows = [_row(kind) for kind in registry.kinds()]
    if given.output == "json":
        show.as_json({"drivers": rows})
    else:
        _print(rows)
    return FAILED if any(row["problem"] for row in rows) else OK


def _row(kind: str) -> dict[str, Any]:
    from drivers import registry
    from drivers.registry import BrokenDriver

    try:
        found = registry.load(kind)
        origin = registry.origin(kind)
    except BrokenDriver as error:
        return {"kind": kind, "problem": str(error)}
    powers, verified = found.capabilities, registry.verified(found)
    return {
        "kind": kind,
        "origin": origin,
        "unit": powers.unit,
        "events": powers.events,
        "logs": powers.logs,
        "adopts": powers.adopts,
        "doctor": callable(getattr(found, "examine", None)),
        "verified": {"against": verified.against, "by": verified.by} if verified else None,
        "problem": None,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    usable = [row for row in rows if not row["problem"]]
    show.columns(
        ("kind", "changes", "powers", "verified against", "from"),
        (
            (
                show.clean(row["kind"]),
                f"one {row['unit']} at a time" if row["unit"] == "component" else "the target as a whole",
                ", ".join(power for power in POWERS if row[power]) or "-",
                _verified(row["verified"]),
                show.clean(row["origin"]),
            )
            for row in usable
        ),
    )
    for row in rows:
        if row["problem"]:
            print(show.paint(f"{show.clean(row['kind'])}: {show.clean(row['problem'])}", "31"))


def _verified(said: dict[str, str] | None) -> str:
    return "it does not say" if said is None else f"{said['against']}: {show.clean(said['by'])}"
