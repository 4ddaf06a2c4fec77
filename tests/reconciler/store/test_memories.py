"""What is remembered: proven by evidence, risen and never fallen, forgotten only where it was meant."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Connection, event, text

from desired_state.model import DesiredState, Suspension
from reconciler.core.known import Known, Memory
from reconciler.core.machine import JobEvent
from reconciler.store import environments, jobs, memories, tasks
from reconciler.store.errors import LostLease, Violated
from reconciler.store.records import Circuit, HandSuspension, Job, Lease, Refusal
from reconciler.store.store import Store
from stickers.names import PlacementId
from tests.reconciler.core.builders import NOW, PROD, fleet, place
from tests.reconciler.store.builders import LATER, keep_good, settled, working


async def _known(store: Store) -> Known:
    return await store.read(lambda c: memories.known(c, PROD, NOW))


async def _good(store: Store, lease: Lease, desired: DesiredState, sequence: int = 2) -> None:
    await store.write(lambda c: memories.good(c, keep_good(c, desired, sequence), lease, NOW))


def _first(desired: DesiredState) -> PlacementId:
    return desired.placements[0].id


async def test_nothing_is_known_of_what_never_was(store: Store) -> None:
    assert await _known(store) == Known()


async def test_last_good_is_the_whole_placement_and_its_target(store: Store) -> None:
    desired = fleet(2)
    lease = await settled(store, desired)
    await _good(store, lease, desired)
    known = await _known(store)
    assert known.memories == {each.id: Memory(last_good=each, sequence=2) for each in desired.placements}
    assert known.targets == dict(desired.target_of)


async def test_many_are_remembered_as_few_are(store: Store) -> None:
    desired = fleet(50)
    lease = await settled(store, desired)
    await _good(store, lease, desired)
    assert (await _known(store)).memories.keys() == {each.id for each in desired.placements}


async def test_nothing_is_good_without_evidence_that_is_kept(store: Store) -> None:
    desired = fleet(1)
    lease = await settled(store, desired)
    [good] = await store.write(lambda c: keep_good(c, desired))
    with pytest.raises(Violated, match=r"(?i)foreign key"):
        await store.write(lambda c: memories.good(c, [replace(good, evidence="unheard of")], lease, NOW))
    assert (await _known(store)).memories == {}


async def test_a_later_good_follows_an_earlier_one_and_heals_are_not_forgotten(store: Store) -> None:
    old, new = fleet(1), fleet(1, "2.0.0")
    lease = await settled(store, old)
    await _good(store, lease, old)
    failed = {_first(old): Memory(attempts=3, not_before=LATER)}
    await store.write(lambda c: memories.heals(c, PROD, failed, lease))
    await _good(store, lease, new, sequence=5)
    later = Memory(last_good=new.placements[0], sequence=5, attempts=3, not_before=LATER)
    assert (await _known(store)).memories == {_first(new): later}


async def test_stepping_back_returns_to_what_was_good_before(store: Store) -> None:
    old, new = fleet(1), fleet(1, "2.0.0")
    lease = await settled(store, old)
    await _good(store, lease, old)
    await _good(store, lease, new)
    await _good(store, lease, new)  # proven again: what was before stays before
    await store.write(lambda c: memories.step_back(c, PROD, [_first(new)], lease, LATER))
    assert (await _known(store)).memories[_first(new)].last_good == old.placements[0]
    await store.write(lambda c: memories.step_back(c, PROD, [_first(new)], lease, LATER))
    assert (await _known(store)).memories[_first(new)].last_good is None


async def test_sequences_rise_and_never_fall(store: Store) -> None:
    lease = await settled(store)
    one, two = place(0), place(1)
    await store.write(lambda c: memories.raise_sequences(c, PROD, {one: 7, two: 3}, lease))
    await store.write(lambda c: memories.raise_sequences(c, PROD, {one: 5, two: 4}, lease))
    assert {id: memory.sequence for id, memory in (await _known(store)).memories.items()} == {one: 7, two: 4}


async def test_a_good_of_a_lower_sequence_does_not_lower_it(store: Store) -> None:
    desired = fleet(1)
    lease = await settled(store, desired)
    await store.write(lambda c: memories.raise_sequences(c, PROD, {_first(desired): 9}, lease))
    await _good(store, lease, desired, sequence=2)
    assert (await _known(store)).memories[_first(desired)].sequence == 9


async def test_heals_are_kept_as_they_were_counted(store: Store) -> None:
    lease = await settled(store)
    await store.write(lambda c: memories.raise_sequences(c, PROD, {place(0): 7}, lease))
    failed = {place(0): Memory(attempts=2, not_before=LATER), place(1): Memory(attempts=1)}
    await store.write(lambda c: memories.heals(c, PROD, failed, lease))
    assert (await _known(store)).memories == {
        place(0): Memory(sequence=7, attempts=2, not_before=LATER),
        place(1): Memory(attempts=1),
    }


async def test_forgetting_keeps_the_sequence_and_nothing_else(store: Store) -> None:
    desired = fleet(2)
    lease = await settled(store, desired)
    await _good(store, lease, desired, sequence=6)
    await store.write(lambda c: memories.forget(c, PROD, _first(desired), lease))
    known = await _known(store)
    assert known.memories[_first(desired)] == Memory(sequence=6)
    assert set(known.targets) == {desired.placements[1].id.target}


async def test_a_target_stays_known_while_one_of_its_placements_is_good(store: Store) -> None:
    desired = fleet(1, components=("api", "web"))
    lease = await settled(store, desired)
    await _good(store, lease, desired)
    await store.write(lambda c: memories.forget(c, PROD, desired.placements[0].id, lease))
    assert set((await _known(store)).targets) == {desired.targets[0].id}


async def test_a_refused_trial_is_known_until_a_person_lifts_it(store: Store) -> None:
    desired = fleet(1)
    lease = await settled(store, desired)
    job = await working(store, lease, desired)
    refusal = Refusal(placement=desired.placements[0], reason="not healthy within 60 s", job=job.id)
    await store.write(lambda c: memories.refuse(c, refusal, lease, NOW))
    trial = desired.placements[0].trial
    assert (await _known(store)).refused == {trial: "not healthy within 60 s"}
    [shown] = await store.read(lambda c: memories.refused(c, PROD))
    assert (shown.trial, shown.id, shown.release, shown.job) == (trial, _first(desired), "shop@1.0.0", job.id)
    assert await store.write(lambda c: memories.lift(c, PROD, "joe", LATER)) == 1
    assert (await _known(store)).refused == {}
    assert await store.write(lambda c: memories.lift(c, PROD, "joe", LATER)) == 0


async def test_a_lifted_trial_that_fails_again_is_refused_again(store: Store) -> None:
    desired = fleet(1)
    lease = await settled(store, desired)
    job = await working(store, lease, desired)
    refusal = Refusal(placement=desired.placements[0], reason="first", job=job.id)
    await store.write(lambda c: memories.refuse(c, refusal, lease, NOW))
    await store.write(lambda c: memories.lift(c, PROD, "joe", LATER))
    await store.write(lambda c: memories.refuse(c, replace(refusal, reason="second"), lease, LATER))
    assert list((await _known(store)).refused.values()) == ["second"]


async def test_an_open_circuit_is_known_until_its_time_and_counts_until_a_success(store: Store) -> None:
    lease = await settled(store)
    target = place(0).target
    opened = Circuit(target=target, failures=4, open_until=LATER)
    await store.write(lambda c: memories.circuit(c, PROD, opened, lease))
    assert (await _known(store)).circuits == {target: LATER}
    assert (await store.read(lambda c: memories.known(c, PROD, LATER))).circuits == {}
    assert await store.read(lambda c: memories.circuits(c, PROD)) == {target: opened}
    closed = Circuit(target=target, failures=0, open_until=None)
    await store.write(lambda c: memories.circuit(c, PROD, closed, lease))
    assert await store.read(lambda c: memories.circuits(c, PROD)) == {}


async def test_the_keys_of_an_active_job_are_known_and_of_an_ended_one_are_not(store: Store) -> None:
    desired = fleet(2)
    lease = await settled(store, desired)
    job: Job = await working(store, lease, desired)
    keys = {task.key for task in await store.read(lambda c: tasks.of(c, job))}
    assert (await _known(store)).active_keys == keys
    await store.write(lambda c: jobs.advance(c, job, JobEvent.CANCEL, lease, NOW))
    assert (await _known(store)).active_keys == frozenset()


async def test_a_suspension_by_hand_is_known_until_it_ends(store: Store) -> None:
    await settled(store)
    hand = HandSuspension(reason="audit", actor="joe", since=NOW, until=LATER)
    await store.write(lambda c: environments.suspend(c, PROD, hand))
    assert (await _known(store)).suspended == Suspension(reason="audit", until=LATER)
    assert (await store.read(lambda c: memories.known(c, PROD, LATER))).suspended is None


async def test_no_memory_is_written_under_a_lost_lease(store: Store) -> None:
    desired = fleet(1)
    lease = await settled(store, desired)
    job = await working(store, lease, desired)
    goods = await store.write(lambda c: keep_good(c, desired))
    lost = replace(lease, token=lease.token + 1)
    id, refusal = _first(desired), Refusal(placement=desired.placements[0], reason="bad", job=job.id)
    writes = (
        lambda c: memories.good(c, goods, lost, NOW),
        lambda c: memories.raise_sequences(c, PROD, {id: 9}, lost),
        lambda c: memories.heals(c, PROD, {id: Memory(attempts=1)}, lost),
        lambda c: memories.refuse(c, refusal, lost, NOW),
        lambda c: memories.circuit(c, PROD, Circuit(target=id.target, failures=1, open_until=None), lost),
        lambda c: memories.forget(c, PROD, id, lost),
        lambda c: memories.step_back(c, PROD, [id], lost, NOW),
    )
    before = await _known(store)
    for write in writes:
        with pytest.raises(LostLease):
            await store.write(write)
    assert await _known(store) == before


# -- read anew only where something was written ------------------------------------------------------------------------


async def test_unchanged_memories_are_the_very_same_objects(store: Store) -> None:
    desired = fleet(3)
    lease = await settled(store, desired)
    await _good(store, lease, desired)
    known = await _known(store)
    await store.write(lambda c: memories.raise_sequences(c, PROD, {_first(desired): 1}, lease))  # lower: not written
    again = await _known(store)
    assert again.memories is known.memories
    assert again.targets is known.targets


async def test_a_write_to_one_placement_does_not_read_the_others(store: Store) -> None:
    desired = fleet(3)
    lease = await settled(store, desired)
    goods = await store.write(lambda c: keep_good(c, desired))
    said: list[str] = []
    event.listen(
        store._writer, "before_cursor_execute", lambda c, cursor, statement, *_: said.append(statement.lower())
    )

    def outcome(c: Connection) -> None:
        memories.raise_sequences(c, PROD, {_first(desired): 9}, lease)
        memories.good(c, goods[:1], lease, NOW)
        memories.raise_sequences(c, PROD, {_first(desired): 12}, lease)

    await store.write(outcome)
    assert not [each for each in said if each.startswith("select") and ("from memory" in each or "last_good" in each)]


async def test_every_write_to_a_memory_is_seen_at_once_also_within_its_transaction(store: Store) -> None:
    desired = fleet(2)
    lease = await settled(store, desired)
    id = _first(desired)
    await _good(store, lease, desired)
    writes = (
        lambda c: memories.raise_sequences(c, PROD, {id: 9}, lease),
        lambda c: memories.heals(c, PROD, {id: Memory(attempts=1)}, lease),
        lambda c: memories.good(c, keep_good(c, fleet(2, "2.0.0")), lease, NOW),
        lambda c: memories.step_back(c, PROD, [id], lease, NOW),
        lambda c: memories.forget(c, PROD, id, lease),
    )
    for write in writes:
        before = await _known(store)

        def both(c: Connection, write=write) -> Known:  # type: ignore[no-untyped-def]
            write(c)
            return memories.known(c, PROD, NOW)

        within = await store.write(both)
        after = await _known(store)
        assert within.memories == after.memories != before.memories


async def test_what_was_rolled_back_is_not_remembered(store: Store) -> None:
    lease = await settled(store)
    before = await _known(store)

    def fails(c: Connection) -> None:
        memories.raise_sequences(c, PROD, {place(0): 9}, lease)
        assert memories.known(c, PROD, NOW).memories
        raise RuntimeError("changed its mind")

    with pytest.raises(RuntimeError):
        await store.write(fails)
    assert await _known(store) == before


async def test_memories_of_two_stores_are_not_mixed_up() -> None:
    stores = [await Store.open("sqlite://") for _ in range(2)]
    leases = [await settled(store) for store in stores]
    for number, (store, lease) in enumerate(zip(stores, leases, strict=True)):
        await store.write(lambda c, n=number, lease=lease: memories.raise_sequences(c, PROD, {place(0): 5 + n}, lease))
    for number, store in enumerate(stores):
        assert (await _known(store)).memories[place(0)].sequence == 5 + number
        await store.aclose()


async def test_a_store_put_back_to_an_older_copy_shows_what_the_copy_knows(sqlite: str) -> None:
    store = await Store.open(sqlite, inline=True)
    lease = await settled(store)
    await store.write(lambda c: memories.raise_sequences(c, PROD, {place(0): 5}, lease))
    stamp = await store.read(lambda c: c.execute(text("select memories from environment")).scalar_one())
    await store.write(lambda c: memories.raise_sequences(c, PROD, {place(0): 6}, lease))
    newer = await _known(store)

    def put_back(c: Connection) -> None:
        c.execute(text("drop trigger memory_rises"))
        c.execute(text("update memory set sequence = 5"))
        c.execute(text("update environment set memories = :stamp"), {"stamp": stamp})

    await store.write(put_back)
    assert newer.memories[place(0)].sequence == 6
    assert (await _known(store)).memories[place(0)].sequence == 5
    await store.aclose()


async def test_the_time_of_a_heal_comes_back_as_it_was_given(store: Store) -> None:
    lease = await settled(store)
    moment = NOW + timedelta(microseconds=123_456)
    await store.write(lambda c: memories.heals(c, PROD, {place(0): Memory(attempts=1, not_before=moment)}, lease))
    assert (await _known(store)).memories[place(0)].not_before == moment
