"""Findings: what is wrong in the documents, where it stands, and what would be right.

A finding never shows a value that could be a secret, and nothing it shows can forge a line of a log or a terminal.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

SHOWN: Final = 80  # characters of what was found
PATH_SHOWN: Final = 200
WORD_SHOWN: Final = 120  # of the name of a file, and of a key
COMPARISONS: Final = 20_000  # spent on nearest words for one tree, so that no tree is slow to refuse

Path = tuple[str | int, ...]

# Fields whose values are never shown, whoever declares them; a command line often carries a password.
_HIDDEN: Final = frozenset({"secret", "registry_credentials", "command"})
_HIDDEN_NAME: Final = re.compile(r"pass|secret|token|credential|private", re.IGNORECASE)
_USERINFO: Final = re.compile(r"(?<=://)[^/\s]*@")  # of an address: may hold a password
_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_VARIABLE: Final = re.compile(r"[A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Finding:
    """One thing that is wrong. `line` and `column` count from 1; `code` is for programs and never changes its meaning.

    `file` is relative to the tree; `path` leads to the node inside its document. All texts are escaped already.
    """

    file: str
    line: int
    column: int
    path: str
    code: str
    found: str
    expected: str
    nearest: str | None = None

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}"
        hint = f"; did you mean {self.nearest}?" if self.nearest else ""
        return f"{where}: {self.path + ': ' if self.path else ''}found {self.found}; expected {self.expected}{hint}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaw:
    """Something wrong at a path, whatever document and line that is. `key`: it is the key there, not its value."""

    code: str
    path: Path
    found: str
    expected: str
    nearest: str | None = None
    key: bool = False


class Notes:
    """Findings as they are made: each once, and with nearest words as long as looking for them stays cheap."""

    def __init__(self) -> None:
        self._findings: dict[Finding, None] = {}
        self._comparisons = COMPARISONS

    def add(self, finding: Finding) -> None:
        self._findings.setdefault(finding)

    def sorted(self) -> tuple[Finding, ...]:
        return tuple(
            sorted(self._findings, key=lambda finding: (finding.file, finding.line, finding.column, str(finding)))
        )

    def nearest(self, word: object, known: Iterable[str]) -> str | None:
        """The known word that was probably meant."""
        candidates = list(known)
        if not isinstance(word, str) or len(word) > SHOWN or len(candidates) > self._comparisons:
            return None
        self._comparisons -= len(candidates)
        close = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
        return escaped(close[0]) if close else None


def escaped(text: str, limit: int = WORD_SHOWN) -> str:
    """The text in one line, without anything that a terminal or a log could take for more than text."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    if cut.isprintable():
        return cut
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut)


def some(words: Iterable[str], limit: int = 20) -> str:
    """The words in a sentence, not too many of them."""
    known = list(words)
    return ", ".join(known[:limit]) + (f" and {len(known) - limit} others" if len(known) > limit else "")


def is_hidden(path: Path) -> bool:
    """Whether the value at this path may be a secret. The `environment` of a target's document is a name, that of a
    component holds values."""
    last = path[-1] if path else ""
    return (
        any(step in _HIDDEN for step in path)
        or "environment" in path[1:]
        or (isinstance(last, str) and _HIDDEN_NAME.search(last) is not None)
    )


def shown(value: object, path: Path) -> str:
    """What was found, for people: the value if it may be seen, else only what kind of value it is."""
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "null"
    if is_hidden(path):
        return _kind(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(_USERINFO.sub("…@", value)[:SHOWN]) if isinstance(value, str) else str(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def path_text(path: Path) -> str:
    """`components.api.ports[0]`, with quotes around keys that need them."""
    parts: list[str] = []
    for index, step in enumerate(path):
        if isinstance(step, int):
            parts.append(f"[{step}]")
        else:
            parts.append(("." if parts else "") + key_text(step, path[:index]))
    return escaped("".join(parts), PATH_SHOWN)


def key_text(key: str, under: Path) -> str:
    """A key, for people. Below `environment` only what can be a variable's name is shown: `NAME=value` is a slip that
    would show a value."""
    if "environment" in under[1:]:
        name = _VARIABLE.match(key)
        assert name is not None
        return escaped(key) if name.end() == len(key) else escaped(name[0]) + "…"
    return key if _PLAIN_KEY.fullmatch(key) and len(key) <= WORD_SHOWN else f'"{escaped(key)}"'


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    return "a text" if isinstance(value, str) else "a number"
