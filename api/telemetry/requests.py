"""Requests as spans, for whoever has none of the SDK: what the HTTP doors ask of whoever traces."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from starlette.datastructures import Headers

Answered = Callable[[str | None, int], None]  # the route's template and the status, once the answer is known


class Tracing(Protocol):
    def request(self, method: str, headers: Headers) -> AbstractContextManager[Answered]:
        """A span around the answering of one request; what follows from it is caused by that span."""
        ...
