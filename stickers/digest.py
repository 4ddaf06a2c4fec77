"""The one place that hashes: canonical JSON (RFC 8785) and SHA-256."""

from __future__ import annotations

import hashlib
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum

import rfc8785

from stickers.names import Digest


def plain(value: object) -> object:
    """A record as plain JSON data: fields by name, times as UTC text, spans as whole milliseconds.

    Floats are refused: no number that is hashed may depend on how it is printed.
    """
    match value:
        case None | bool() | int():
            return value
        case Enum():
            return value.value
        case str():
            return str(value)
        case datetime():
            return instant(value)
        case timedelta():
            return round(value.total_seconds() * 1000)
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case set() | frozenset():
            return sorted(str(plain(item)) for item in value)
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    raise TypeError(f"{type(value).__name__} has no canonical form")


def instant(moment: datetime) -> str:
    """A time as UTC text with microseconds; naive times are refused."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone has no canonical form")
    offset = moment.utcoffset() or timedelta()
    return (moment.replace(tzinfo=None) - offset).isoformat(timespec="microseconds") + "Z"


def canonical(value: object) -> bytes:
    """The canonical bytes of a record or of plain data."""
    return rfc8785.dumps(plain(value))  # type: ignore[arg-type]


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
