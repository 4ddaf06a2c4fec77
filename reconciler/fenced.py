"""The store under a lease: nothing is written once somebody else holds it."""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from sqlalchemy import Connection

from reconciler.store import leases
from reconciler.store.records import Lease
from reconciler.store.store import Query, Store

T = TypeVar("T")


class Fenced(Store):
    """Every write of a store, under one lease; `LostLease` where it is not held any more."""

    def __init__(self, store: Store, lease: Lease) -> None:
        self._store, self._lease = store, lease

    def now(self) -> datetime:
        return self._store.now()

    @property
    def inline(self) -> bool:
        return self._store.inline

    async def write(self, query: Query[T]) -> T:
        def fenced(c: Connection) -> T:
            leases.hold(c, self._lease)
            return query(c)

        return await self._store.write(fenced)

    async def read(self, query: Query[T]) -> T:
        return await self._store.read(query)
