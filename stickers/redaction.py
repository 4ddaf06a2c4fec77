"""The one filter that keeps secret values out of whatever people and programs get to read: logs, errors, progress.

A value is recognised as it is and as it is commonly written: escaped for JSON, URLs, shells and Python, in hexadecimal,
and in base64 at each of its three alignments. What was cut before it came here cannot be recognised: clean first, cut
afterwards.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import string
from collections.abc import Iterable, Iterator, Mapping
from threading import Lock
from typing import Any, Final
from urllib.parse import quote, quote_plus

MASK: Final = "***"
SHORTEST: Final = 4  # characters; below, a value is found everywhere and protects nothing
SHORTEST_LINE: Final = 6
WRAPPED: Final = (64, 76)  # columns at which base64 is commonly broken
SHORTEST_WRAPPED: Final = 16

_SPARED: Final = ("", "/", "!'()*", ";,/?:@&=+$!*'()#")  # by quoters of URLs, from the strictest to the most lenient
_NEVER_QUOTED: Final = frozenset(string.ascii_letters + string.digits)
_JSON_HTML: Final = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})
_DOUBLE_QUOTED: Final = str.maketrans({char: "\\" + char for char in '\\"$`'})
_SHELL_SPECIAL: Final = re.compile(r"([^A-Za-z0-9_@%+=:,./-])")


class Redactor:
    """The values that must not be shown. Values are added as they are resolved and stay as long as the process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._values: set[str] = set()
        self._forms: tuple[str, ...] = ()

    def add(self, value: str) -> None:
        """Never show this value from now on; a value shorter than four characters cannot be hidden."""
        with self._lock:
            if value in self._values:
                return
            self._values.add(value)
            self._forms = tuple(sorted({*self._forms, *forms(value)}))

    def clean(self, text: str) -> str:
        """The text with every form of every value masked."""
        return _masked(text, _merged(self._spans(text)))

    def clean_data(self, value: Any) -> Any:
        """Plain data with all its texts cleaned; what is not plain is replaced by its cleaned `repr` where that shows a
        secret."""
        match value:
            case None | bool():
                return value
            case str():
                return self.clean(value)
            case Mapping():
                return {self.clean_data(key): self.clean_data(item) for key, item in value.items()}
            case list() | tuple() | set() | frozenset():
                items = [self.clean_data(item) for item in value]
                return items if isinstance(value, list) else tuple(items)
        shown = repr(value)
        cleaned = self.clean(shown)
        return value if cleaned == shown else cleaned

    def __call__(self, logger: object, method: str, event: Any) -> Any:
        """As a processor of structlog: the last one, after the renderer, where exceptions have become text. What is
        still data is cleaned as data."""
        return self.clean(event) if isinstance(event, str) else self.clean_data(event)

    def stream(self) -> Stream:
        """For a text that comes in chunks."""
        return Stream(self)

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        for form in self._forms:
            start = text.find(form)
            while start >= 0:
                yield start, start + len(form)
                start = text.find(form, start + 1)

    def _beginning(self, text: str) -> int:
        """Where the earliest form begins that may go on after the end of the text; the text's end when none does."""
        found = len(text)
        for form in self._forms:
            at = text.find(form[0], max(0, len(text) - len(form) + 1), found)
            while at >= 0:
                if form.startswith(text[at:]):
                    found = at
                    break
                at = text.find(form[0], at + 1, found)
        return found


class Stream:
    """Cleans a text over the borders of its chunks. It holds back only what may be the beginning of a value."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""
        self._covered = 0  # characters of what is held that belong to a value whose mask has been given out

    def feed(self, chunk: str) -> str:
        """What can be shown by now."""
        text = self._held + chunk
        return self._give_out(text, self._redactor._beginning(text))

    def finish(self) -> str:
        """The rest."""
        return self._give_out(self._held, len(self._held))

    def _give_out(self, text: str, end: int) -> str:
        spans = _merged([*([(0, self._covered)] if self._covered else []), *self._redactor._spans(text)])
        final = [(start, stop) for start, stop in spans if start < end]
        shown = _masked(text[:end], final)
        if self._covered and end:
            shown = shown.removeprefix(MASK)
        reached = max((stop for _, stop in final), default=self._covered)
        self._held, self._covered = text[end:], max(0, reached - end)
        return shown


def forms(value: str) -> frozenset[str]:
    """The ways in which the value is recognised."""
    lines = [line.strip() for line in value.splitlines()]
    parts = {value, value.strip(), *(line for line in lines if len(line) >= SHORTEST_LINE and len(lines) > 1)}
    found = {form for part in parts if len(part) >= SHORTEST for form in _forms(part)}
    return frozenset(form for form in found if len(form) >= SHORTEST)


def _forms(value: str) -> Iterator[str]:
    yield value
    for escaped in (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]):
        yield from (escaped, escaped.replace("/", "\\/"), escaped.translate(_JSON_HTML), json.dumps(escaped)[1:-1])
    yield from _quoted(value)
    yield from (shlex.quote(value), value.replace("'", "'\\''"), value.translate(_DOUBLE_QUOTED))
    yield from (_SHELL_SPECIAL.sub(r"\\\1", value), repr(value)[1:-1])
    content = value.encode("utf-8", "surrogatepass")
    yield from (repr(content)[2:-1], content.hex(), content.hex().upper())
    yield from _base64(content)


def _quoted(value: str) -> Iterator[str]:
    content = value.encode("utf-8", "surrogatepass")
    strict = "".join(chr(byte) if chr(byte) in _NEVER_QUOTED else f"%{byte:02X}" for byte in content)
    every = "".join(f"%{byte:02X}" for byte in content)
    for text in (*(quote(content, safe=spared) for spared in _SPARED), quote_plus(content), strict, every):
        yield text
        yield re.sub(r"%[0-9A-F]{2}", lambda code: code[0].lower(), text)


def _base64(content: bytes) -> Iterator[str]:
    """The characters that depend on nothing but the content, at each alignment; and the content encoded alone."""
    whole = base64.b64encode(content).decode()
    lines = (whole[at : at + width] for width in WRAPPED for at in range(0, len(whole), width))
    cores = [whole, *(line for line in lines if len(line) >= SHORTEST_WRAPPED)]
    for before in range(3):
        text = base64.b64encode(bytes(before) + content + bytes(2)).decode()
        cores.append(text[-(-8 * before // 6) : 8 * (before + len(content)) // 6])
    for core in cores:
        if len(core) >= SHORTEST:
            yield from (core, core.replace("+", "-").replace("/", "_"))


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, those that overlap as one."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, stop))
    return merged


def _masked(text: str, spans: list[tuple[int, int]]) -> str:
    pieces, shown = [], 0
    for start, stop in spans:
        pieces += [text[shown:start], MASK]
        shown = stop
    return "".join(pieces) + text[shown:] if pieces else text
