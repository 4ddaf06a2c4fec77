"""The one place that hashes: canonical JSON (RFC 8785) and SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import Any, Final

import rfc8785

from stickers.names import Digest

LARGEST: Final = 2**53 - 1  # a whole number beyond it reads differently elsewhere


def plain(value: object) -> object:
    """A record as plain JSON data: fields by name, times as UTC text, spans as whole milliseconds.

    Floats are refused: no number that is hashed may depend on how it is printed.
    """
    if value is None or type(value) in _AS_IT_IS:
        return value
    kind: Any = value.__class__
    if (fields_of := _record_fields(kind)) is not None:
        names, values = fields_of
        return {
            name: item if item.__class__ is str else plain(item)
            for name, item in zip(names, values(value), strict=True)
        }
    match value:
        case Enum():
            return plain(value.value)
        case int():
            return _whole(value)
        case str():
            return str(value)
        case datetime():
            return instant(value)
        case timedelta():
            return _whole(round(value.total_seconds() * 1000))
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case set() | frozenset():
            return sorted(str(plain(item)) for item in value)
    raise TypeError(f"{type(value).__name__} has no canonical form")


_AS_IT_IS: Final = frozenset((str, bool))


def _whole(number: int) -> int:
    if abs(number) > LARGEST:
        raise ValueError(f"{number} has no canonical form, it is beyond {LARGEST}")
    return number


@cache
def _record_fields(kind: Any) -> tuple[tuple[str, ...], Callable[[object], tuple[object, ...]]] | None:
    """The names of a record's fields, and how to read all of them at once; None for what is no record."""
    if issubclass(kind, _HAVE_FORMS) or not is_dataclass(kind):
        return None
    names = tuple(field.name for field in fields(kind))
    if len(names) > 1:
        return names, attrgetter(*names)
    return names, lambda record: tuple(getattr(record, name) for name in names)


# what `plain` knows a form of, also where it is made a record
_HAVE_FORMS: Final = (Enum, int, str, datetime, timedelta, dict, list, tuple, set, frozenset)


def instant(moment: datetime) -> str:
    """A time as UTC text with microseconds; naive times are refused."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone has no canonical form")
    offset = moment.utcoffset() or timedelta()
    return (moment.replace(tzinfo=None) - offset).isoformat(timespec="microseconds") + "Z"


def canonical(value: object) -> bytes:
    """The canonical bytes of a record or of plain data.

    Without floats, and as long as all of it is ASCII, they are what the standard library writes, several times faster.
    """
    content = plain(value)
    text = _ASCII.encode(content)
    return text.encode() if text.isascii() else rfc8785.dumps(content)  # type: ignore[arg-type]


_ASCII: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False)


def of_bytes(content: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(content).hexdigest())


class Running:
    """The digest of content that comes in pieces, and how much of it came."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.size = 0

    def update(self, piece: bytes) -> None:
        self._hash.update(piece)
        self.size += len(piece)

    @property
    def digest(self) -> Digest:
        return Digest("sha256:" + self._hash.hexdigest())


def of(value: object) -> Digest:
    """The digest of the canonical form."""
    return of_bytes(canonical(value))


def short(digest: Digest) -> str:
    """Twelve digits for people and for names on hosts; never an identity."""
    return digest.removeprefix("sha256:")[:12]
