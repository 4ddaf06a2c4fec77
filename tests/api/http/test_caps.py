"""Whatever is wrong with a request, it ends in the one shape, and says nothing of the inside."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx2
import pytest
import structlog
from fastapi import APIRouter

from api.house import House
from api.http import address
from api.http.app import application, gated
from api.http.caps import Caps, insist_on_depth
from api.http.guard import open_to_all
from api.http.problems import MEDIA_TYPE, STATUS
from api.problem import Problem
from api.settings import Settings
from tests.api.http.doors import Believing, Door, door
from tests.api.http.test_guard import BODIES, GOLDEN, VALUES
from tests.harness import virtual_time
from tests.reconciler.rig import declared

anyio_backend = virtual_time.backend()

HERE = "/api/v1/environments/default/prod"
INSIDE = ("Traceback", "select ", "sqlite", "/work/", ".py", "site-packages")


@pytest.fixture
async def made() -> AsyncIterator[Door]:
    async with door(declared("1.0.0"), running=False, caps=Caps(hosts=frozenset({"holdfast"}))) as opened:
        yield opened


def shaped(answer: Any, code: str) -> None:
    """A problem of that code, in the one shape and without anything of the inside."""
    assert answer.headers["content-type"] == MEDIA_TYPE, answer.text
    problem = answer.json()
    assert problem["code"] == code, problem
    assert problem["status"] == answer.status_code == STATUS.get(code, 500)
    assert {"type", "title", "status", "detail", "code", "exit_code"} <= problem.keys()
    assert "\n" not in problem["detail"]
    assert not [word for word in INSIDE if word in answer.text]


WRONG = {
    "project": "Not A Name",
    "environment": "-",
    "target": "UPPER",
    "component": "%00",
    "number": "0",
    "release": "no-version",
    "id": "sha256:short",
    "command": "nonsense",
}


async def test_every_route_tells_wrong_words_in_its_path(made: Door) -> None:
    for (method, path), wants in GOLDEN.items():
        if "{" not in path or wants == "known":
            continue
        for name in (each for each in WRONG if "{" + each + "}" in path):
            answer = await made.ask(method, path.format(**(VALUES | {name: WRONG[name]})), json=_body(method, path))
            shaped(answer, answer.json()["code"])
            assert answer.status_code in (404, 422), f"{path} {name}: {answer.text}"


ASKED = {
    ("DELETE", "/api/v1/users/{name}/grants"): {"what": "viewer"},
    ("DELETE", "/api/v1/agents/{name}/kinds"): {"kind": "docker"},
}
NEED_NONE = (
    *("/disable", "/enable", "/unlock", "/declare-dead", "/take", "/inspect"),
    *("/signer/trust", "/authority/rotate"),
)


async def test_every_route_tells_what_is_not_there(made: Door) -> None:
    for (method, path), wants in GOLDEN.items():
        if "{" in path and wants not in ("known", "open"):
            answer = await made.ask(
                method, path.format(**VALUES), json=_body(method, path), params=ASKED.get((method, path))
            )
            shaped(answer, answer.json()["code"])
            assert (answer.status_code, answer.json()["code"][:3]) == (404, "NO_"), f"{path}: {answer.text}"


async def test_every_route_that_takes_a_body_refuses_others(made: Door) -> None:
    for (method, path), _ in GOLDEN.items():
        where = path.format(**VALUES)
        if method != "POST":
            continue
        shaped(await made.ask(method, where, content=b"[" * 40 + b"]" * 40, headers=_JSON), "TOO_DEEP")
        shaped(await made.ask(method, where, content=b" " * (1024 * 1024 + 1), headers=_JSON), "BODY_TOO_LARGE")
        if "{number}" in path or path.endswith(NEED_NONE):  # those need no body
            continue
        shaped(await made.ask(method, where, content=b"{", headers=_JSON), "BAD_REQUEST")
        if "{command}" not in path:
            shaped(await made.ask(method, where, json={"unheard_of": 1}), "BAD_ARGUMENT")
            shaped(await made.ask(method, where, json=[1]), "BAD_ARGUMENT")


async def test_every_query_is_read_strictly(made: Door) -> None:
    for path in ("jobs", "releases", "drift", "environments/default/prod/history", "environments/default/prod/jobs"):
        for words in ({"limit": "0"}, {"limit": "many"}, {"format": "xml"}):
            if (path == "drift") == ("format" in words):
                shaped(await made.get(f"/api/v1/{path}", params=words), "BAD_ARGUMENT")
    for cursor in ("yesterday", "2026-01-01T00:00:00 x", "9" * 40, "2026-01-01T00:00:00+00:00 " + "x" * 250):
        shaped(await made.get("/api/v1/jobs", params={"before": cursor}), "BAD_ARGUMENT")
    shaped(await made.get("/api/v1/jobs", params={"state": "nonsense"}), "BAD_ARGUMENT")
    shaped(await made.get("/api/v1/jobs", params={"environment": "Not A Name"}), "BAD_ARGUMENT")


async def test_what_is_wrong_is_named_without_what_was_sent(made: Door) -> None:
    answer = await made.post(f"{HERE}/suspend", json={"reason": {"password": "hunter2"}})
    shaped(answer, "BAD_ARGUMENT")
    assert answer.json()["findings"][0]["field"] == "reason"
    assert "hunter2" not in answer.text


async def test_nothing_and_the_wrong_method_are_problems_too(made: Door) -> None:
    shaped(await made.get("/api/v1/nothing"), "NO_ROUTE")
    refused = await made.ask("DELETE", HERE)
    shaped(refused, "METHOD_NOT_ALLOWED")
    assert refused.headers["allow"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "holdfast.evil.example", ""])
async def test_a_name_that_is_not_ours_is_refused(made: Door, host: str) -> None:
    shaped(await made.get(HERE, headers={"Host": host}), "BAD_HOST")


@pytest.mark.parametrize("host", ["holdfast", "HOLDFAST:8420", "127.0.0.1:8420", "[::1]:8420", "[::1]"])
async def test_our_names_and_addresses_are_not(made: Door, host: str) -> None:
    assert (await made.get("/api/v1/environments", headers={"Host": host})).status_code == 200


def test_depth_is_not_fooled_by_brackets_in_texts() -> None:
    insist_on_depth(json.dumps({"a": "[" * 100, "b": '\\"[[' * 50}).encode(), 32)
    insist_on_depth(json.dumps([[]] * 100).encode(), 32)
    with pytest.raises(Problem, match="deeper than 32"):
        insist_on_depth(b'{"a":' * 33, 32)


def strange(house: House) -> APIRouter:
    """Routes that break, and that take too long."""
    router, opened = APIRouter(), [open_to_all("a test")]

    @router.get("/breaks", dependencies=opened)
    async def breaks() -> str:
        raise RuntimeError("select * from secrets at /work/inside.py")

    @router.get("/dawdles", dependencies=opened)
    async def dawdles() -> str:
        await anyio.sleep(3_600)
        return "late"

    return router


async def test_a_failure_inside_is_told_without_its_words_and_a_slow_answer_ends(made: Door) -> None:
    app = gated(application(made.house, Believing(), more=[strange]), Caps(answers=5, requests=2))
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    inside = httpx2.AsyncClient(transport=transport, base_url="http://holdfast")
    with structlog.testing.capture_logs() as logged:
        async with inside as client:
            await _asked_of_strange(client)
    assert {each["event"] for each in logged} >= {"request_failed"}  # with its place, for whoever runs the daemon


async def _asked_of_strange(client: httpx2.AsyncClient) -> None:
    shaped(await client.get("/breaks"), "INTERNAL")
    shaped(await client.get("/dawdles"), "TIMED_OUT")
    async with anyio.create_task_group() as group:
        group.start_soon(client.get, "/dawdles")
        group.start_soon(client.get, "/dawdles")
        await anyio.sleep(1)
        crowded = await client.get("/breaks")
        shaped(crowded, "CROWDED")
        assert crowded.headers["retry-after"]
    shaped(await client.get("/breaks"), "INTERNAL")  # the seats are given back


_JSON = {"Content-Type": "application/json"}


def _body(method: str, path: str) -> Any:
    return next((body for end, body in BODIES.items() if path.endswith(end)), {}) if method == "POST" else None


# -- where it listens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listen", ["0.0.0.0:8420", "[::]:8420", "192.0.2.1:80", "holdfast.example.com:80"])
def test_nothing_is_served_in_clear_text_where_others_reach_it_unless_that_is_said(listen: str) -> None:
    with pytest.raises(Problem, match="is reached by others"):
        address.of(Settings(listen=listen))
    assert address.of(Settings(listen=listen, plain_http="on")).certificate is None


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:8420", "[::1]:8420"])
def test_on_this_host_alone_clear_text_is_fine(listen: str) -> None:
    assert address.of(Settings(listen=listen)).url.startswith("http://")


@pytest.mark.parametrize("listen", ["", "8420", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:70000", ":80"])
def test_where_to_listen_is_read_strictly(listen: str) -> None:
    with pytest.raises(Problem, match="expected HOST:PORT"):
        address.of(Settings(listen=listen))
