"""What actions of this process are at, so that no two of them are at the same thing."""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager

from drivers.errors import Busy
from stickers.names import PlacementId, TargetId


class Active:
    """Targets or placements, by id."""

    def __init__(self) -> None:
        self._held: set[TargetId | PlacementId] = set()

    @contextmanager
    def at(self, ids: Set[TargetId] | Set[PlacementId]) -> Iterator[None]:
        """`Busy` while another action is at one of them."""
        if taken := self._held & ids:
            raise Busy(f"{min(map(str, taken))} is being acted upon")
        self._held |= ids
        try:
            yield
        finally:
            self._held -= ids
