"""What somebody's request has to do with what follows from it: the W3C `traceparent` under which work goes on, handed
on with the turns that are asked for. None of it decides anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_FORM: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_cause: Final[ContextVar[str | None]] = ContextVar("cause", default=None)


def cause() -> str | None:
    """The span from which what is done now follows."""
    return _cause.get()


@contextmanager
def caused_by(traceparent: str | None) -> Iterator[None]:
    token = _cause.set(traceparent)
    try:
        yield
    finally:
        _cause.reset(token)


def checked(traceparent: object) -> str | None:
    """The text, if it is a `traceparent` of this version."""
    return traceparent if isinstance(traceparent, str) and _FORM.fullmatch(traceparent) else None
