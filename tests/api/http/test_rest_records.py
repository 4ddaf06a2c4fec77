"""REST over what is kept beside the fleet: sources, documents, the audit log, people and tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import text

from api.house import House
from api.http.app import application
from tests.api.houses import environment, house, release, source, target
from tests.api.http.doors import Believing

V1 = "/api/v1"
STAGING = f"{V1}/environments/default/staging"
FILES = {"all.yaml": "---\n".join((release(), environment(), target()))}
MORE = {"more.yaml": target("web-2")}


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path, source("team", database={})) as opened:
        yield opened


@pytest.fixture
async def client(made: House) -> AsyncIterator[httpx2.AsyncClient]:
    """The owner, at a house whose documents are in the database."""
    transport = httpx2.ASGITransport(app=application(made, Believing()), raise_app_exceptions=False)
    headers = {"Authorization": "Bearer owner"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://holdfast", headers=headers) as opened:
        yield opened


def problem(answer: httpx2.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


# -- sources ----------------------------------------------------------------------------------------------------------


async def test_sources_are_listed_shown_and_read_again(client: httpx2.AsyncClient) -> None:
    [row] = (await client.get(f"{V1}/sources")).json()["sources"]
    assert (row["name"], row["type"], row["environments"]) == ("team", "database", [])
    await client.post(f"{V1}/documents", json={"files": FILES})
    again = (await client.post(f"{V1}/sources/team/refresh")).json()
    assert (again["revision"], again["environments"]) == ("1", ["default/staging"])
    assert (await client.get(f"{V1}/sources/team")).json()["revision"] == "1"


async def test_a_source_that_is_not_there_and_a_commit_that_is_none_are_refused(client: httpx2.AsyncClient) -> None:
    assert problem(await client.get(f"{V1}/sources/tema")) == (404, "NO_SOURCE")
    assert problem(await client.post(f"{V1}/sources/team/refresh", json={"allow": "HEAD"})) == (422, "BAD_ARGUMENT")


# -- documents --------------------------------------------------------------------------------------------------------


async def test_documents_are_written_read_and_taken_out(client: httpx2.AsyncClient) -> None:
    tried = (await client.post(f"{V1}/documents", json={"files": FILES, "dry_run": True})).json()
    assert ([each["change"] for each in tried["changes"]], tried["revision"]) == (["created"] * 3, 0)
    assert (await client.get(f"{V1}/documents")).json() == {"revision": 0, "files": {}}
    assert (await client.post(f"{V1}/documents", json={"files": FILES})).json()["revision"] == 1
    await client.post(f"{V1}/documents", json={"files": MORE})
    read = (await client.get(f"{V1}/documents", params={"environment": "staging"})).json()
    assert "default/targets/web-2.yaml" in read["files"]
    gone = await client.delete(f"{V1}/documents/Target/default/web-2")
    assert gone.json()["changes"] == [
        {"kind": "Target", "project": "default", "name": "web-2", "change": "removed"},
    ]
    assert "default/targets/web-2.yaml" not in (await client.get(f"{V1}/documents")).json()["files"]
    assert problem(await client.delete(f"{V1}/documents/Target/default/web-2")) == (404, "NO_DOCUMENT")


async def test_whoever_read_an_older_revision_changes_nothing(client: httpx2.AsyncClient) -> None:
    await client.post(f"{V1}/documents", json={"files": FILES})
    mark = {"If-Match": (await client.get(f"{V1}/documents")).headers["etag"]}
    await client.post(f"{V1}/documents", json={"files": MORE}, headers=mark)
    late = {"third.yaml": target("web-3")}
    assert problem(await client.post(f"{V1}/documents", json={"files": late}, headers=mark)) == (409, "STALE")
    assert problem(await client.post(f"{V1}/documents", json={"files": late, "revision": 0})) == (409, "STALE")
    assert problem(await client.delete(f"{V1}/documents/Target/default/web-2", headers=mark)) == (409, "STALE")
    bad = {"If-Match": "yesterday"}
    assert problem(await client.post(f"{V1}/documents", json={"files": late}, headers=bad)) == (422, "BAD_ARGUMENT")
    now = {"If-Match": '"2"'}
    assert (await client.post(f"{V1}/documents", json={"files": late}, headers=now)).json()["revision"] == 3


async def test_an_expected_revision_of_an_empty_database_is_insisted_on_too(client: httpx2.AsyncClient) -> None:
    assert problem(await client.post(f"{V1}/documents", json={"files": FILES, "revision": 5})) == (409, "STALE")


async def test_findings_are_named_and_nothing_is_written(client: httpx2.AsyncClient) -> None:
    refused = await client.post(f"{V1}/documents", json={"files": {"all.yaml": environment()}})
    assert problem(refused) == (422, "FINDINGS")
    assert refused.json()["findings"][0]["file"] == "all.yaml"
    await client.post(f"{V1}/documents", json={"files": FILES})
    needed = await client.delete(f"{V1}/documents/Release/default/shop@1")
    assert problem(needed) == (422, "FINDINGS")


# -- the audit log ----------------------------------------------------------------------------------------------------


async def test_the_audit_log_is_read_and_verified(client: httpx2.AsyncClient, made: House) -> None:
    await client.post(f"{V1}/documents", json={"files": FILES})
    [entry, *_] = (await client.get(f"{STAGING}/audit")).json()["entries"]
    assert entry["chain"] == "default/staging"
    assert "documents.written" in {each["action"] for each in (await client.get(f"{V1}/audit")).json()["entries"]}
    good = (await client.post(f"{STAGING}/audit/verify")).json()
    assert (good["ok"], [each["chain"] for each in good["chains"]]) == (True, ["default/staging"])
    whole = (await client.post(f"{V1}/audit/verify", json={"checkpoints": []})).json()
    assert "default/staging" in {each["chain"] for each in whole["chains"]}
    assert problem(await client.post(f"{V1}/audit/verify", json={"checkpoints": ["x"]})) == (422, "BAD_CHECKPOINT")


async def test_a_log_that_was_tampered_with_is_not_called_whole(client: httpx2.AsyncClient, made: House) -> None:
    await client.post(f"{V1}/documents", json={"files": FILES})

    def forge(c: object) -> None:
        for (name,) in c.execute(text("select name from sqlite_master where type='trigger' and tbl_name='audit'")):  # type: ignore[attr-defined]
            c.execute(text(f"drop trigger {name}"))  # type: ignore[attr-defined]
        c.execute(text("update audit set actor = 'somebody else'"))  # type: ignore[attr-defined]

    await made.store.write(forge)
    bad = (await client.post(f"{STAGING}/audit/verify")).json()
    assert (bad["ok"], bad["faults"][0]["seq"]) == (False, 1)


# -- people and tokens ------------------------------------------------------------------------------------------------


async def test_a_person_is_added_granted_something_and_shut_out(client: httpx2.AsyncClient) -> None:
    added = await client.post(f"{V1}/users", json={"name": "ada", "grants": ["viewer"], "place": "staging"})
    assert (added.status_code, bool(added.json()["password"])) == (201, True)
    assert problem(await client.post(f"{V1}/users", json={"name": "ada"})) == (409, "NAME_TAKEN")
    assert (await client.post(f"{V1}/users/ada/grants", json={"what": "operator"})).json()["changed"] is True
    took = await client.delete(f"{V1}/users/ada/grants", params={"what": "viewer", "place": "staging"})
    assert took.json()["changed"] is True
    set_anew = (await client.post(f"{V1}/users/ada/password")).json()
    assert set_anew["password"] != added.json()["password"]
    await client.post(f"{V1}/users/ada/disable")
    [row] = (await client.get(f"{V1}/users")).json()["users"]
    assert (row["grants"], bool(row["disabled_at"])) == ([{"what": "operator", "place": "*"}], True)
    await client.post(f"{V1}/users/ada/enable")
    assert (await client.get(f"{V1}/users")).json()["users"][0]["disabled_at"] is None
    assert problem(await client.post(f"{V1}/users/joe/enable")) == (404, "NO_USER")


async def test_a_token_is_told_once_and_revoked(client: httpx2.AsyncClient) -> None:
    made = await client.post(f"{V1}/tokens", json={"name": "ci", "scopes": ["deploy"], "places": ["staging"]})
    assert made.status_code == 201
    secret, id = made.json()["token"], made.json()["id"]
    listed = await client.get(f"{V1}/tokens")
    assert (listed.json()["tokens"][0]["id"], secret in listed.text) == (id, False)
    assert (await client.delete(f"{V1}/tokens/{id}")).json()["changed"] is True
    assert (await client.delete(f"{V1}/tokens/{id}")).json()["changed"] is False
    assert problem(await client.delete(f"{V1}/tokens/none")) == (404, "NO_TOKEN")
