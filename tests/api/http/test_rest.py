"""REST under `/api/v1`: the answers, how they are paged, marked and told when something is wrong."""

from __future__ import annotations

import csv
import hashlib
import io
from datetime import timedelta

import anyio
import pytest

from desired_state.model import Policy, Sync
from tests.api.http.doors import Door, door
from tests.harness import virtual_time
from tests.reconciler.rig import declared

anyio_backend = virtual_time.backend()

V1 = "/api/v1"
HERE = f"{V1}/environments/default/prod"
ASKS = Sync(interval=timedelta(seconds=30), mode=Policy.ASK, heal=Policy.ASK)


async def ended(made: Door, number: int) -> str:
    return (await made.rig.ended(number)).state


async def test_the_fleet_is_listed_and_one_environment_shown_whole() -> None:
    async with door(declared("1.0.0")) as made:
        await made.rig.rested("1.0.0")
        listed = (await made.get(f"{V1}/environments")).json()
        assert [row["id"] for row in listed["environments"]] == ["default/prod"]
        assert listed["environments"][0]["verdicts"] == {"in sync": 3}
        assert "placements" not in listed["environments"][0]
        shown = (await made.get(HERE)).json()
        assert [cell["target"] for cell in shown["placements"]] == [f"default/prod-{n}" for n in range(3)]


async def test_targets_come_in_pages_that_meet() -> None:
    async with door(declared("1.0.0", targets=5)) as made:
        await made.rig.rested("1.0.0", targets=5)
        found, after = [], None
        while True:
            words = {"limit": 2} | ({"after": after} if after else {})
            page = (await made.get(f"{HERE}/targets", params=words)).json()
            found += [row["id"] for row in page["targets"]]
            if (after := page["next"]) is None:
                break
        assert found == [f"default/prod-{n}" for n in range(5)]


async def test_components_tell_their_artifact_and_how_they_stand() -> None:
    async with door(declared("1.0.0", components=("api", "web"))) as made:
        await made.rig.rested("1.0.0")
        [api, web] = (await made.get(f"{HERE}/components")).json()["components"]
        assert api["verdicts"] == web["verdicts"] == {"in sync": 3}
        assert api["artifact"].startswith("registry.example.com/shop/api@sha256:")


async def test_a_sync_makes_a_job_that_has_an_address() -> None:
    async with door(declared("1.0.0", sync=ASKS)) as made:
        await anyio.sleep(5)
        plan = (await made.get(f"{HERE}/plan")).json()
        asked = await made.post(f"{HERE}/sync", json={"plan_hash": plan["hash"]})
        assert asked.status_code == 201
        assert asked.headers["location"] == f"{HERE}/jobs/1"
        assert await ended(made, 1) == "completed"
        shown = (await made.get(asked.headers["location"])).json()
        assert shown["ok"] is True
        assert {task["state"] for task in shown["tasks"]} == {"succeeded"}
        again = await made.post(f"{HERE}/sync")
        assert (again.status_code, again.json()["job"]) == (200, None)


async def test_a_job_in_the_way_is_named() -> None:
    async with door(declared("1.0.0", sync=ASKS)) as made:
        await anyio.sleep(5)
        assert (await made.post(f"{HERE}/sync")).status_code == 201
        refused = await made.post(f"{HERE}/sync")
        assert refused.status_code == 409
        assert refused.headers["content-type"] == "application/problem+json"
        assert (refused.json()["code"], refused.json()["job"]) == ("JOB_ACTIVE", "default/prod:1")


async def test_a_plan_that_has_moved_is_refused() -> None:
    async with door(declared("1.0.0", sync=ASKS)) as made:
        await anyio.sleep(5)
        refused = await made.post(f"{HERE}/sync", json={"plan_hash": "deadbeef"})
        assert (refused.status_code, refused.json()["code"]) == (409, "PLAN_MOVED")


async def test_jobs_are_listed_newest_first_in_pages_that_meet() -> None:
    async with door(declared("1.0.0", targets=1)) as made:
        for version in ("1.0.1", "1.0.2", "1.0.3"):
            made.rig.shelf.put(declared(version, targets=1))
            await made.rig.rested(version, targets=1)
        found, before = [], None
        while True:
            words = {"limit": 2} | ({"before": before} if before else {})
            page = (await made.get(f"{V1}/jobs", params=words)).json()
            found += [job["id"] for job in page["jobs"]]
            if (before := page["next"]) is None:
                break
        assert found == sorted(found, key=lambda job: -int(job.rpartition(":")[2]))
        assert len(found) == len(set(found)) == len(await made.rig.jobs())


async def test_a_job_is_paused_continued_and_cancelled() -> None:
    async with door(declared("1.0.0", sync=ASKS)) as made:
        await anyio.sleep(5)
        await made.post(f"{HERE}/sync")
        assert (await made.post(f"{HERE}/jobs/1/pause")).status_code == 200
        await made.rig.until(lambda: _in_state(made, "paused"))
        await made.post(f"{HERE}/jobs/1/continue")
        await made.rig.until(lambda: _in_state(made, "running"))
        await made.post(f"{HERE}/jobs/1/cancel")
        assert await ended(made, 1) == "cancelled"
        late = await made.post(f"{HERE}/jobs/1/pause")
        assert (late.status_code, late.json()["code"]) == (409, "JOB_OVER")


async def _in_state(made: Door, state: str) -> bool:
    return bool((await made.get(f"{HERE}/jobs/1")).json()["state"] == state)


async def test_a_suspended_environment_says_so_until_it_is_resumed() -> None:
    async with door(declared("1.0.0")) as made:
        await made.rig.rested("1.0.0")
        await made.post(f"{HERE}/suspend", json={"reason": "a migration"})
        assert (await made.get(HERE)).json()["suspended"]["reason"].startswith("a migration")
        await made.post(f"{HERE}/resume")
        assert (await made.get(HERE)).json()["suspended"] is None


async def test_history_tells_what_was_known_at_a_moment() -> None:
    async with door(declared("1.0.0")) as made:
        await made.rig.rested("1.0.0")
        then = virtual_time.now().isoformat()
        made.rig.shelf.put(declared("1.1.0"))
        await made.rig.rested("1.1.0")
        past = (await made.get(f"{HERE}/history", params={"at": then})).json()
        assert {cell["release"] for cell in past["placements"]} == {"shop@1.0.0"}
        assert (await made.get(f"{HERE}/history")).json()["entries"][0]["summary"]


async def test_why_and_the_evidence_that_it_names() -> None:
    async with door(declared("1.0.0", targets=1)) as made:
        await made.rig.rested("1.0.0", targets=1)
        [cell] = (await made.get(f"{V1}/targets/default/prod-0/why")).json()["placements"]
        statement = (await made.get(f"{V1}/evidence/{cell['evidence']}")).json()
        assert (statement["signature"], statement["target"]) == ("valid", "default/prod-0")


async def test_drift_comes_as_json_and_as_a_table_without_formulas() -> None:
    async with door(declared("1.0.0", sync=ASKS)) as made:
        await anyio.sleep(5)
        found = (await made.get(f"{V1}/drift")).json()["placements"]
        assert [cell["verdict"] for cell in found] == ["missing"] * 3
        table = await made.get(f"{HERE}/drift", params={"format": "csv"})
        rows = list(csv.DictReader(io.StringIO(table.text)))
        assert [row["target"] for row in rows] == [cell["target"] for cell in found]
        assert not [value for row in rows for value in row.values() if value.startswith(("=", "+", "-", "@"))]


async def test_releases_are_listed_and_shown() -> None:
    async with door(declared("1.0.0")) as made:
        await made.rig.rested("1.0.0")
        [release] = (await made.get(f"{V1}/releases")).json()["releases"]
        shown = (await made.get(f"{V1}/releases/default/{release['name']}")).json()
        assert shown["components"] == release["components"]
        missing = await made.get(f"{V1}/releases/default/shop@9.9.9")
        assert (missing.status_code, missing.json()["code"]) == (404, "NO_RELEASE")


async def test_an_unchanged_answer_is_not_sent_again() -> None:
    async with door(declared("1.0.0")) as made:
        await made.rig.rested("1.0.0")
        first = await made.get(f"{HERE}/components")
        second = await made.get(f"{HERE}/components", headers={"If-None-Match": first.headers["etag"]})
        assert (second.status_code, second.content) == (304, b"")
        made.rig.shelf.put(declared("1.1.0"))
        await made.rig.rested("1.1.0")
        third = await made.get(f"{HERE}/components", headers={"If-None-Match": first.headers["etag"]})
        assert third.status_code == 200


@pytest.mark.parametrize("path", [f"{V1}/environments", "/api/v1/nothing", HERE])
async def test_every_answer_carries_the_security_headers(path: str) -> None:
    async with door(declared("1.0.0"), running=False) as made:
        answer = await made.get(path, token="nobody")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers


async def test_the_files_of_a_job_are_listed_and_each_is_given_as_its_bytes() -> None:
    async with door(declared("1.0.0", targets=1)) as made:
        await made.rig.rested("1.0.0", targets=1)
        told = (await made.get(f"{HERE}/jobs/1/artifacts", params={"kind": "manifest"})).json()
        [file] = told["files"]
        assert (told["job"], file["name"], "text" in file) == ("default/prod:1", "manifest.json", False)
        raw = await made.get(f"{HERE}/jobs/1/artifacts/{file['digest']}")
        assert f"sha256:{hashlib.sha256(raw.content).hexdigest()}" == file["digest"]
        assert raw.headers["content-type"] == "text/plain; charset=utf-8"
        assert raw.headers["content-disposition"] == "attachment; filename*=UTF-8''manifest.json"


async def test_a_file_that_the_job_does_not_have_is_not_there() -> None:
    async with door(declared("1.0.0", targets=1)) as made:
        await made.rig.rested("1.0.0", targets=1)
        absent = await made.get(f"{HERE}/jobs/1/artifacts/sha256:{'0' * 64}")
        assert (absent.status_code, absent.json()["code"]) == (404, "NO_ARTIFACT")
        other = await made.get(f"{HERE}/jobs/1/artifacts", params={"name": "other"})
        assert (other.status_code, other.json()["code"]) == (404, "NO_ARTIFACT")
        assert (await made.get(f"{HERE}/jobs/9/artifacts")).json()["code"] == "NO_JOB"
