"""Environments: what was accepted stays in force, a generation is a new meaning, and people's words are kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import event

from reconciler.core.conditions import Condition, ConditionType, Status
from reconciler.store import environments, memories
from reconciler.store.errors import LostLease, Missing
from reconciler.store.records import Accepted, EnvironmentRow, HandSuspension
from reconciler.store.store import Store
from stickers.names import EnvironmentId, ReleaseName
from tests.reconciler.core.builders import NOW, PROD, fleet
from tests.reconciler.store.builders import LATER, keep_good, settled

NOWHERE = EnvironmentId("default/nowhere")
READY = Condition(
    type=ConditionType.READY, status=Status.TRUE, reason="InSync", message="every placement is as declared",
    generation=1, since=NOW,
)  # fmt: skip


async def _row(store: Store) -> EnvironmentRow:
    row = await store.read(lambda c: environments.load(c, PROD))
    assert row is not None
    return row


async def test_what_is_accepted_is_in_force(store: Store) -> None:
    desired = fleet(3)
    accepted = await store.write(lambda c: environments.accept(c, desired, now=NOW))
    assert accepted == Accepted(generation=1, changed=True)
    found = await store.read(lambda c: environments.desired(c, PROD))
    assert found == desired
    assert found.digest == desired.digest
    assert await _row(store) == EnvironmentRow(
        id=PROD, generation=1, desired=desired.digest, release=ReleaseName("shop@1.0.0"), revision="r1", accepted_at=NOW
    )


async def test_another_meaning_is_another_generation(store: Store) -> None:
    await store.write(lambda c: environments.accept(c, fleet(1), now=NOW))
    accepted = await store.write(lambda c: environments.accept(c, fleet(1, "2.0.0"), now=LATER))
    assert accepted == Accepted(generation=2, changed=True)
    row = await _row(store)
    assert (row.release, row.accepted_at, row.generation) == ("shop@2.0.0", LATER, 2)


async def test_the_same_meaning_of_another_revision_changes_nothing(store: Store) -> None:
    await store.write(lambda c: environments.accept(c, fleet(1), now=NOW))
    again = replace(fleet(1), revision="r2")
    assert await store.write(lambda c: environments.accept(c, again, now=LATER)) == Accepted(
        generation=1, changed=False
    )
    row = await _row(store)
    assert (row.revision, row.accepted_at) == ("r1", NOW)


async def test_nothing_new_is_nothing_written(store: Store) -> None:
    await store.write(lambda c: environments.accept(c, fleet(1), now=NOW))
    said: list[str] = []
    event.listen(store._writer, "before_cursor_execute", lambda c, cursor, statement, *_: said.append(statement))
    await store.write(lambda c: environments.accept(c, fleet(1), now=LATER))
    assert not [each for each in said if each.lower().startswith(("insert", "update", "delete"))]


async def test_an_undeclared_environment_keeps_what_was_accepted_until_it_is_declared_again(store: Store) -> None:
    await store.write(lambda c: environments.accept(c, fleet(1), now=NOW))
    await store.write(lambda c: environments.mark_undeclared(c, [PROD, NOWHERE], NOW))
    await store.write(lambda c: environments.mark_undeclared(c, [PROD], LATER))
    assert (await _row(store)).undeclared_at == NOW
    assert await store.read(lambda c: environments.desired(c, PROD)) == fleet(1)
    await store.write(lambda c: environments.accept(c, fleet(1), now=LATER))
    assert (await _row(store)).undeclared_at is None


async def test_what_was_never_accepted_is_none(store: Store) -> None:
    assert await store.read(lambda c: environments.load(c, NOWHERE)) is None
    assert await store.read(lambda c: environments.desired(c, NOWHERE)) is None
    assert await store.read(environments.all) == ()


async def test_all_environments_are_listed_by_name(store: Store) -> None:
    for name in ("prod", "dev"):
        id = EnvironmentId(f"default/{name}")
        desired = fleet(1)
        desired = replace(desired, environment=replace(desired.environment, id=id))
        await store.write(lambda c, desired=desired: environments.accept(c, desired, now=NOW))
    assert [row.id for row in await store.read(environments.all)] == ["default/dev", "default/prod"]


async def test_a_suspension_by_hand_has_a_reason_and_an_actor_and_ends_by_hand(store: Store) -> None:
    await settled(store)
    hand = HandSuspension(reason="audit", actor="joe", since=NOW, until=LATER)
    await store.write(lambda c: environments.suspend(c, PROD, hand))
    assert (await _row(store)).suspended == hand
    await store.write(lambda c: environments.resume(c, PROD, "ada", NOW))
    assert (await _row(store)).suspended is None


async def test_what_nobody_knows_cannot_be_suspended(store: Store) -> None:
    hand = HandSuspension(reason="audit", actor="joe", since=NOW)
    with pytest.raises(Missing, match="no environment default/nowhere is known"):
        await store.write(lambda c: environments.suspend(c, NOWHERE, hand))


async def test_conditions_are_written_when_they_differ_and_not_otherwise(store: Store) -> None:
    lease = await settled(store)
    await store.write(lambda c: environments.set_conditions(c, PROD, [READY], lease))
    assert (await _row(store)).conditions == (READY,)
    said: list[str] = []
    event.listen(store._writer, "before_cursor_execute", lambda c, cursor, statement, *_: said.append(statement))
    await store.write(lambda c: environments.set_conditions(c, PROD, [READY], lease))
    assert not [each for each in said if each.lower().startswith("update")]
    stalled = replace(READY, status=Status.FALSE, since=LATER)
    await store.write(lambda c: environments.set_conditions(c, PROD, [stalled], lease))
    assert (await _row(store)).conditions == (stalled,)


async def test_attempted_is_not_applied(store: Store) -> None:
    lease = await settled(store)
    await store.write(lambda c: environments.attempted(c, PROD, ReleaseName("shop@2.0.0"), lease))
    assert ((await _row(store)).last_attempted, (await _row(store)).last_applied) == ("shop@2.0.0", None)
    await store.write(lambda c: environments.applied(c, PROD, ReleaseName("shop@1.0.0"), lease))
    assert ((await _row(store)).last_attempted, (await _row(store)).last_applied) == ("shop@2.0.0", "shop@1.0.0")


async def test_status_is_not_written_under_a_lost_lease(store: Store) -> None:
    lease = replace(await settled(store), token=99)
    for write in (
        lambda c: environments.set_conditions(c, PROD, [READY], lease),
        lambda c: environments.attempted(c, PROD, ReleaseName("shop@2.0.0"), lease),
        lambda c: environments.applied(c, PROD, ReleaseName("shop@2.0.0"), lease),
    ):
        with pytest.raises(LostLease):
            await store.write(write)
    row = await _row(store)
    assert (row.conditions, row.last_attempted, row.last_applied) == ((), None, None)


async def test_targets_that_were_good_once_stay_known_when_nobody_declares_them(store: Store) -> None:
    desired = fleet(3)
    lease = await settled(store, desired)
    await store.write(lambda c: memories.good(c, keep_good(c, desired), lease, NOW))
    await store.write(lambda c: environments.accept(c, fleet(1), now=LATER))
    assert await store.read(lambda c: environments.known_targets(c, PROD)) == desired.targets
