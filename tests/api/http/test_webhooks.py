"""Webhooks in: who is heard, what it does, and that nobody learns more than that they were not heard."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api.house import House
from api.http import webhooks
from api.http.app import application
from api.http.guard import NobodyKnown
from reconciler.loop import Key
from reconciler.store import deliveries
from tests.api.houses import house, source

SECRET = "a secret of more than sixteen characters"
BODY = b'{"ref": "refs/heads/main", "after": "1111"}'
KINDS = ("github", "gitlab", "gitea", "generic")


@asynccontextmanager
async def hooked(
    place: Path, monkeypatch: pytest.MonkeyPatch, most: int = deliveries.MOST
) -> AsyncIterator[tuple[House, httpx2.AsyncClient, list[str]]]:
    """A house with one source for each forge, its HTTP door, and the reads that were asked for."""
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("OLD_SECRET", SECRET + " of yesterday")
    monkeypatch.setenv("SHORT_SECRET", "short")
    git = {"repository": "https://git.example.com/shop.git"}
    previous = {"secret": "env:OLD_SECRET"}
    declared = [
        source(kind, git=git, webhook={"kind": kind, "secret": {"secret": "env:WEBHOOK_SECRET"}, "previous": previous})
        for kind in KINDS
    ]
    declared.append(source("short", git=git, webhook={"kind": "github", "secret": {"secret": "env:SHORT_SECRET"}}))
    declared.append(source("lost", git=git, webhook={"kind": "github", "secret": {"secret": "env:NO_SUCH_VARIABLE"}}))
    declared.append(source("deaf", git=git))
    asked: list[str] = []
    async with house(place, *declared) as made:
        monkeypatch.setattr(made.reconciler, "request", lambda key: asked.append(_id(key)))
        monkeypatch.setattr(deliveries, "MOST", most)
        monkeypatch.setattr(webhooks.Receiver.__init__, "__defaults__", (most,))
        app = application(made, NobodyKnown(), more=[webhooks.router])
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://holdfast") as client:
            yield made, client, asked


def _id(key: Key) -> str:
    return str(key)


def mac(secret: str, body: bytes) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def headers(kind: str, body: bytes = BODY, secret: str = SECRET, at: float | None = None) -> dict[str, str]:
    match kind:
        case "github":
            return {"X-Hub-Signature-256": "sha256=" + mac(secret, body), "X-GitHub-Event": "push"}
        case "gitea":
            return {"X-Gitea-Signature": mac(secret, body)}
        case "gitlab":
            return {"X-Gitlab-Token": secret}
    import time

    sent = str(int(at if at is not None else time.time()))
    return {
        "X-Holdfast-Timestamp": sent,
        "X-Holdfast-Signature": "sha256=" + mac(secret, sent.encode() + b"." + body),
    }


@pytest.mark.parametrize("kind", KINDS)
async def test_each_forge_that_proves_itself_makes_its_source_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    async with hooked(tmp_path, monkeypatch) as (_, client, asked):
        answer = await client.post(f"/hooks/{kind}", content=BODY, headers=headers(kind))
        assert answer.status_code == 202
        assert asked == [f"read:{kind}"]


async def test_while_a_secret_is_changed_both_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hooked(tmp_path, monkeypatch) as (_, client, asked):
        old = headers("github", secret=SECRET + " of yesterday")
        assert (await client.post("/hooks/github", content=BODY, headers=old)).status_code == 202
        assert asked == ["read:github"]


async def test_everybody_else_gets_the_same_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong: list[tuple[str, Mapping[str, Any]]] = [
        ("nobody", headers("github")),
        ("deaf", headers("github")),
        ("short", headers("github", secret="short")),
        ("lost", headers("github", secret="")),
        ("github", {}),
        ("github", headers("github", b"another body")),
        ("github", headers("github", secret="guessed")),
        ("github", {"X-Hub-Signature-256": b"sha256=\xc3\xa9"}),
        ("gitlab", {"X-Gitlab-Token": ""}),
        ("gitlab", headers("github")),
        ("gitea", {"X-Gitea-Signature": "sha256=" + mac(SECRET, BODY)}),
        ("generic", headers("github")),
        ("generic", headers("generic", at=1_000_000_000)),
        ("generic", headers("generic") | {"X-Holdfast-Timestamp": "1"}),
    ]
    async with hooked(tmp_path, monkeypatch) as (_, client, asked):
        answers = [await client.post(f"/hooks/{name}", content=BODY, headers=each) for name, each in wrong]
        assert {answer.status_code for answer in answers} == {401}
        assert len({answer.content for answer in answers}) == 1
        assert asked == []


async def test_what_is_sent_again_does_nothing_whatever_name_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hooked(tmp_path, monkeypatch) as (_, client, asked):
        for name in ("1", "1", "2"):
            more = headers("github") | {"X-GitHub-Delivery": name}
            assert (await client.post("/hooks/github", content=BODY, headers=more)).status_code == 202
        assert asked == ["read:github"]


async def test_what_is_kept_of_deliveries_is_bounded_and_a_full_store_denies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hooked(tmp_path, monkeypatch, most=3) as (_, client, asked):
        bodies = [json.dumps({"after": number}).encode() for number in range(5)]
        answers = [await client.post("/hooks/github", content=body, headers=headers("github", body)) for body in bodies]
        assert [answer.status_code for answer in answers] == [202, 202, 202, 429, 429]
        assert len(asked) == 3
        again = await client.post("/hooks/gitea", content=BODY, headers=headers("gitea"))
        assert again.status_code == 202  # one source's deliveries are no other's


async def test_a_body_above_five_mebibytes_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hooked(tmp_path, monkeypatch) as (_, client, asked):
        large = b"x" * (webhooks.BODY + 1)
        answer = await client.post("/hooks/github", content=large, headers=headers("github", large))
        assert answer.status_code == 413
        fits = large[:-1]
        answer = await client.post("/hooks/github", content=fits, headers=headers("github", fits))
        assert (answer.status_code, asked) == (202, ["read:github"])


async def test_a_flood_of_what_is_not_signed_asks_for_the_secret_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hooked(tmp_path, monkeypatch) as (made, client, _):
        times: list[Any] = []
        resolve = made.secret

        async def counted(ref: Any) -> str:
            times.append(ref)
            return await resolve(ref)

        object.__setattr__(made, "secret", counted)
        for _attempt in range(20):
            await client.post("/hooks/github", content=BODY, headers={})
        assert len(times) == 2  # the secret and the previous one
