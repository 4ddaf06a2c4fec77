"""The schema of a store brought up to date, once per start."""

from __future__ import annotations

from sqlalchemy import Engine

from reconciler.store import rules
from reconciler.store.tables import metadata


def bring_up_to_date(engine: Engine, url: str) -> None:
    with engine.begin() as c:
        metadata.create_all(c)
        rules.install(c)
