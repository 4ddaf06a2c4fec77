"""The kinds of column: times that carry their zone, sentences of any origin, plain data as canonical text."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import BigInteger, DateTime, Dialect, Integer, Text, TypeDecorator

SENTENCE: Final = 2_000  # characters kept of a text that somebody else wrote
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


class Instant(TypeDecorator[datetime]):
    """A moment in UTC. A naive time is refused on its way in, and none comes out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without a zone cannot be kept: {value.isoformat()}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Sentence(TypeDecorator[str]):
    """Text for people that may come from anywhere: cut to a bound, and free of what a database cannot hold."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else sentence(value)


class Plain(TypeDecorator[Any]):
    """Plain data as canonical JSON text, the same bytes on every database."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else canonical(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


# counts up by itself on both databases
Serial = BigInteger().with_variant(Integer, "sqlite")


def sentence(text: str) -> str:
    cut = text if len(text) <= SENTENCE else text[: SENTENCE - 1] + "…"
    return _UNSTORABLE.sub("\ufffd", cut)


def canonical(value: object) -> str:
    """Keys sorted, no spaces, ASCII only; halves of surrogate pairs, which no page could show, are replaced."""
    text = _dumped(value)
    return _dumped(_scrubbed(value)) if "\\ud" in text else text


def _dumped(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _scrubbed(value: object) -> object:
    match value:
        case str():
            return _UNSTORABLE.sub("\ufffd", value)
        case dict():
            return {_scrubbed(key): _scrubbed(item) for key, item in value.items()}
        case list() | tuple():
            return [_scrubbed(item) for item in value]
    return value
