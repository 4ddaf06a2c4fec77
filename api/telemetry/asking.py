"""A command that is asked as a span, where a collector is configured; else nothing, and nothing is imported for it.

A build system that traces its own steps hands its span on in the variable TRACEPARENT, collector or not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from api.settings import Settings
from reconciler import correlation

VARIABLE: Final = "TRACEPARENT"
HEADER: Final = "traceparent"


@contextmanager
def asking(settings: Settings, command: str) -> Iterator[dict[str, str]]:
    """The headers by which the server knows what its own span is a part of."""
    given = correlation.checked(os.environ.get(VARIABLE))
    if not settings.otlp:
        yield {HEADER: given} if given else {}
        return
    from api.telemetry import traces

    with traces.sending(settings.otlp) as traced, traced.asking(command, given) as own:
        yield {HEADER: own}
