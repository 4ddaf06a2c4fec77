"""How answers look in a terminal: columns, marks, times. Everything that comes from outside is made printable first."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

MARKS: Final = {
    "in sync": ("✓", "32"),
    "in transit": ("→", "36"),
    "unknown": ("?", "35"),
    "unmanaged": ("·", "2"),
    "foreign": ("·", "33"),
}
OTHER_MARK: Final = ("✗", "31")  # every other verdict is drift
UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def colourful() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(text: str, colour: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if colourful() else text


def clean(value: object) -> str:
    """One printable line: control characters, which a hostile name could carry, are shown, not obeyed."""
    text = "" if value is None else str(value)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def brief(value: object, limit: int = 70) -> str:
    """At most so many characters of one printable line, for a table; the whole is elsewhere."""
    text = clean(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def verdict(word: str) -> str:
    mark, colour = MARKS.get(word, OTHER_MARK)
    return paint(f"{mark} {word}", colour)


def as_json(answer: object) -> None:
    print(json.dumps(answer, indent=2, default=str, ensure_ascii=False))


def columns(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table without lines; the last column may be as long as it likes."""
    texts = [[str(cell) if cell is not None else "" for cell in row] for row in rows]
    widths = [max([len(head), *(_width(row[at]) for row in texts)]) for at, head in enumerate(heads)]
    print(paint("  ".join(head.upper().ljust(width) for head, width in zip(heads, widths, strict=True)).rstrip(), "2"))
    for row in texts:
        cells = [cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())


def _width(cell: str) -> int:
    plain, inside = 0, False
    for char in cell:
        if char == "\x1b":
            inside = True
        elif inside:
            inside = char != "m"
        else:
            plain += 1
    return plain


def ago(text: str | None) -> str:
    """`3m` for a time three minutes ago, `in 3m` for one to come; empty for none."""
    if not text:
        return ""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()
    size = abs(seconds)
    for unit, letter in UNITS:
        if size >= unit:
            span = f"{int(size // unit)}{letter}"
            return span if seconds >= 0 else f"in {span}"
    return "now"


def moment(text: str | None) -> str:
    """A time as the reader's clock shows it."""
    if not text:
        return ""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def short(digest: str | None) -> str:
    return (digest or "").removeprefix("sha256:")[:12]


def counts(verdicts: dict[str, int]) -> str:
    """`12 in sync, 1 lying`, what is wrong first."""
    ordered = sorted(verdicts.items(), key=lambda item: (item[0] == "in sync", item[0]))
    return ", ".join(paint(f"{number} {word}", MARKS.get(word, OTHER_MARK)[1]) for word, number in ordered)


def bullet(items: Iterable[Any], indent: int = 4) -> None:
    for item in items:
        print(" " * indent + clean(item))
