"""Commit statuses: what is said of a commit, in each forge's own words, over a server written from its published API;
and that nothing of it is lost or waited for."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from api.house import House
from api.statuses import Statuses
from reconciler.core.conditions import Condition, ConditionType, Status
from reconciler.store import environments, leases, statuses
from stickers.names import EnvironmentId
from tests.api.houses import environment, house, release, source, target
from tests.harness.gits import Work

STAGING = EnvironmentId("default/staging")
FILES = {"deploy/all.yaml": "---\n".join((release(), environment(), target()))}
TOKEN = "a-token-for-statuses"
PATHS = {
    "github": "/repos/shop/shop/statuses/",
    "gitea": "/api/v1/repos/shop/shop/statuses/",
    "gitlab": "/api/v4/projects/shop%2Fshop/statuses/",
}
PLACES = {"github": "", "gitea": "/api/v1", "gitlab": "/api/v4"}


class Forge:
    """A forge as far as statuses go: refuses what the real one refuses."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.taken: list[tuple[str, str, str]] = []  # commit, what about, state
        self.answer: int | None = None
        self.requests = 0
        self.port = 0

    def take(self, path: str, headers: Any, body: bytes) -> tuple[int, bytes]:
        self.requests += 1
        if self.answer is not None:
            return self.answer, b"no"
        said = json.loads(body)
        if not self._is_known(headers):
            return 401, b"who are you"
        if not path.startswith(PATHS[self.kind]) or len(path.rpartition("/")[2]) != 40:
            return 404, b"nothing here"
        about = said.get("name" if self.kind == "gitlab" else "context")
        allowed = {
            "github": {"error", "failure", "pending", "success"},
            "gitea": {"error", "failure", "pending", "success", "warning"},
            "gitlab": {"pending", "running", "success", "failed", "canceled"},
        }[self.kind]
        if said["state"] not in allowed or not about or len(said["description"]) > 140:
            return 422, b"not like this"
        commit = path.rpartition("/")[2]
        last = next((state for one, what, state in reversed(self.taken) if (one, what) == (commit, about)), None)
        if self.kind == "gitlab" and last == said["state"]:
            return 400, b'{"message": "Cannot transition status via :enqueue from :pending"}'
        self.taken.append((commit, about, said["state"]))
        return 201, b"{}"

    def _is_known(self, headers: Any) -> bool:
        if self.kind == "gitlab":
            return bool(headers.get("PRIVATE-TOKEN") == TOKEN)
        return bool(headers.get("Authorization") == f"{'Bearer' if self.kind == 'github' else 'token'} {TOKEN}")


@contextmanager
def forge(kind: str) -> Iterator[Forge]:
    state = Forge(kind)

    class Asked(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            code, content = state.take(self.path, self.headers, body)
            self.send_response(code)
            if 300 <= code < 400:
                self.send_header("Location", f"http://127.0.0.1:{state.port}/elsewhere")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@asynccontextmanager
async def told(place: Path, work: Work, to: Forge, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setenv("STATUS_TOKEN", TOKEN)
    said = {
        "kind": to.kind,
        "api": f"http://127.0.0.1:{to.port}{PLACES[to.kind]}",
        "insecure": True,
        "repository": "shop/shop",
        "token": {"secret": "env:STATUS_TOKEN"},
    }
    git = {"repository": work.url, "path": "deploy"}
    async with house(place, source("shop", git=git, statuses=said)) as made:
        await made.reconciler.begin_alone()
        yield made


async def once(made: House) -> None:
    """What the daemon does every two seconds, in a new process each time."""
    async with aclosing(Statuses(made)) as process:
        await process.once()


async def conditions(made: House, ready: Status, stalled: Status, reason: str = "GaveUp") -> None:
    row = await made.store.read(lambda c: environments.load(c, STAGING))
    assert row is not None
    said = [
        Condition(type=type, status=status, reason=reason, message="three failures", generation=row.generation)
        for type, status in ((ConditionType.READY, ready), (ConditionType.STALLED, stalled))
    ]
    ttl = timedelta(seconds=30)
    lease = await made.store.write(lambda c: leases.acquire(c, STAGING, "test", now=made.now(), ttl=ttl))
    assert lease is not None
    await made.store.write(lambda c: environments.set_conditions(c, STAGING, said, lease))


@pytest.fixture
def work(tmp_path: Path) -> Work:
    made = Work(tmp_path)
    made.commit(FILES)
    return made


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("github", ["success", "pending", "success"]),
        ("gitea", ["success", "pending", "success"]),
        ("gitlab", ["success", "pending", "success"]),
    ],
)
async def test_a_commit_is_said_to_be_validated_then_planned_then_in_sync(
    tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch, kind: str, words: list[str]
) -> None:
    with forge(kind) as server:
        async with told(tmp_path, work, server, monkeypatch) as made:
            await once(made)
            await conditions(made, Status.TRUE, Status.FALSE)
            await once(made)
            await once(made)
    head = work.head()
    valid, *brought = words
    assert (head, "holdfast/documents", valid) in server.taken
    of_staging = [taken for taken in server.taken if taken[1] == "holdfast/default/staging"]
    assert of_staging == [(head, "holdfast/default/staging", word) for word in brought]
    assert len(server.taken) == 3


@pytest.mark.parametrize(
    ("reason", "word"), [("GaveUp", "failure"), ("JobFailed", "failure"), ("PolicyAsk", "pending")]
)
async def test_what_gave_up_has_failed_and_what_waits_for_a_person_has_not(
    tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch, reason: str, word: str
) -> None:
    with forge("github") as server:
        async with told(tmp_path, work, server, monkeypatch) as made:
            await conditions(made, Status.FALSE, Status.TRUE, reason)
            await once(made)
    assert (work.head(), "holdfast/default/staging", word) in server.taken


async def test_one_bad_file_is_said_of_the_bad_commit_and_what_was_accepted_stays(
    tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    with forge("github") as server:
        async with told(tmp_path, work, server, monkeypatch) as made:
            good, bad = work.head(), work.commit({"deploy/bad.yaml": "kind: Target\nname: ["})
            await made.reconciler.read("shop")
            await once(made)
            assert (bad, "holdfast/documents", "failure") in server.taken
            assert (good, "holdfast/documents", "success") in server.taken
            row = await made.store.read(lambda c: environments.load(c, STAGING))
            assert row is not None
            assert row.revision == good


async def test_a_commit_that_another_took_the_place_of_is_not_left_pending(
    tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    with forge("gitlab") as server:
        async with told(tmp_path, work, server, monkeypatch) as made:
            await once(made)
            older = work.head()
            work.commit({"deploy/more.yaml": target("web-2")})
            await made.reconciler.read("shop")
            await once(made)
    assert (older, "holdfast/default/staging", "canceled") in server.taken
    assert (work.head(), "holdfast/default/staging", "pending") in server.taken


async def test_what_a_forge_cannot_take_now_is_kept_and_sent_when_it_can(
    tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    with forge("github") as server:
        server.answer = 503
        async with told(tmp_path, work, server, monkeypatch) as made:
            await once(made)
            assert server.requests == 1  # the others wait as well
            [row, other] = await made.store.read(lambda c: statuses.of(c, "shop"))
            assert {row.problem, other.problem} == {None, f"http://127.0.0.1:{server.port} answers 503: no"}
            server.answer = None
            later = made.now() + timedelta(minutes=2)
            object.__setattr__(made, "now", lambda: later)
            await once(made)
            assert len(server.taken) == 2
            assert all(each.sent for each in await made.store.read(lambda c: statuses.of(c, "shop")))


async def test_what_a_process_claimed_and_took_with_it_is_sent_by_the_next(
    tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    with forge("github") as server:
        async with told(tmp_path, work, server, monkeypatch) as made:
            await once(made)
            sent = len(server.taken)
            await conditions(made, Status.TRUE, Status.FALSE)

            async def killed(*_: Any) -> None:
                """Between the claim and the sending."""

            with monkeypatch.context() as patched:
                patched.setattr(Statuses, "_send", killed)
                await once(made)
            await once(made)
            assert len(server.taken) == sent  # claimed by the one that is gone
            later = made.now() + timedelta(minutes=2)
            object.__setattr__(made, "now", lambda: later)
            await once(made)
            assert server.taken[-1][2] == "success"


async def test_a_redirection_is_not_followed_and_the_token_goes_nowhere_else(
    tmp_path: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    with forge("github") as server:
        server.answer = 307
        async with told(tmp_path, work, server, monkeypatch) as made:
            await once(made)
            rows = await made.store.read(lambda c: statuses.of(c, "shop"))
            assert all("not followed" in (row.problem or "") for row in rows)
            assert server.requests == len(rows)
