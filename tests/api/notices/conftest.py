"""Notices are kept in the store, so they run on both databases too."""

from tests.reconciler.store.conftest import address, blank, postgresql, server, sqlite, store, template

__all__ = ["address", "blank", "postgresql", "server", "sqlite", "store", "template"]
