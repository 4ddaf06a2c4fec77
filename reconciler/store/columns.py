"""The kinds of column: times that carry their zone, sentences of any origin, plain data as canonical text."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import BigInteger, DateTime, Dialect, Integer, Text, TypeDecorator
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ColumnElement

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


class this_transaction(ColumnElement[int]):  # noqa: N801 - reads as the SQL function it stands for
    """The number of the transaction that writes a row: 0 on SQLite, where there is one writer and its rows appear in
    their order."""

    type = BigInteger()
    inherit_cache = True


class first_unfinished(ColumnElement[int]):  # noqa: N801
    """Transactions below it have ended, so nothing can appear any more among the rows that they wrote."""

    type = BigInteger()
    inherit_cache = True


@compiles(this_transaction, "postgresql")
def _this_on_postgresql(*_: Any, **__: Any) -> str:
    return "((pg_current_xact_id()::text)::bigint)"


@compiles(this_transaction)
def _this_elsewhere(*_: Any, **__: Any) -> str:
    return "0"


@compiles(first_unfinished, "postgresql")
def _unfinished_on_postgresql(*_: Any, **__: Any) -> str:
    return "((pg_snapshot_xmin(pg_current_snapshot())::text)::bigint)"


@compiles(first_unfinished)
def _unfinished_elsewhere(*_: Any, **__: Any) -> str:
    return "1"


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
