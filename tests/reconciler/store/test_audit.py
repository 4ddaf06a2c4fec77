"""The audit log: written with the change or not at all, one chain per environment, and nothing in it changes unseen."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, delete, insert, select, text

from reconciler.core.machine import JobEvent
from reconciler.store import audit, engines, environments, jobs, memories, rules
from reconciler.store.audit import Entry, Fault, Head
from reconciler.store.errors import JobActive
from reconciler.store.records import HandSuspension, Refusal, Wish
from reconciler.store.store import Store
from reconciler.store.tables import audit as table
from reconciler.store.tables import metadata
from stickers import digest
from stickers.names import Digest, EnvironmentId
from tests.reconciler.core.builders import NOW, PROD, fleet
from tests.reconciler.store.builders import LATER, settled, working

CHAIN = "default/prod"


def written(c: Connection, count: int, chain: EnvironmentId | None = PROD) -> None:
    for number in range(count):
        said = {"number": number, "name": "ä\x00\ud800"}
        audit.append(c, environment=chain, actor="ada", action="tested", subject=f"s{number}", detail=said, now=NOW)


async def heard(store: Store, chain: str = CHAIN) -> list[tuple[str, str]]:
    entries = await store.read(lambda c: audit.following(c, audit.beginning(chain), 100))
    return [(each.action, each.actor) for each in entries]


async def test_entries_count_up_and_follow_each_other(store: Store) -> None:
    await store.write(lambda c: written(c, 3))
    entries = await store.read(lambda c: audit.following(c, audit.beginning(CHAIN), 10))
    assert [each.seq for each in entries] == [1, 2, 3]
    assert audit.fault(entries, audit.beginning(CHAIN)) == entries[-1].head
    assert entries[0].prev == audit.beginning(CHAIN).hash


async def test_chains_are_apart(store: Store) -> None:
    await store.write(lambda c: written(c, 2))
    await store.write(lambda c: written(c, 1, None))
    assert await store.read(audit.chains) == (CHAIN, audit.INSTALLATION)
    assert (await store.read(lambda c: audit.head(c, audit.INSTALLATION))).seq == 1


async def test_a_change_that_fails_leaves_no_entry(store: Store) -> None:
    lease = await settled(store)
    await working(store, lease)
    before = await heard(store)
    with pytest.raises(JobActive):
        await working(store, lease)
    assert await heard(store) == before


async def test_what_a_job_lives_through_is_heard_with_its_actors(store: Store) -> None:
    lease = await settled(store)
    job = await working(store, lease)
    await store.write(lambda c: jobs.request(c, job.id, Wish.CANCEL, "ada", NOW))
    fresh = await store.read(lambda c: jobs.load(c, job.id))
    assert fresh is not None
    await store.write(lambda c: jobs.advance(c, fresh, JobEvent.CANCEL, lease, LATER))
    assert await heard(store) == [
        ("documents.accepted", "holdfast"),
        ("job.created", "holdfast"),
        ("job.cancel.asked", "ada"),
        ("job.cancelled", "holdfast"),
    ]


async def test_suspending_and_resuming_are_heard_once_each(store: Store) -> None:
    await settled(store)
    hand = HandSuspension(reason="database", actor="ada", since=NOW, until=None)
    await store.write(lambda c: environments.suspend(c, PROD, hand))
    await store.write(lambda c: environments.resume(c, PROD, "joe", LATER))
    await store.write(lambda c: environments.resume(c, PROD, "joe", LATER))
    assert (await heard(store))[1:] == [("environment.suspended", "ada"), ("environment.resumed", "joe")]


async def test_lifting_what_is_refused_is_heard_when_there_was_something(store: Store) -> None:
    lease = await settled(store)
    job = await working(store, lease)
    refusal = Refusal(placement=fleet(2).placements[0], reason="bad", job=job.id)
    await store.write(lambda c: memories.lift(c, PROD, "ada", NOW))
    await store.write(lambda c: memories.refuse(c, refusal, lease, NOW))
    await store.write(lambda c: memories.lift(c, PROD, "ada", LATER))
    assert [each for each in await heard(store) if each[0] == "refused.lifted"] == [("refused.lifted", "ada")]


async def test_only_a_desire_with_another_meaning_is_heard(store: Store) -> None:
    first, other = fleet(1), fleet(2)
    await store.write(lambda c: environments.accept(c, first, now=NOW))
    await store.write(lambda c: environments.accept(c, replace(first, revision="later"), now=NOW))
    await store.write(lambda c: environments.accept(c, other, now=LATER, actor="ada"))
    await store.write(lambda c: environments.mark_undeclared(c, [PROD], LATER))
    await store.write(lambda c: environments.mark_undeclared(c, [PROD], LATER))
    assert await heard(store) == [
        ("documents.accepted", "holdfast"),
        ("documents.accepted", "ada"),
        ("environment.undeclared", "holdfast"),
    ]


async def test_pages_lead_through_everything_newest_first(store: Store) -> None:
    await store.write(lambda c: written(c, 5))
    await store.write(lambda c: written(c, 2, None))
    for chain, numbers in ((CHAIN, [5, 4, 3, 2, 1]), (None, [2, 1, 5, 4, 3, 2, 1])):
        seen, before = [], None
        for _ in range(4):
            page = await store.read(lambda c, chain=chain, before=before: audit.page(c, chain, before=before, limit=2))
            seen += [each.seq for each in page.items]
            before = page.before
            if before is None:
                break
        assert seen == numbers


def test_writers_at_once_make_one_chain_without_a_fork(postgresql: str) -> None:
    """Ten connections of their own, as ten replicas would be."""

    def writes(name: int) -> None:
        engine = engines.writer(postgresql)
        try:
            for number in range(10):
                with engine.begin() as c:
                    audit.append(
                        c,
                        environment=PROD,
                        actor=f"replica {name}",
                        action="tested",
                        subject="s",
                        detail={"number": number},
                        now=NOW,
                    )
        finally:
            engine.dispose()

    with ThreadPoolExecutor(10) as threads:
        list(threads.map(writes, range(10)))
    engine = engines.writer(postgresql)
    with engine.connect() as c:
        entries = audit.following(c, audit.beginning(CHAIN), 1000)
    engine.dispose()
    assert audit.fault(entries, audit.beginning(CHAIN)) == Head(chain=CHAIN, seq=100, hash=entries[-1].hash)


async def test_the_database_refuses_a_fork_whatever_the_code_does(store: Store) -> None:
    await store.write(lambda c: written(c, 2))
    first = await store.read(lambda c: audit.entry(c, CHAIN, 1))
    assert first is not None

    def forked(c: Connection) -> None:
        row = dict(c.execute(select(table).where(table.c.seq == 2)).mappings().one())
        c.execute(insert(table).values(row | {"seq": 3}))

    with pytest.raises(Exception, match=r"audit_follows_once|audit\.chain, audit\.prev"):
        await store.write(forked)


# -- what is done to a copy is found, and where ------------------------------------------------------------------------


LENGTH = 6


def honest(count: int = LENGTH) -> list[Entry]:
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.begin() as c:
        written(c, count)
        return list(audit.following(c, audit.beginning(CHAIN), count))


HONEST = honest()
EDITS = {
    "actor": "somebody else",
    "action": "another",
    "subject": "another",
    "detail": '{"number":9}',
    "at": LATER,
    "hash": Digest("sha256:" + "0" * 64),
    "prev": Digest("sha256:" + "0" * 64),
}


@pytest.mark.parametrize("at", range(LENGTH))
@pytest.mark.parametrize("field", EDITS)
def test_an_edited_entry_is_named(at: int, field: str) -> None:
    entries = list(HONEST)
    entries[at] = replace(entries[at], **{field: EDITS[field]})
    assert _named(entries) == at + 1


@pytest.mark.parametrize("at", range(LENGTH - 1))
def test_a_removed_entry_is_named(at: int) -> None:
    assert _named(HONEST[:at] + HONEST[at + 1 :]) == at + 1


@pytest.mark.parametrize("at", range(LENGTH - 1))
def test_a_removed_entry_is_named_when_the_rest_is_counted_anew(at: int) -> None:
    rest = [replace(each, seq=each.seq - 1) for each in HONEST[at + 1 :]]
    assert _named(HONEST[:at] + rest) == at + 1


@pytest.mark.parametrize("at", range(LENGTH - 1))
def test_two_swapped_entries_are_named(at: int) -> None:
    one, two = HONEST[at], HONEST[at + 1]
    assert _named([*HONEST[:at], replace(two, seq=one.seq), replace(one, seq=two.seq), *HONEST[at + 2 :]]) == at + 1


@pytest.mark.parametrize("at", range(LENGTH - 1))
def test_an_edited_entry_that_is_sealed_anew_is_found_at_the_next(at: int) -> None:
    forged = resealed(replace(HONEST[at], actor="somebody else"))
    assert _named([*HONEST[:at], forged, *HONEST[at + 1 :]]) == at + 2


@pytest.mark.parametrize("at", range(LENGTH + 1))
def test_an_inserted_entry_is_named(at: int) -> None:
    after = HONEST[at - 1].head if at else audit.beginning(CHAIN)
    slipped = resealed(replace(HONEST[0], seq=at + 1, prev=after.hash, actor="nobody"))
    rest = [replace(each, seq=each.seq + 1) for each in HONEST[at:]]
    if at < LENGTH:
        assert _named([*HONEST[:at], slipped, *rest]) == at + 2
    else:
        assert audit.fault([*HONEST, slipped], audit.beginning(CHAIN)) == slipped.head  # at its end a chain is open


def test_a_chain_is_not_taken_for_another() -> None:
    moved = [replace(each, chain="default/staging") for each in HONEST]
    assert _named(moved, "default/staging") == 1


@pytest.mark.parametrize("at", range(LENGTH))
def test_a_chain_cut_at_its_end_is_whole_in_itself_which_only_a_checkpoint_tells(at: int) -> None:
    assert not isinstance(audit.fault(HONEST[:at], audit.beginning(CHAIN)), Fault)


@given(
    keep=st.lists(st.integers(0, LENGTH - 1), max_size=LENGTH + 2),
    edit=st.none() | st.tuples(st.integers(0, LENGTH - 1), st.sampled_from(sorted(EDITS))),
)
def test_whatever_is_done_only_a_beginning_of_the_chain_passes(keep: list[int], edit: tuple[int, str] | None) -> None:
    changed = list(HONEST)
    if edit is not None:
        changed[edit[0]] = replace(changed[edit[0]], **{edit[1]: EDITS[edit[1]]})
    entries = [changed[at] for at in keep]
    passes = not isinstance(audit.fault(entries, audit.beginning(CHAIN)), Fault)
    assert passes == (entries == HONEST[: len(entries)])


async def test_what_is_done_to_the_rows_themselves_is_found(store: Store) -> None:
    await store.write(lambda c: written(c, 4))

    def falsified(c: Connection) -> None:
        on = " on audit" if c.dialect.name == "postgresql" else ""
        for rule in rules.RULES:
            if rule.table == "audit":
                c.execute(text(f"drop trigger {rule.name}{on}"))
        c.execute(delete(table).where(table.c.seq == 3))

    await store.write(falsified)
    entries = await store.read(lambda c: audit.following(c, audit.beginning(CHAIN), 10))
    found = audit.fault(entries, audit.beginning(CHAIN))
    assert found == Fault(chain=CHAIN, seq=3, says="entry 3 is not there, entry 4 is")


def resealed(entry: Entry) -> Entry:
    said = {name: getattr(entry, name) for name in ("actor", "action", "subject", "detail")}
    return replace(entry, hash=audit.seal(entry.chain, entry.seq, entry.prev, entry.at, **said))


def _named(entries: list[Entry], chain: str = CHAIN) -> int:
    found = audit.fault(entries, audit.beginning(chain))
    assert isinstance(found, Fault), "nothing was found"
    return found.seq


def test_a_seal_covers_what_the_readme_says() -> None:
    each = HONEST[1]
    said = [each.chain, each.seq, each.prev, each.at, each.actor, each.action, each.subject, each.detail]
    assert each.hash == digest.of(said)
    assert each.prev == HONEST[0].hash
