"""What the daemon writes to its log: an event's name and its fields, one line each, secrets masked at the sink."""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import fields
from datetime import datetime
from typing import Any, Final

import structlog
from structlog.types import Processor

from api.settings import Settings
from reconciler.events import (
    AgentAnswered,
    AgentLocked,
    Event,
    LeaseLost,
    Looked,
    Progressed,
    SourceRefused,
    SourceStale,
    StickerDistrusted,
    TaskMoved,
    TurnFailed,
    WatchLost,
)
from stickers.redaction import Redactor

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
ALARMS: Final = (AgentLocked, LeaseLost, SourceRefused, SourceStale, StickerDistrusted, TurnFailed, WatchLost)
DETAILS: Final = (AgentAnswered, Looked, Progressed, TaskMoved)


def configure(settings: Settings, redactor: Redactor) -> None:
    """Log to stderr in the chosen format. Tracebacks never show local variables."""
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    rendering: list[Processor] = [console]
    if settings.log_format == "json":
        plain = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
        rendering = [plain, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *rendering,
            redactor,  # last, where exceptions have become text too
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[settings.log_level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def write(event: Event) -> None:
    """One line for one event: alarms as warnings, every step of every task as debugging."""
    log = structlog.get_logger()
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
    said: dict[str, Any] = {field.name: _plain(getattr(event, field.name)) for field in fields(event)}
    if isinstance(event, ALARMS):
        log.warning(name, **said)
    elif isinstance(event, DETAILS):
        log.debug(name, **said)
    else:
        log.info(name, **said)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | float) else str(value)
