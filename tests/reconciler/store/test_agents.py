"""Agents as rows: what counts is decided once, whoever asks at the same time, on both databases."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from reconciler.store import agents, audit, history, leases
from reconciler.store.agents import Heard, Issued, Keys, NameInUse, Refusal, Refused, TargetTaken, Wanted
from reconciler.store.errors import Missing
from reconciler.store.records import AgentState
from reconciler.store.store import Store
from stickers.names import AgentName, TargetId
from tests.reconciler.core.builders import NOW, PROD, fleet
from tests.reconciler.store.builders import TTL, certified, invited, judged, settled

WEB, DB = AgentName("web"), AgentName("db")
T1, T2 = TargetId("default/t1"), TargetId("default/t2")


async def bound(store: Store, name: AgentName, *targets: TargetId, shared: bool = False) -> None:
    await store.write(lambda c: agents.invite(c, invited(name), targets, ["docker"], shared=shared))


def keys(key: str) -> Keys:
    return Keys(key=key, signing=f"signing {key}", sealing=f"sealing {key}")


async def joined(store: Store, name: AgentName, key: str, later: float = 0) -> Issued | Refused:
    now = NOW + timedelta(seconds=later)
    return await store.write(
        lambda c: agents.join(c, invited(name).hash, keys(key), lambda it: certified(it, key, now), by="there", now=now)
    )


async def renewed(store: Store, before: str, key: str, minutes: float) -> Issued | Refused:
    now = NOW + timedelta(minutes=minutes)
    serial = certified(Wanted(agent=WEB, generation=1), before).serial
    return await store.write(
        lambda c: agents.renew(c, serial, before, key, lambda it: certified(it, key, now), by="there", now=now)
    )


async def state(store: Store, name: AgentName = WEB) -> AgentState:
    found = await store.read(lambda c: agents.by_name(c, name))
    assert found is not None
    return found.state


async def test_what_was_bound_and_granted_is_what_the_roll_is_told(store: Store) -> None:
    await bound(store, WEB, T1, T2)
    assert isinstance(await joined(store, WEB, "k1"), Issued)
    changed = await store.read(lambda c: agents.changed(c, 0, NOW))
    assert [(each.name, each.state, each.generation, each.granted) for each in changed.agents] == [
        (WEB, AgentState.ACTIVE, 1, ("docker",))
    ]
    assert {each.target for each in changed.bound} == {T1, T2}
    assert [each.generation for each in changed.certificates] == [1]


async def test_only_what_changed_since_is_told(store: Store) -> None:
    await bound(store, WEB, T1)
    await bound(store, DB, T2)
    seen = await store.read(agents.revision)
    await store.write(lambda c: agents.lock(c, DB, "why not", "joe", NOW))
    changed = await store.read(lambda c: agents.changed(c, seen, NOW))
    assert [each.name for each in changed.agents] == [DB]
    assert (await store.read(lambda c: agents.changed(c, changed.revision, NOW))).agents == ()


async def test_contacts_change_nobodys_rights(store: Store) -> None:
    await bound(store, WEB, T1)
    seen = await store.read(agents.revision)
    at = NOW + timedelta(seconds=5)
    row = Heard(
        agent=WEB, at=at, version="1", reported=("docker",), queue=3, way="websocket", peer="192.0.2.1", server="here"
    )
    await store.write(lambda c: agents.heard(c, [row]))
    found = await store.read(lambda c: agents.by_name(c, WEB))
    assert found is not None
    assert (found.heard_at, found.queue, found.reported) == (at, 3, ("docker",))
    assert await store.read(agents.revision) == seen


async def test_a_contact_that_is_older_than_anothers_is_passed_over(store: Store) -> None:
    await bound(store, WEB, T1)
    for seconds, server in ((20, "new"), (10, "old")):
        at = NOW + timedelta(seconds=seconds)
        row = Heard(agent=WEB, at=at, version="1", reported=(), queue=0, way="", peer="", server=server)
        await store.write(lambda c, row=row: agents.heard(c, [row]))  # type: ignore[misc]
    found = await store.read(lambda c: agents.by_name(c, WEB))
    assert found is not None
    assert found.server == "new"


async def test_they_are_counted_by_how_long_they_have_been_silent_and_by_how_they_stand(store: Store) -> None:
    names = {seconds: AgentName(f"silent-{seconds}") for seconds in (5, 60, 200)}
    for seconds, name in names.items():
        await bound(store, name)
        await joined(store, name, name)
        at = NOW - timedelta(seconds=seconds)
        row = Heard(agent=name, at=at, version="1", reported=(), queue=0, way="", peer="", server="here")
        await store.write(lambda c, row=row: agents.heard(c, [row]))  # type: ignore[misc]
    await bound(store, DB)
    await store.write(lambda c: agents.lock(c, DB, "why not", "joe", NOW))
    present = await store.read(lambda c: agents.present(c, NOW, degraded=45, offline=90))
    assert present == {"online": 1, "degraded": 1, "offline": 1, "locked": 1}


async def test_two_that_burn_one_token_at_once_are_one_agent_and_an_alarm(address: str, store: Store) -> None:
    """On PostgreSQL two processes, as two replicas are."""
    await bound(store, WEB, T1)
    other = await Store.open(address) if store.shared else store
    found: list[Issued | Refused] = []

    async def tries(at: Store, key: str) -> None:
        found.append(await joined(at, WEB, key))

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(tries, store, "k1")
            group.start_soon(tries, other, "k2")
    finally:
        if other is not store:
            await other.aclose()
    won = [each for each in found if isinstance(each, Issued)]
    lost = [each for each in found if isinstance(each, Refused)]
    assert (len(won), [(each.refusal, each.locked) for each in lost]) == (1, [(Refusal.USED, True)])
    assert await state(store) is AgentState.LOCKED
    certificates = await store.read(lambda c: agents.certificates(c, WEB))
    assert [each.revoked_at is not None for each in certificates] == [True]


async def test_four_that_renew_one_identity_at_once_with_one_key_are_given_one_certificate(store: Store) -> None:
    await bound(store, WEB, T1)
    await joined(store, WEB, "k1")
    found: list[Issued | Refused] = []

    async def tries() -> None:
        found.append(await renewed(store, "k1", "k2", 1))

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(tries)
    assert {each.certificate.serial for each in found if isinstance(each, Issued)} == {
        certified(Wanted(agent=WEB, generation=2), "k2").serial
    }
    assert await state(store) is AgentState.ACTIVE


async def test_a_second_renewal_with_another_key_locks(store: Store) -> None:
    await bound(store, WEB, T1)
    await joined(store, WEB, "k1")
    assert isinstance(await renewed(store, "k1", "k2", 1), Issued)
    assert await renewed(store, "k1", "k3", 2) == Refused(refusal=Refusal.COPIED, agent=WEB, locked=True)
    assert await state(store) is AgentState.LOCKED


async def test_a_certificate_of_that_number_with_another_key_is_none_of_ours(store: Store) -> None:
    await bound(store, WEB, T1)
    await joined(store, WEB, "k1")
    serial = certified(Wanted(agent=WEB, generation=1), "k1").serial
    done = await store.write(
        lambda c: agents.renew(c, serial, "forged", "k2", lambda it: certified(it, "k2"), by="", now=NOW)
    )
    assert done == Refused(refusal=Refusal.CERTIFICATE)
    assert await state(store) is AgentState.ACTIVE


async def test_old_certificates_are_swept_out_with_a_renewal(store: Store) -> None:
    await bound(store, WEB, T1)
    await joined(store, WEB, "k1")
    for number in range(1, 12):
        await renewed(store, f"k{number}", f"k{number + 1}", number * 16 * 60)
    kept = await store.read(lambda c: agents.certificates(c, WEB))
    assert kept[0].generation == 12
    assert len(kept) < 13


# -- targets ----------------------------------------------------------------------------------------------------------


async def test_a_target_is_served_by_one_agent_alone_unless_both_share_it(store: Store) -> None:
    await bound(store, WEB, T1)
    for shared in (False, True):
        with pytest.raises(TargetTaken, match="served by agent web"):
            await bound(store, DB, T1, shared=shared)
    assert await store.read(lambda c: agents.by_name(c, DB)) is None
    await store.write(lambda c: agents.bind(c, WEB, T1, True, "joe", NOW))
    await bound(store, DB, T1, shared=True)
    rows = await store.read(agents.bindings)
    assert [(each.agent, each.holder) for each in rows] == [(DB, False), (WEB, True)]


async def test_a_removed_agent_leaves_its_targets_free(store: Store) -> None:
    await bound(store, WEB, T1)
    await joined(store, WEB, "k1")
    assert await store.write(lambda c: agents.remove(c, WEB, "joe", NOW))
    await bound(store, DB, T1)
    assert [each.agent for each in await store.read(agents.bindings)] == [DB]
    assert not await store.write(lambda c: agents.remove(c, WEB, "joe", NOW))


async def shared(store: Store) -> int:
    """Two that share a target of an environment that somebody holds; the token of that lease."""
    begun, desired = await settled(store), fleet(1)
    target = desired.targets[0].id
    await store.write(lambda c: history.standings(c, PROD, [judged(desired.placements[0])], [], begun, NOW))
    await store.write(lambda c: leases.release(c, begun))
    for name, key, later in ((WEB, "k1", 1), (DB, "k2", 2)):
        await bound(store, name, target, shared=True)
        await joined(store, name, key)
        at = NOW + timedelta(seconds=later)
        row = Heard(agent=name, at=at, version="", reported=(), queue=0, way="", peer="", server="")
        await store.write(lambda c, row=row: agents.heard(c, [row]))  # type: ignore[misc]
    lease = await store.write(lambda c: leases.acquire(c, PROD, "somebody", now=store.now(), ttl=TTL))
    assert lease is not None
    return lease.token


async def test_who_shares_a_target_with_a_dead_one_holds_it_from_a_higher_fence_on(store: Store) -> None:
    token = await shared(store)
    heirs, freed = await store.write(lambda c: agents.declare_dead(c, WEB, "joe", NOW))
    assert (set(heirs.values()), freed) == ({DB}, (PROD,))
    assert await state(store) is AgentState.LOCKED
    rows = await store.read(agents.bindings)
    assert {each.agent: each.holder for each in rows} == {DB: True, WEB: False}
    lease = await store.write(lambda c: leases.acquire(c, PROD, "another", now=store.now(), ttl=TTL))
    assert lease is not None
    assert lease.token > token


async def test_a_target_is_handed_over_from_a_higher_fence_on(store: Store) -> None:
    await shared(store)
    target = (await store.read(agents.bindings))[0].target
    await store.write(lambda c: agents.hand_over(c, DB, target, "joe", NOW))
    rows = await store.read(agents.bindings)
    assert {each.agent: each.holder for each in rows} == {DB: True, WEB: False}
    assert await store.read(lambda c: leases.load(c, PROD)) is None


# -- what operators do ------------------------------------------------------------------------------------------------


async def test_an_unlocked_agent_goes_on_where_its_identity_still_counts_and_is_invited_otherwise(store: Store) -> None:
    await bound(store, WEB, T1)
    await joined(store, WEB, "k1")
    await store.write(lambda c: agents.lock(c, WEB, "why not", "joe", NOW))
    assert (await store.write(lambda c: agents.unlock(c, WEB, "joe", NOW))).state is AgentState.ACTIVE
    serial = certified(Wanted(agent=WEB, generation=1), "k1").serial
    assert await store.write(lambda c: agents.misused(c, serial, NOW)) == WEB
    assert (await store.write(lambda c: agents.unlock(c, WEB, "joe", NOW))).state is AgentState.INVITED


async def test_a_locked_name_is_not_invited(store: Store) -> None:
    await bound(store, WEB, T1)
    await store.write(lambda c: agents.lock(c, WEB, "why not", "joe", NOW))
    with pytest.raises(NameInUse, match="unlock web"):
        await bound(store, WEB, T1)


async def test_a_drained_agent_is_active_again(store: Store) -> None:
    await bound(store, WEB, T1)
    with pytest.raises(NameInUse, match="is invited"):
        await store.write(lambda c: agents.drain(c, WEB, True, "joe", NOW))
    await joined(store, WEB, "k1")
    assert (await store.write(lambda c: agents.drain(c, WEB, True, "joe", NOW))).state is AgentState.DRAINING
    assert (await store.write(lambda c: agents.drain(c, WEB, False, "joe", NOW))).state is AgentState.ACTIVE


async def test_kinds_are_granted_and_taken_back(store: Store) -> None:
    await bound(store, WEB, T1)
    granted = await store.write(lambda c: agents.grant(c, WEB, ["systemd"], True, "joe", NOW))
    assert granted.granted == ("docker", "systemd")
    revoked = await store.write(lambda c: agents.grant(c, WEB, ["docker"], False, "joe", NOW))
    assert revoked.granted == ("systemd",)


async def test_an_agent_that_is_not_there_is_missing(store: Store) -> None:
    for ask in (agents.unlock, agents.remove):
        with pytest.raises(Missing, match="no agent web"):
            await store.write(lambda c, ask=ask: ask(c, WEB, "joe", NOW))  # type: ignore[misc]


async def test_every_change_is_audited_and_a_repetition_is_not(store: Store) -> None:
    await bound(store, WEB, T1)
    await joined(store, WEB, "k1")
    for _ in range(2):
        await store.write(lambda c: agents.lock(c, WEB, "why not", "joe", NOW))
        await store.write(lambda c: agents.grant(c, WEB, ["systemd"], True, "joe", NOW))
        await store.write(lambda c: agents.bind(c, WEB, T2, False, "joe", NOW))
        await store.write(lambda c: agents.unbind(c, WEB, T1, "joe", NOW))
    entries = await store.read(audit.page)
    said = [each.action.removeprefix("agent.") for each in reversed(entries.items)]
    assert said == ["invited", "joined", "locked", "granted", "bound", "unbound"]
