"""No secret value reaches the log, not even in the text of an exception."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from api import logging
from api.settings import Settings
from stickers.redaction import MASK, Redactor

CANARY = 'c4nary"of the/mine'


@pytest.fixture(autouse=True)
def _unconfigured() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_secret_is_masked_in_fields_and_tracebacks(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    redactor = Redactor()
    redactor.add(CANARY)
    logging.configure(Settings(log_format=log_format), redactor)
    log = structlog.get_logger()
    log.info("resolved", value=CANARY, nested={"of": [CANARY]})
    local = CANARY[:-1]  # a part that cannot be recognised: tracebacks must not show what variables hold
    try:
        raise ValueError(f"cannot log in with {CANARY}")
    except ValueError:
        log.exception("failed", known=bool(local))
    written = capsys.readouterr().err
    assert "c4nary" not in written
    assert written.count(MASK) == 3
    assert "cannot log in with" in written
