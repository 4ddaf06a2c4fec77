"""Accepting what the documents say: whole or not at all, and never by an empty or failed read."""

from __future__ import annotations

import pytest

from desired_state.findings import Finding
from desired_state.resolve import Resolved
from reconciler.core.conditions import ConditionType, Status
from reconciler.events import SourceRead, SourceRefused
from reconciler.loop import DOCUMENTS
from reconciler.store import environments
from stickers.names import EnvironmentId
from tests.harness import virtual_time
from tests.reconciler.rig import Rig, declared, rig

anyio_backend = virtual_time.backend()

STAGING = EnvironmentId("default/staging")
FINDING = Finding(file="prod.yaml", line=3, column=1, path="sync", code="UNKNOWN_KEY", found="x", expected="y")


async def source_ready(made: Rig) -> tuple[Status, str]:
    row = await made.row()
    [found] = [one for one in row.conditions if one.type is ConditionType.SOURCE_READY]
    return found.status, found.reason


async def test_what_is_declared_is_accepted_and_brought() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.until(lambda: made.runs("1.0.0") == 3)
        row = await made.row()
        assert (row.generation, row.release) == (1, "shop@1.0.0")
        assert await source_ready(made) == (Status.TRUE, "Accepted")


async def test_a_change_is_taken_over_at_once() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.until(lambda: made.runs("1.0.0") == 3)
        made.shelf.put(declared("1.1.0"))
        await made.until(lambda: made.runs("1.1.0") == 3, within=15)
        assert (await made.row()).generation == 2


async def test_a_commit_that_means_the_same_raises_no_generation() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.until(lambda: made.runs("1.0.0") == 3)
        made.shelf.put(declared("1.0.0"))
        made.reconciler.request(DOCUMENTS)
        await made.until(lambda: len([one for one in made.events if isinstance(one, SourceRead)]) == 1, within=60)
        assert (await made.row()).generation == 1
        assert len(await made.jobs()) == 1


async def test_only_the_environment_that_changed_has_a_new_generation() -> None:
    async with rig(declared("1.0.0"), declared("1.0.0", environment=STAGING)) as made:
        await made.until(lambda: made.runs("1.0.0") == 6)
        made.shelf.put(declared("1.1.0"), declared("1.0.0", environment=STAGING))
        await made.until(lambda: made.runs("1.1.0") == 3)
        assert (await made.row()).generation == 2
        assert (await made.row(STAGING)).generation == 1


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (Resolved(revision="empty"), "SourceEmpty"),
        (Resolved(revision="bad", findings=(FINDING,)), "DocumentsInvalid"),
        (Resolved(revision="only releases", documents=3), "SourceEmpty"),
    ],
)
async def test_an_empty_or_invalid_read_changes_nothing_and_is_said(read: Resolved, reason: str) -> None:
    async with rig(declared("1.0.0")) as made:
        await made.until(lambda: made.runs("1.0.0") == 3)
        made.shelf.say(read)
        await made.until(lambda: _is(made, Status.FALSE, reason), within=60)
        row = await made.row()
        assert (row.generation, row.undeclared_at) == (1, None)
        assert made.runs("1.0.0") == 3
        assert made.reconciler.source_problem is not None
        assert any(isinstance(event, SourceRefused) and event.reason == reason for event in made.events)


async def _is(made: Rig, status: Status, reason: str) -> bool:
    return await source_ready(made) == (status, reason)


async def test_a_lost_source_changes_nothing_drift_is_still_healed_and_it_recovers() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.until(lambda: made.runs("1.0.0") == 3)
        made.shelf.broken = "the repository does not answer"
        made.reconciler.request(DOCUMENTS)
        await made.until(lambda: _is(made, Status.FALSE, "SourceUnavailable"), within=60)
        [host, *_] = made.world.hosts.values()
        host.remove(next(iter(host.places)))
        await made.until(lambda: made.runs("1.0.0") == 3, within=60)
        made.shelf.broken = None
        await made.until(lambda: _is(made, Status.TRUE, "Accepted"), within=60)


async def test_a_fault_is_told_once_however_often_it_is_met() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.until(lambda: made.runs("1.0.0") == 3)
        made.shelf.broken = "the repository does not answer"
        for _ in range(5):
            made.reconciler.request(DOCUMENTS)
            await made.until(lambda: made.reconciler.source_problem is not None)
        assert len([event for event in made.events if isinstance(event, SourceRefused)]) == 1


async def test_an_environment_that_vanished_is_kept_and_marked() -> None:
    async with rig(declared("1.0.0"), declared("1.0.0", environment=STAGING)) as made:
        await made.until(lambda: made.runs("1.0.0") == 6)
        made.shelf.put(declared("1.0.0"))
        await made.until(lambda: _undeclared(made), within=60)
        assert made.runs("1.0.0") == 6
        assert (await made.row()).undeclared_at is None
        assert len(await made.jobs(STAGING)) == 1
        made.shelf.put(declared("1.0.0"), declared("1.0.0", environment=STAGING))
        await made.until(lambda: _declared(made), within=60)


async def _undeclared(made: Rig) -> bool:
    return (await made.row(STAGING)).undeclared_at is not None


async def _declared(made: Rig) -> bool:
    return (await made.row(STAGING)).undeclared_at is None


async def test_a_release_of_the_same_name_with_other_content_is_refused_whole() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.until(lambda: made.runs("1.0.0") == 3)
        changed = declared("1.0.0", components=("api", "web"))
        made.shelf.put(changed, declared("2.0.0", environment=STAGING))
        await made.until(lambda: _is(made, Status.FALSE, "ReleaseChanged"), within=60)
        assert await made.store.read(lambda c: environments.load(c, STAGING)) is None
