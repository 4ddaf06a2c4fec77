"""A request with a key takes effect once, however often and from wherever it is repeated."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import pytest
import structlog

from desired_state.model import Policy, Sync
from reconciler.store import answers, jobs
from tests.api.http.doors import Door, door
from tests.harness import virtual_time
from tests.reconciler.rig import declared

anyio_backend = virtual_time.backend()

HERE = "/api/v1/environments/default/prod"
ASKS = Sync(interval=timedelta(seconds=30), mode=Policy.ASK, heal=Policy.ASK)
KEY = {"Idempotency-Key": "k-1"}


async def together(made: Door, count: int, path: str, **more: Any) -> list[Any]:
    """The same request so many times at once."""
    found: list[Any] = []

    async def ask() -> None:
        found.append(await made.post(path, **more))

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(ask)
    return found


async def test_two_hundred_at_once_make_one_job_and_have_one_answer() -> None:
    async with door(declared("1.0.0", sync=ASKS)) as made:
        await anyio.sleep(5)
        found = await together(made, 200, f"{HERE}/sync", headers=KEY)
        assert {answer.status_code for answer in found} == {201}
        assert len({answer.content for answer in found}) == 1
        assert len(await made.rig.jobs()) == 1


async def test_the_first_answer_stays_when_the_job_has_ended() -> None:
    async with door(declared("1.0.0", sync=ASKS)) as made:
        await anyio.sleep(5)
        first = await made.post(f"{HERE}/sync", headers=KEY)
        await made.rig.ended(1)
        again = await made.post(f"{HERE}/sync", headers=KEY)
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert len(await made.rig.jobs()) == 1


async def test_another_body_under_the_same_key_is_refused() -> None:
    async with door(declared("1.0.0", sync=ASKS)) as made:
        await anyio.sleep(5)
        await made.post(f"{HERE}/rollback", headers=KEY, json={"reason": "slow"})
        await made.post(f"{HERE}/sync", headers=KEY)
        refused = await made.post(f"{HERE}/sync", headers=KEY, json={"plan_hash": "deadbeef"})
        assert (refused.status_code, refused.json()["code"]) == (422, "IDEMPOTENCY_DIFFERS")


async def test_a_key_is_its_owners_alone() -> None:
    async with door(declared("1.0.0", sync=ASKS)) as made:
        await anyio.sleep(5)
        await made.post(f"{HERE}/sync", "operator@default/prod", headers=KEY)
        other = await made.post(f"{HERE}/sync", "operator@default/*", headers=KEY)
        assert (other.status_code, other.json()["code"]) == (409, "JOB_ACTIVE")


async def test_nothing_to_do_is_an_answer_too() -> None:
    async with door(declared("1.0.0")) as made:
        await made.rig.rested("1.0.0")
        first = await made.post(f"{HERE}/sync", headers=KEY)
        made.rig.shelf.put(declared("1.1.0", sync=ASKS))
        await anyio.sleep(60)
        again = await made.post(f"{HERE}/sync", headers=KEY)
        assert first.status_code == again.status_code == 200
        assert first.content == again.content


async def test_a_refusal_is_not_kept_so_that_it_can_be_asked_again() -> None:
    async with door(declared("1.0.0", sync=ASKS)) as made:
        await anyio.sleep(5)
        await made.post(f"{HERE}/sync")
        assert (await made.post(f"{HERE}/sync", headers=KEY)).status_code == 409
        await made.rig.ended(1)
        assert (await made.post(f"{HERE}/sync", headers=KEY)).status_code == 200


async def test_a_suspension_is_made_once_and_not_again_after_it_was_lifted() -> None:
    async with door(declared("1.0.0")) as made:
        await made.rig.rested("1.0.0")
        found = await together(made, 20, f"{HERE}/suspend", headers=KEY, json={"reason": "a migration"})
        assert {answer.status_code for answer in found} == {200}
        await made.post(f"{HERE}/resume")
        await made.post(f"{HERE}/suspend", headers=KEY, json={"reason": "a migration"})
        assert (await made.get(HERE)).json()["suspended"] is None


async def test_the_key_stands_where_the_job_does_or_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    async with door(declared("1.0.0", sync=ASKS)) as made:
        await anyio.sleep(5)

        def fails(*_: object) -> None:
            raise RuntimeError("in the middle")

        with monkeypatch.context() as broken, structlog.testing.capture_logs():
            broken.setattr(answers, "keep", fails)
            assert (await made.post(f"{HERE}/sync", headers=KEY)).status_code == 500
        assert await made.house.store.read(jobs.all_active) == ()
        assert (await made.post(f"{HERE}/sync", headers=KEY)).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 129, "with\ttab"])
async def test_a_key_that_is_none_is_refused(key: str) -> None:
    async with door(declared("1.0.0", sync=ASKS)) as made:
        await anyio.sleep(5)
        refused = await made.post(f"{HERE}/sync", headers={"Idempotency-Key": key})
        assert (refused.status_code, refused.json()["code"]) == (422, "BAD_ARGUMENT")
        assert await made.rig.jobs() == []
