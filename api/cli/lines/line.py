"""One command line as data: what it is for, its options, examples and exit codes, and the function that carries it
out, named as text so that nothing is imported before it is needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from api.problem import ERROR, OK


@dataclass(frozen=True)
class Option:
    """One argument of a command, in the words of argparse."""

    flags: tuple[str, ...]
    words: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Command:
    """A command line. `run` is `module:function` of `(Settings, Namespace) -> exit code`."""

    path: tuple[str, ...]
    summary: str
    run: str
    options: tuple[Option, ...] = ()
    examples: tuple[str, ...] = ()
    exits: tuple[tuple[int, str], ...] = ((OK, "done"), (ERROR, "bad input, or it could not be asked"))
    detail: str = ""
    formats: tuple[str, ...] = ("text", "json")


def option(*flags: str, **words: Any) -> Option:
    return Option(flags, words)


TARGET: Final = option("target", metavar="TARGET", help="name, or project/name")
LIMIT: Final = option("--limit", type=int, default=20, metavar="N", help="how many rows (default 20)")
