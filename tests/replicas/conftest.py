"""PostgreSQL, and a database to each test."""

from __future__ import annotations

from tests.reconciler.store.conftest import postgresql, server, template

__all__ = ["postgresql", "server", "template"]
