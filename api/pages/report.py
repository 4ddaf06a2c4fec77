"""The drift report apart from any page: as CSV for a spreadsheet, and as one HTML file that can be mailed. Nothing in
either can be run by whatever opens it."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from api.pages.templating import templates
from api.pages.words import MARKS

COLUMNS: Final = (
    "environment",
    "target",
    "component",
    "slot",
    "verdict",
    "release",
    "since",
    "trust",
    "rule",
    "reason",
    "differences",
    "blocked",
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would compute instead of showing


def as_csv(placements: Iterable[Mapping[str, Any]]) -> str:
    """One line for each placement that is not in sync, the columns always the same."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for placement in ordered(placements):
        writer.writerow([_harmless(_text(placement.get(column))) for column in COLUMNS])
    return out.getvalue()


def as_html(placements: Iterable[Mapping[str, Any]], *, now: datetime) -> str:
    """A file that needs nothing beside it: its style is inside, and it has no script."""
    rows = [{**row, "since": _moment(row.get("since"))} for row in placements]
    by_verdict = Counter(str(row["verdict"]) for row in rows)
    return templates().get_template("report.html").render(rows=ordered(rows), counts=by_verdict.most_common(), now=now)


def ordered(placements: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The gravest first; `web-9` before `web-10`."""
    rank = {verdict.value: number for number, verdict in enumerate(MARKS)}
    return sorted(placements, key=lambda row: (rank[row["verdict"]], row["environment"], natural(row["target"])))


def natural(text: str) -> tuple[str, int]:
    digits = len(text) - len(text.rstrip("0123456789"))
    return (text[: len(text) - digits], int(text[-digits:][:18])) if digits else (text, -1)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds")
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _harmless(text: str) -> str:
    flat = "".join(char if char.isprintable() else " " for char in text)
    return f"'{flat}" if flat.startswith(_FORMULA) else flat


def _moment(value: Any) -> datetime | None:
    """Over the wire a moment is text."""
    return datetime.fromisoformat(value) if isinstance(value, str) else value
