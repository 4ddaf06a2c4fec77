"""Stores with the schema and nothing else: a copy costs a hundredth of a migration."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, event

from reconciler.store import engines, schema
from reconciler.store.store import Store

_let_go: Final[list[Engine]] = []  # what one has compiled, the next store need not compile again


def fresh_store(now: Callable[[], datetime]) -> Store:
    """One in memory."""
    engine = _let_go.pop() if _let_go else _made()
    raw(engine.raw_connection()).deserialize(blank())
    return Store(engine, None, lock=None, now=now)


def raw(connection: Any) -> sqlite3.Connection:
    """The driver's own connection."""
    found = connection.driver_connection
    assert isinstance(found, sqlite3.Connection)
    return found


def _made() -> Engine:
    """Its database ends with its store, which disposes of it; it may be used again then."""
    engine = engines.memory()
    event.listen(engine, "engine_disposed", _keep)
    return engine


def _keep(engine: Engine) -> None:
    if engine not in _let_go:
        _let_go.append(engine)


@cache
def blank() -> bytes:
    engine = engines.memory()
    schema.bring_up_to_date(engine)
    content = raw(engine.raw_connection()).serialize()
    engine.dispose()
    return content


def lay(file: Path) -> None:
    """The same as a file, where there is none yet."""
    if not file.exists():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_bytes(blank())
