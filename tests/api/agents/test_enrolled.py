"""The roll in memory: it says what the rows say, soon after they change, whoever has changed them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import anyio
import pytest

from api.agents.enrolled import Enrolled
from api.agents.roll import Contact, Presence, State
from drivers.agent.protocol import Key
from reconciler.bell import Bell
from reconciler.events import Event
from reconciler.store import agents, listening
from reconciler.store.agents import Certificate, Invite, Keys, Wanted
from reconciler.store.store import Store
from stickers.names import AgentName, TargetId
from stickers.signature import PublicKey, key_id
from tests.api.agents.offices import Clock
from tests.api.agents.test_channel import until
from tests.harness import postgres

Now = Callable[[], datetime]
WEB, DB = AgentName("web"), AgentName("db")
T1, T2 = TargetId("default/t1"), TargetId("default/t2")


@pytest.fixture
async def store(tmp_path: Path, blank: Path, clock: Clock) -> AsyncIterator[Store]:
    import shutil

    shutil.copy(blank, tmp_path / "holdfast.db")
    opened = await Store.open(f"sqlite:///{tmp_path / 'holdfast.db'}", now=clock)
    yield opened
    await opened.aclose()


@pytest.fixture
def roll(store: Store, clock: Clock) -> Enrolled:
    return Enrolled(store, now=clock, sink=lambda event: None, url="https://here:1")


def signing(name: str) -> str:
    return name.encode().ljust(32, b"-").hex()


async def enrolled(
    store: Store, clock: Now, name: AgentName, *targets: TargetId, shared: bool = False, key: str = "1"
) -> int:
    """The number of the certificate that it joins with."""
    now, hash = clock(), f"{name}{key}"
    invite = Invite(hash=hash, agent=name, created_at=now, created_by="ann", expires_at=now + timedelta(minutes=15))
    keys = Keys(key=hash, signing=signing(name), sealing=signing(name))
    await store.write(lambda c: agents.invite(c, invite, targets, ["docker"], shared=shared))
    done = await store.write(lambda c: agents.join(c, hash, keys, lambda it: issued(it, hash, clock), by="", now=now))
    assert isinstance(done, agents.Issued)
    return done.certificate.serial


def issued(wanted: Wanted, key: str, clock: Now) -> Certificate:
    return Certificate(
        serial=int.from_bytes(key.encode()),
        agent=wanted.agent,
        generation=wanted.generation,
        key=key,
        issuer="issuer",
        pem="",
        issued_at=clock(),
        not_after=clock() + timedelta(hours=24),
    )


def state(roll: Enrolled, serial: int) -> State | None:
    member = roll.by_serial(serial)
    return None if member is None else member.state


async def test_the_same_object_is_given_out_while_nothing_about_the_agent_changes(
    store: Store, clock: Clock, roll: Enrolled
) -> None:
    serial = await enrolled(store, clock, WEB, T1)
    await roll.refresh()
    member = roll.by_serial(serial)
    await enrolled(store, clock, DB, T2)
    await roll.refresh()
    assert roll.by_serial(serial) is member
    assert roll.serves(T1) == (member,)
    await store.write(lambda c: agents.grant(c, WEB, ["systemd"], True, "ann", clock()))
    await roll.refresh()
    assert roll.by_serial(serial) is not member
    assert member is not None
    assert member.kinds == frozenset({"docker"})


async def test_a_certificate_ends_by_itself(store: Store, clock: Clock, roll: Enrolled) -> None:
    serial = await enrolled(store, clock, WEB, T1)
    await roll.refresh()
    clock.on(hours=24)
    assert state(roll, serial) is None


async def test_of_a_retired_issuer_nothing_counts(store: Store, clock: Clock, roll: Enrolled) -> None:
    serial = await enrolled(store, clock, WEB, T1)
    one = agents.Authority(id="issuer", role="issuer", pem="", made_at=clock())
    await store.write(lambda c: agents.keep_authority(c, one, "ann"))
    await roll.refresh()
    assert state(roll, serial) is State.ACTIVE
    await store.write(lambda c: agents.retire_authority(c, "issuer", "ann", clock()))
    await roll.refresh()
    assert state(roll, serial) is None
    assert roll.retired == frozenset({"issuer"})


async def test_who_holds_a_shared_target_comes_first(store: Store, clock: Clock, roll: Enrolled) -> None:
    await enrolled(store, clock, WEB, T1, shared=True)
    await enrolled(store, clock, DB, T1, shared=True)
    await roll.refresh()
    assert [each.agent for each in roll.serves(T1)] == [WEB, DB]
    await store.write(lambda c: agents.hand_over(c, DB, T1, "ann", clock()))
    await roll.refresh()
    assert [each.agent for each in roll.serves(T1)] == [DB, WEB]


async def test_who_was_invited_and_has_not_joined_serves_and_does_not_speak(
    store: Store, clock: Clock, roll: Enrolled
) -> None:
    now = clock()
    invite = Invite(hash="h", agent=WEB, created_at=now, created_by="ann", expires_at=now + timedelta(minutes=15))
    await store.write(lambda c: agents.invite(c, invite, [T1], []))
    await roll.refresh()
    [member] = roll.serves(T1)
    assert (member.state, member.state.speaks, member.signing) == (State.INVITED, False, b"")


async def test_a_removed_agent_serves_nothing(store: Store, clock: Clock, roll: Enrolled) -> None:
    serial = await enrolled(store, clock, WEB, T1)
    await roll.refresh()
    await store.write(lambda c: agents.remove(c, WEB, "ann", clock()))
    await roll.refresh()
    assert roll.serves(T1) == ()
    assert state(roll, serial) is State.REMOVED


async def test_what_a_removed_agent_signed_is_still_evidence_and_its_stickers_are_believed_no_more(
    store: Store, clock: Clock, roll: Enrolled
) -> None:
    await enrolled(store, clock, WEB, T1)
    await store.write(lambda c: agents.remove(c, WEB, "ann", clock()))
    await roll.refresh()
    [key] = roll.keys
    assert key.retired
    assert key.allows("evidence:default/prod/t1")
    assert key.allows("result:default/prod/t1")
    assert not key.allows("sticker:default/prod/t1")


async def test_a_key_speaks_of_no_target_that_was_taken_from_the_agent(
    store: Store, clock: Clock, roll: Enrolled
) -> None:
    await enrolled(store, clock, WEB, T1, T2)
    await store.write(lambda c: agents.unbind(c, WEB, T2, "ann", clock()))
    await roll.refresh()
    [key] = roll.keys
    assert key.allows("sticker:default/prod/t1")
    assert key.allows("evidence:default/prod/t2")
    assert not key.allows("sticker:default/prod/t2")


async def test_an_old_certificate_is_to_be_renewed_at_once(store: Store, clock: Clock, roll: Enrolled) -> None:
    serial = await enrolled(store, clock, WEB, T1)
    await roll.refresh()
    member = roll.by_serial(serial)
    assert member is not None
    clock.on(hours=15, minutes=59)
    assert not roll.terms(member).renew
    clock.on(minutes=1)
    assert roll.terms(member).renew


async def test_an_agent_is_told_every_server_and_the_keys_that_speak_of_its_targets(store: Store, clock: Clock) -> None:
    own = PublicKey(id=key_id(b"x" * 32), public=b"x" * 32, subjects=("sticker:*",))
    roll = Enrolled(store, now=clock, sink=lambda event: None, url="https://here:1", base=lambda: [own])
    roll.elsewhere = lambda: ["https://there:1", "https://here:1"]
    serial = await enrolled(store, clock, WEB, T1, shared=True)
    await enrolled(store, clock, DB, T1, shared=True)
    await enrolled(store, clock, AgentName("other"), T2)
    await roll.refresh()
    member = roll.by_serial(serial)
    assert member is not None
    terms = roll.terms(member)
    assert terms.servers == ("https://here:1", "https://there:1")
    of_db = tuple(f"{each}:default/*/t1" for each in ("sticker", "evidence", "result"))
    assert terms.keys == (Key(public="78" * 32, subjects=("sticker:*",)), Key(public=signing("db"), subjects=of_db))


async def test_agents_keys_are_believed_of_their_own_targets_and_told_when_they_change(
    store: Store, clock: Clock, roll: Enrolled
) -> None:
    told: list[tuple[PublicKey, ...]] = []
    roll.believes = lambda keys: told.append(tuple(keys))
    await enrolled(store, clock, WEB, T1)
    await roll.refresh()
    [[key]] = told
    assert key.public.hex() == signing("web")
    assert key.allows("sticker:default/prod/t1")
    assert key.allows("result:default/prod/t1")
    for other in ("sticker:default/prod/t2", "sticker:default/prod", "action:default/prod/t1", "sticker:shop/prod/t1"):
        assert not key.allows(other), other
    await store.write(lambda c: agents.grant(c, WEB, ["systemd"], True, "ann", clock()))
    await roll.refresh()
    assert len(told) == 1  # rights have changed, and no key
    await store.write(lambda c: agents.lock(c, WEB, "why not", "ann", clock()))
    await roll.refresh()
    assert [each.retired for each in told[-1]] == [True]


async def test_first_uses_and_contacts_are_written_down(store: Store, clock: Clock, roll: Enrolled) -> None:
    serial = await enrolled(store, clock, WEB, T1)
    await roll.refresh()
    async with anyio.create_task_group() as group:
        group.start_soon(roll.run)
        assert state(roll, serial) is State.ACTIVE
        await anyio.sleep(0.5)  # longer than two looks that somebody asked for
        group.cancel_scope.cancel()
    assert (await store.read(lambda c: agents.certificates(c, WEB)))[0].used_at is not None
    contact = Contact(
        age=12.0,
        presence=Presence.ONLINE,
        generation=1,
        version="1",
        kinds=("docker",),
        queue=3,
        way="polling",
        peer="p",
    )
    await roll.heard({WEB: contact})
    row = await store.read(lambda c: agents.by_name(c, WEB))
    assert row is not None
    assert (row.heard_at, row.queue, row.way) == (clock() - timedelta(seconds=12), 3, "polling")


async def test_after_the_first_look_only_what_has_changed_is_read(store: Store, clock: Clock, roll: Enrolled) -> None:
    def fill(c: object) -> None:
        for number in range(300):
            name = AgentName(f"web-{number}")
            invite = Invite(
                hash=name, agent=name, created_at=clock(), created_by="ann", expires_at=clock() + timedelta(minutes=15)
            )
            agents.invite(c, invite, [TargetId(f"default/t-{number}")], [])  # type: ignore[arg-type]

    await store.write(fill)
    await roll.refresh()
    assert roll.serves(TargetId("default/t-299"))[0].agent == "web-299"
    seen = roll.revision
    await store.write(lambda c: agents.lock(c, AgentName("web-7"), "why not", "ann", clock()))
    changed = await store.read(lambda c: agents.changed(c, seen, clock()))
    assert [each.name for each in changed.agents] == ["web-7"]


# -- on PostgreSQL, where another replica changes something -----------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(postgres.given_postgres())
        except postgres.NoPostgres as reason:
            pytest.skip(str(reason))


async def test_what_another_replica_locks_is_locked_here_at_once(server: str) -> None:
    """Long before the next look that nobody asked for."""
    clock = Clock()
    with postgres.database(server) as address:
        here, there = await Store.open(address), await Store.open(address)
        roll = Enrolled(here, now=clock, sink=lambda event: None)
        bell = Bell(here, lambda: listening.heard(address), sink=_nowhere, random=Random(1))
        bell.heard = lambda word: roll.nudge()
        serial = await enrolled(there, clock, WEB, T1)
        await roll.refresh()
        async with anyio.create_task_group() as group:
            group.start_soon(bell.run)
            group.start_soon(roll.run)
            await anyio.sleep(0.5)  # the line is laid
            assert state(roll, serial) is State.ACTIVE
            await there.write(lambda c: agents.lock(c, WEB, "why not", "ann", clock()))
            await until(lambda: state(roll, serial) is State.LOCKED, within=1.5)
            group.cancel_scope.cancel()
        await here.aclose()
        await there.aclose()


def _nowhere(event: Event) -> None:
    pass
