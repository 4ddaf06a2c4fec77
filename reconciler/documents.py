"""The database as a source: documents that were written with `holdfast apply` or through the API."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio

from desired_state.sources.base import NOTHING, InForce, SourceUnavailable, Tree
from reconciler.store import documents
from reconciler.store.errors import Unavailable
from reconciler.store.store import Store


class Documents:
    """A `Source`. Its revision counts what was written."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def read(self, in_force: InForce = NOTHING) -> Tree:
        try:
            revision, rows = await self._store.read(lambda c: (documents.revision(c), documents.all(c)))
        except Unavailable as error:
            raise SourceUnavailable(str(error), reason="SourceDown") from None
        return Tree(files={row.file: row.body.encode() for row in rows}, revision=str(revision))

    async def changes(self) -> AsyncGenerator[None, None]:
        """Whoever writes asks for the read."""
        yield
        await anyio.sleep_forever()
