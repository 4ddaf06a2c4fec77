"""What is old is in the archive before it is gone from the store, and what something refers to stays."""

from __future__ import annotations

import gzip
import json
import stat
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from desired_state.model import DesiredState
from drivers.contract import Step
from reconciler.core.judge import Verdict
from reconciler.core.machine import JobEvent
from reconciler.store import environments, evidence, history, jobs, memories, releases, retention, tasks
from reconciler.store.records import Decision, Job, Lease, ProgressLine, Refusal
from reconciler.store.store import Store
from reconciler.store.tables import metadata
from tests.reconciler.core.builders import NOW, PROD, fleet
from tests.reconciler.store.builders import judged, keep_good, new_job, proof, settled

LONG = timedelta(days=91)
THEN, TODAY = NOW, NOW + LONG


async def _job(store: Store, lease: Lease, at: datetime, desired: DesiredState) -> Job:
    def ended(c: Connection) -> Job:
        job = jobs.create(c, new_job(desired), lease, at)
        [task] = tasks.of(c, job)
        line = ProgressLine(at=at, id=desired.placements[0].id, step=Step.LOOK, message="looked")
        tasks.note(c, task.id, [line] * 3)
        return jobs.advance(c, job, JobEvent.CANCEL, lease, at)

    return await store.write(ended)


async def _decide(store: Store, lease: Lease, at: datetime, rule: str) -> None:
    await store.write(lambda c: history.decide(c, PROD, Decision(rule=rule), lease, at))


async def _stand(store: Store, lease: Lease, at: datetime, verdict: Verdict, desired: DesiredState) -> None:
    drifts = [judged(each, verdict) for each in desired.placements]
    await store.write(lambda c: history.standings(c, PROD, drifts, [], lease, at))


async def _counted(store: Store) -> dict[str, int]:
    def count(c: Connection) -> dict[str, int]:
        kept = [table for table in metadata.sorted_tables if table.name != "event"]  # what is told is in no archive
        return {table.name: len(c.execute(select(table)).all()) for table in kept}

    return {name: number for name, number in (await store.read(count)).items() if number}


def _archived(file: Path | None) -> list[dict[str, Any]]:
    assert file is not None
    with gzip.open(file, "rt") as lines:
        return [json.loads(line) for line in lines]


async def test_nothing_old_is_nothing_done(store: Store, tmp_path: Path) -> None:
    lease = await settled(store, fleet(1))
    await _job(store, lease, THEN, fleet(1))
    done = await retention.run(store, tmp_path / "archive", now=THEN + timedelta(days=89))
    assert (done.file, done.rows) == (None, {})
    assert not (tmp_path / "archive").exists()


async def test_what_is_old_is_archived_whole_and_deleted(store: Store, tmp_path: Path) -> None:
    desired = fleet(1)
    lease = await settled(store, desired)
    old = await _job(store, lease, THEN, desired)
    young = await _job(store, lease, TODAY, desired)
    await _decide(store, lease, THEN, "old")
    await _decide(store, lease, TODAY, "young")
    for at, verdict in (
        (THEN - timedelta(days=1), Verdict.MISSING),
        (THEN, Verdict.UNHEALTHY),
        (TODAY, Verdict.IN_SYNC),
    ):
        await _stand(store, lease, at, verdict, desired)
    before = await _counted(store)

    done = await retention.run(store, tmp_path / "archive", now=TODAY)

    assert done.rows == {"progress": 3, "task": 1, "job": 1, "decision": 1, "standing": 1, **_plans(done.rows)}
    lines = _archived(done.file)
    assert Counter(line["table"] for line in lines) == done.rows
    [job] = [line["row"] for line in lines if line["table"] == "job"]
    assert (job["id"], job["state"], job["requested_by"]) == (old.id, "cancelled", "holdfast")
    assert job["ended_at"] == THEN.isoformat()
    [task] = [line["row"] for line in lines if line["table"] == "task"]
    assert json.loads(task["intent"])["target"] == desired.targets[0].id
    after = await _counted(store)
    assert {name: after[name] + done.rows.get(name, 0) for name in after} == before
    assert await store.read(lambda c: jobs.load(c, old.id)) is None
    assert await store.read(lambda c: jobs.load(c, young.id)) == young


def _plans(rows: Any) -> dict[str, int]:
    """The plan of the old job goes too, unless the young one has the same."""
    return {"content": rows["content"]} if "content" in rows else {}


async def test_what_something_living_rests_on_stays(store: Store, tmp_path: Path) -> None:
    desired, other = fleet(1), fleet(1, "2.0.0")
    lease = await settled(store, desired)
    await store.write(lambda c: memories.good(c, keep_good(c, desired), lease, THEN))
    await store.write(lambda c: releases.keep(c, desired.release, THEN))
    job = await _job(store, lease, THEN, other)
    refusal = Refusal(placement=other.placements[0], reason="bad", job=job.id)
    await store.write(lambda c: memories.refuse(c, refusal, lease, THEN))
    before = await _counted(store)
    done = await retention.run(store, tmp_path, now=TODAY)
    assert done.rows == {}
    assert await _counted(store) == before
    assert await store.read(lambda c: environments.desired(c, PROD)) == desired


async def test_what_nothing_rests_on_any_more_goes(store: Store, tmp_path: Path) -> None:
    old, new = fleet(1), fleet(1, "2.0.0")
    lease = await settled(store, old)
    job = await _job(store, lease, THEN, old)
    refusal = Refusal(placement=old.placements[0], reason="bad", job=job.id)
    await store.write(lambda c: memories.refuse(c, refusal, lease, THEN))
    await store.write(lambda c: evidence.keep(c, [proof(old.placements[0], "unused")]))
    await store.write(lambda c: memories.lift(c, PROD, "joe", THEN))
    await store.write(lambda c: environments.accept(c, new, now=TODAY))
    done = await retention.run(store, tmp_path, now=TODAY)
    assert done.rows == {"refused": 1, "progress": 3, "task": 1, "job": 1, "evidence": 1, "content": 2}
    assert await _counted(store) == {"environment": 1, "content": 1, "lease": 1, "audit": 5}  # which never goes


async def test_the_last_decision_of_an_environment_stays_and_numbers_go_on(store: Store, tmp_path: Path) -> None:
    lease = await settled(store)
    for minute in range(3):
        await _decide(store, lease, THEN + timedelta(minutes=minute), f"decision {minute}")
    done = await retention.run(store, tmp_path, now=TODAY)
    assert done.rows == {"decision": 2}
    await _decide(store, lease, TODAY, "the next")
    found = (await store.read(lambda c: history.page(c, PROD))).items
    assert [each.number for each in found] == [4, 3]


async def test_numbers_of_standings_are_not_given_again(store: Store, tmp_path: Path) -> None:
    desired = fleet(1)
    lease = await settled(store, desired)
    await _stand(store, lease, THEN - timedelta(days=1), Verdict.MISSING, desired)
    gone = [desired.placements[0].id]
    await store.write(lambda c: history.standings(c, PROD, [], gone, lease, THEN - timedelta(hours=1)))
    assert (await retention.run(store, tmp_path, now=TODAY)).rows == {"standing": 1}
    await _stand(store, lease, TODAY, Verdict.IN_SYNC, desired)
    [found] = await store.read(lambda c: history.standing_now(c, PROD))
    assert found.number == 2


async def test_an_active_job_is_never_old(store: Store, tmp_path: Path) -> None:
    lease = await settled(store, fleet(1))
    await store.write(lambda c: jobs.create(c, new_job(fleet(1)), lease, THEN))
    assert (await retention.run(store, tmp_path, now=TODAY)).rows == {}


async def test_rows_go_in_bounded_batches(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = await settled(store)
    for minute in range(8):
        await _decide(store, lease, THEN + timedelta(minutes=minute), f"decision {minute}")
    monkeypatch.setattr(retention, "BATCH", 3)
    sizes: list[int] = []
    appended = retention._append

    def count(file: Path, table: str, rows: Sequence[Any]) -> None:
        sizes.append(len(rows))
        appended(file, table, rows)

    monkeypatch.setattr(retention, "_append", count)
    done = await retention.run(store, tmp_path, now=TODAY)
    assert sizes == [3, 3, 1]
    assert len(_archived(done.file)) == 7


async def test_what_cannot_be_archived_is_not_deleted(store: Store, tmp_path: Path) -> None:
    lease = await settled(store)
    for minute in range(2):
        await _decide(store, lease, THEN + timedelta(minutes=minute), f"decision {minute}")
    (tmp_path / "archive").write_text("a file where the directory should be")
    with pytest.raises(OSError, match="archive"):
        await retention.run(store, tmp_path / "archive", now=TODAY)
    assert (await _counted(store))["decision"] == 2


async def test_an_archive_is_for_its_owner_only(store: Store, tmp_path: Path) -> None:
    lease = await settled(store)
    for minute in range(2):
        await _decide(store, lease, THEN + timedelta(minutes=minute), f"decision {minute}")
    done = await retention.run(store, tmp_path / "archive", now=TODAY)
    assert done.file is not None
    assert stat.S_IMODE(done.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(done.file.parent.stat().st_mode) == 0o700


def test_every_table_that_grows_is_gone_over_after_what_refers_to_it() -> None:
    order = [part.table for part in retention.passes(NOW)]
    for position, table in enumerate(order):
        referred = {key.column.table for key in table.foreign_keys}
        assert not referred & set(order[:position])


async def test_a_run_of_fewer_days_keeps_less(store: Store, tmp_path: Path) -> None:
    lease = await settled(store)
    for minute in range(2):
        await _decide(store, lease, THEN + timedelta(minutes=minute), f"decision {minute}")
    assert (await retention.run(store, tmp_path, now=THEN + timedelta(days=8), days=7)).rows == {"decision": 1}
