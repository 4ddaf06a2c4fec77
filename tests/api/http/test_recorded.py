"""Every request is one line of the log and bears an id; what a client put into address or body is not written."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog
from structlog.testing import capture_logs
from structlog.typing import EventDict

from api.http.caps import Caps
from tests.api.http.doors import Door, door
from tests.harness import virtual_time
from tests.reconciler.rig import declared

anyio_backend = virtual_time.backend()
CANARY = "c4nary"


@pytest.fixture(autouse=True)
def _unconfigured() -> Iterator[None]:
    """Whatever an earlier test has configured would choose what is written."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture
async def made() -> AsyncIterator[Door]:
    async with door(declared("1.0.0"), running=False, caps=Caps(hosts=frozenset({"holdfast"}))) as opened:
        yield opened


def answered(lines: list[EventDict]) -> EventDict:
    [line] = [line for line in lines if line["event"] == "answered"]
    return line


async def test_a_line_says_who_asked_what_and_how_it_ended(made: Door) -> None:
    with capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        answer = await made.get(f"/api/v1/environments?token={CANARY}", "viewer@*")
    line = answered(lines)
    assert (line["method"], line["status"], line["log_level"]) == ("GET", 200, "info")
    assert line["route"] == "/api/v1/environments"
    assert line["actor"] == "viewer@*"
    assert line["ms"] >= 0
    assert CANARY not in str(lines)
    assert re.fullmatch("[0-9a-f]{16}", answer.headers["X-Request-Id"])
    assert line["request"] == answer.headers["X-Request-Id"]


async def test_no_two_requests_have_the_same_id_whatever_the_client_sends(made: Door) -> None:
    asked = [await made.get("/livez", headers={"X-Request-Id": "mine"}) for _ in range(2)]
    assert len({answer.headers["X-Request-Id"] for answer in asked} | {"mine"}) == 3


@pytest.mark.parametrize(
    ("path", "token", "host", "status"),
    [
        (f"/api/v1/environments/default/{CANARY}", "owner", "holdfast", 404),
        (f"/nowhere/{CANARY}", "owner", "holdfast", 404),
        ("/api/v1/environments/default/prod", CANARY, "holdfast", 401),
        ("/livez", "owner", f"{CANARY}.example", 421),
    ],
)
async def test_what_is_refused_is_recorded_without_what_was_sent(
    made: Door, path: str, token: str, host: str, status: int
) -> None:
    with capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        answer = await made.get(path, token, headers={"Host": host})
    line = answered(lines)
    assert line["status"] == answer.status_code == status
    assert line["request"] == answer.headers["X-Request-Id"]
    assert line["actor"] == ("owner" if "environments" in path and token == "owner" else None)
    assert CANARY not in str(lines)


async def test_probes_are_written_only_where_details_are_asked_for(made: Door) -> None:
    with capture_logs() as lines:
        await made.get("/readyz")
    assert answered(lines)["log_level"] == "debug"
