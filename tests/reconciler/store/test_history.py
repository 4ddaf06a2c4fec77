"""History as intervals: an unchanged fleet costs one heartbeat, and any moment can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Connection, event, text

from desired_state.model import Placement
from reconciler.core.judge import Drift, Verdict
from reconciler.core.known import Trust
from reconciler.store import history, memories
from reconciler.store.errors import LostLease, Violated
from reconciler.store.records import Decision, Lease, StandingInterval
from reconciler.store.store import Store
from stickers.names import PlacementId
from stickers.observation import Health, HealthState, Unmanaged, WorkloadState, Worn
from tests.reconciler.core.builders import NOW, PROD, fleet, place, standing, workload
from tests.reconciler.store.builders import judged, settled

IDLE = Decision(rule="nothing to do", content={"desired": "sha256:…", "blocked": []})
BUSY = Decision(rule="a job was made", content={"job": "default/prod:1"})


def at(minutes: int) -> datetime:
    return NOW + timedelta(minutes=minutes)


async def _decide(store: Store, lease: Lease, decision: Decision, minutes: int) -> None:
    await store.write(lambda c: history.decide(c, PROD, decision, lease, at(minutes)))


async def _record(
    store: Store, lease: Lease, drifts: Sequence[Drift], minutes: int = 0, gone: Sequence[PlacementId] = ()
) -> int:
    return await store.write(lambda c: history.standings(c, PROD, drifts, gone, lease, at(minutes)))


async def _now(store: Store) -> tuple[StandingInterval, ...]:
    return await store.read(lambda c: history.standing_now(c, PROD))


def _all(of: Sequence[Placement], **changes: object) -> list[Drift]:
    return [judged(each, **changes) for each in of]  # type: ignore[arg-type]


# -- decisions ---------------------------------------------------------------------------------------------------------


async def test_the_same_decision_again_lengthens_its_interval(store: Store) -> None:
    lease = await settled(store)
    for minute in range(3):
        await _decide(store, lease, replace(IDLE, again_at=at(minute + 1)), minute)
    [interval] = (await store.read(lambda c: history.page(c, PROD))).items
    assert (interval.since, interval.until, interval.count, interval.again_at) == (at(0), at(2), 3, at(3))
    assert (interval.rule, interval.content, interval.digest) == (IDLE.rule, IDLE.content, IDLE.digest)


async def test_another_decision_begins_an_interval_and_so_does_the_first_again(store: Store) -> None:
    lease = await settled(store)
    for minute, decision in enumerate((IDLE, BUSY, IDLE, IDLE)):
        await _decide(store, lease, decision, minute)
    found = (await store.read(lambda c: history.page(c, PROD))).items
    assert [(each.number, each.rule, each.count) for each in found] == [
        (3, IDLE.rule, 2), (2, BUSY.rule, 1), (1, IDLE.rule, 1)
    ]  # fmt: skip
    last = await store.read(lambda c: history.last_decision(c, PROD))
    assert last == found[0]


async def test_a_heartbeat_is_one_statement(store: Store) -> None:
    lease = await settled(store)
    await _decide(store, lease, IDLE, 0)
    said = _listen(store)
    await _decide(store, lease, IDLE, 1)
    assert [statement.split()[0].lower() for statement in said] == ["update"]


async def test_no_decision_is_written_under_a_lost_lease(store: Store) -> None:
    lease = await settled(store)
    lost = replace(lease, token=lease.token + 1)
    with pytest.raises(LostLease):
        await _decide(store, lost, IDLE, 0)
    await _decide(store, lease, IDLE, 0)
    with pytest.raises(LostLease):
        await _decide(store, lost, IDLE, 1)
    assert [each.count for each in (await store.read(lambda c: history.page(c, PROD))).items] == [1]


async def test_decisions_are_paged_by_number(store: Store) -> None:
    lease = await settled(store)
    for minute in range(7):
        await _decide(store, lease, replace(IDLE, content={"turn": minute}), minute)
    first = await store.read(lambda c: history.page(c, PROD, limit=3))
    second = await store.read(lambda c: history.page(c, PROD, before=first.before, limit=3))
    third = await store.read(lambda c: history.page(c, PROD, before=second.before, limit=3))
    found = [each.number for page in (first, second, third) for each in page.items]
    assert (found, third.before) == ([7, 6, 5, 4, 3, 2, 1], None)


# -- standings ---------------------------------------------------------------------------------------------------------


async def test_a_standing_says_what_was_wanted_seen_and_worn(store: Store) -> None:
    desired = fleet(1)
    lease = await settled(store, desired)
    [placement] = desired.placements
    drift = judged(
        placement, Verdict.BEHIND, reason="runs 0.9", differences=("artifact: found a, wanted b",), heal=True
    )
    assert await _record(store, lease, [drift]) == 1
    [found] = await _now(store)
    assert (found.id, found.verdict, found.trust, found.rule, found.reason, found.heal) == (
        placement.id, Verdict.BEHIND, Trust.VALID, "as declared", "runs 0.9", True
    )  # fmt: skip
    assert (found.since, found.until) == (at(0), None)
    artifact, configuration = placement.content
    side = {"release": "shop@1.0.0", "artifact": artifact, "configuration": configuration, "running": True}
    assert found.content["wanted"] == found.content["declared"] == side
    assert found.content["standing"]["workload"]["instance"] == workload(placement).instance
    assert found.content["sticker"]["claim"]["release"] == "shop@1.0.0"
    assert found.content["differences"] == ["artifact: found a, wanted b"]


async def test_what_nobody_declares_is_kept_too(store: Store) -> None:
    desired = fleet(1)
    lease = await settled(store, desired)
    stranger = Unmanaged(name="redis", instance="r1", artifact="redis:7", state=WorkloadState.RUNNING)
    drift = Drift(
        id=place(0, "redis"), verdict=Verdict.UNMANAGED, trust=Trust.NONE, wanted=None, declared=None, standing=None,
        sticker=None, rule="not ours", unmanaged=stranger,
    )  # fmt: skip
    await _record(store, lease, [drift])
    [found] = await _now(store)
    assert found.content["unmanaged"]["name"] == "redis"
    assert found.content["wanted"] is found.content["standing"] is found.content["sticker"] is None


async def test_a_change_closes_one_interval_and_opens_the_next(store: Store) -> None:
    desired = fleet(2)
    lease = await settled(store, desired)
    first, second = desired.placements
    await _record(store, lease, _all(desired.placements))
    assert await _record(store, lease, [judged(first, Verdict.UNHEALTHY)], 5) == 1
    found = (await store.read(lambda c: history.page_of_target(c, first.id.target))).items
    assert [(each.verdict, each.since, each.until) for each in found] == [
        (Verdict.UNHEALTHY, at(5), None),
        (Verdict.IN_SYNC, at(0), at(5)),
    ]
    [other] = (await store.read(lambda c: history.page_of_target(c, second.id.target))).items
    assert other.until is None


async def test_what_is_gone_is_closed_and_opens_nothing(store: Store) -> None:
    desired = fleet(2)
    lease = await settled(store, desired)
    await _record(store, lease, _all(desired.placements))
    assert await _record(store, lease, [], 5, gone=[desired.placements[0].id, place("never-there")]) == 0
    assert [each.id for each in await _now(store)] == [desired.placements[1].id]
    assert await store.read(lambda c: history.standing_ids(c, PROD)) == {desired.placements[1].id}


@pytest.mark.parametrize("size", [3, 1200])
async def test_what_stands_as_before_is_not_written_again(store: Store, size: int) -> None:
    """As after a start of the daemon, which has nothing to compare with and hands everything in."""
    desired = fleet(size)
    lease = await settled(store, desired)
    assert await _record(store, lease, _all(desired.placements)) == size
    said = _listen(store)
    assert await _record(store, lease, _all(fleet(size).placements), 5) == 0
    assert not [each for each in said if each.lower().startswith(("insert", "update", "delete", "copy"))]


async def test_when_health_was_asked_is_no_change(store: Store) -> None:
    desired = fleet(1)
    lease = await settled(store, desired)
    [placement] = desired.placements

    def asked(minutes: int) -> Drift:
        health = Health(state=HealthState.HEALTHY, checked_at=at(minutes))
        return judged(placement, standing=standing(placement.id, replace(workload(placement), health=health)))

    assert await _record(store, lease, [asked(0)]) == 1
    assert await _record(store, lease, [asked(1)], 1) == 0


async def test_a_new_envelope_of_the_same_sticker_is_no_change_and_of_an_unread_one_is(store: Store) -> None:
    desired = fleet(1)
    lease = await settled(store, desired)
    [placement] = desired.placements

    def worn(envelope: str, *, read: bool) -> Drift:
        wears = replace(standing(placement.id, workload(placement)), worn=Worn(envelope=envelope))
        drift = judged(placement, standing=wears)
        return drift if read else replace(drift, sticker=None, trust=Trust.FORGED)

    assert [await _record(store, lease, [worn(each, read=True)]) for each in ("a", "b")] == [1, 0]
    assert [await _record(store, lease, [worn(each, read=False)]) for each in ("a", "b")] == [1, 1]


async def test_text_that_a_hostile_host_sent_is_kept_harmless_and_stays_unchanged(store: Store) -> None:
    desired = fleet(1)
    lease = await settled(store, desired)
    [placement] = desired.placements

    def hostile(minutes: int) -> Drift:
        health = Health(state=HealthState.UNHEALTHY, detail="\x00\ud800\x1f\n", checked_at=at(minutes))
        seen = standing(placement.id, replace(workload(placement), health=health, instance="\udfff"))
        return judged(placement, standing=seen, reason="said \x00\ud800")

    assert await _record(store, lease, [hostile(0)]) == 1
    assert await _record(store, lease, [hostile(1)], 1) == 0
    [found] = await _now(store)
    assert found.reason == "said \ufffd\ufffd"
    assert found.content["standing"]["workload"]["instance"] == "\ufffd"


async def test_the_database_holds_one_open_interval_per_placement(store: Store) -> None:
    desired = fleet(1)
    lease = await settled(store, desired)
    await _record(store, lease, _all(desired.placements))
    again = (
        "insert into standing (environment, target, component, slot, since, verdict, trust, rule, reason, heal, digest,"
        " content) select environment, target, component, slot, since, verdict, trust, rule, reason, heal, digest,"
        " content from standing"
    )
    with pytest.raises(Violated, match=r"one_open_standing|standing\.environment"):
        await store.write(lambda c: c.execute(text(again)))

    def without(c: Connection) -> int:
        c.execute(text("drop index one_open_standing"))
        c.execute(text(again))
        return len(history.standing_now(c, PROD))

    assert await store.write(without) == 2


async def test_no_standing_is_written_under_a_lost_lease(store: Store) -> None:
    desired = fleet(1)
    lease = await settled(store, desired)
    with pytest.raises(LostLease):
        await _record(store, replace(lease, token=lease.token + 1), _all(desired.placements))
    assert await _now(store) == ()


# -- what it costs -----------------------------------------------------------------------------------------------------


def _listen(store: Store) -> list[str]:
    """The statements that the writer is told from now on, transactions aside."""
    said: list[str] = []

    def hear(c: Connection, cursor: object, statement: str, *_: object) -> None:
        if not statement.lower().startswith(("begin", "pragma")):
            said.append(statement)

    event.listen(store._writer, "before_cursor_execute", hear)
    return said


async def test_ten_thousand_unchanged_placements_are_one_heartbeat(store: Store) -> None:
    lease = await settled(store)
    placements = fleet(10_000).placements
    seen = {each.id: 2 for each in placements}
    await store.write(lambda c: memories.raise_sequences(c, PROD, seen, lease))
    await _record(store, lease, _all(placements))
    await _decide(store, lease, IDLE, 0)
    said = _listen(store)

    await store.read(lambda c: memories.known(c, PROD, at(1)))

    def turn(c: Connection) -> None:
        history.standings(c, PROD, [], [], lease, at(1))
        history.decide(c, PROD, IDLE, lease, at(1))
        memories.raise_sequences(c, PROD, seen, lease)
        memories.heals(c, PROD, {}, lease)

    await store.write(turn)
    written = [each for each in said if not each.lower().startswith("select")]
    assert [each.split()[0].lower() for each in written] == ["update"]
    assert written[0].lower().startswith("update decision set")

    changed = _all(placements, verdict=Verdict.UNHEALTHY)
    said.clear()
    assert await _record(store, lease, changed, 2) == 10_000
    assert len(said) <= 14  # the lease, what was open, ten to close a thousand each, one to open all
    assert len(await store.read(lambda c: history.standing_ids(c, PROD))) == 10_000


# -- any moment --------------------------------------------------------------------------------------------------------


async def test_any_moment_can_be_asked(store: Store) -> None:
    desired = fleet(2)
    lease = await settled(store, desired)
    first, second = desired.placements
    await _record(store, lease, [judged(first)], 0)
    await _decide(store, lease, IDLE, 0)
    await _decide(store, lease, IDLE, 2)
    await _record(store, lease, [judged(first, Verdict.MISSING), judged(second)], 5)
    await _decide(store, lease, BUSY, 5)
    await _record(store, lease, [], 9, gone=[second.id])

    async def shown(minutes: int) -> tuple[str | None, list[tuple[str, str]]]:
        found = await store.read(lambda c: history.at(c, PROD, at(minutes)))
        rule = found.decision.rule if found.decision else None
        return rule, [(each.id.target, each.verdict.value) for each in found.standings]

    one, two = first.id.target, second.id.target
    assert await shown(-1) == (None, [])
    assert await shown(0) == (IDLE.rule, [(one, "in sync")])
    assert await shown(2) == (IDLE.rule, [(one, "in sync")])
    assert await shown(3) == (None, [(one, "in sync")])  # between two looks no decision is claimed
    assert await shown(5) == (BUSY.rule, [(one, "missing"), (two, "in sync")])
    assert await shown(9) == (None, [(one, "missing")])


async def test_why_is_how_the_placements_of_a_target_stand(store: Store) -> None:
    desired = fleet(2, components=("api", "web"))
    lease = await settled(store, desired)
    await _record(store, lease, _all(desired.placements))
    await _record(store, lease, [judged(desired.placements[1], Verdict.STOPPED)], 3)
    found = await store.read(lambda c: history.why(c, desired.targets[0].id))
    assert [(each.id.component, each.verdict, each.since) for each in found] == [
        ("api", Verdict.IN_SYNC, at(0)),
        ("web", Verdict.STOPPED, at(3)),
    ]


async def test_standings_are_paged_by_number(store: Store) -> None:
    desired = fleet(5)
    lease = await settled(store, desired)
    await _record(store, lease, _all(desired.placements))
    first = await store.read(lambda c: history.page_of_standings(c, PROD, limit=3))
    rest = await store.read(lambda c: history.page_of_standings(c, PROD, before=first.before, limit=3))
    assert [len(first.items), len(rest.items), rest.before] == [3, 2, None]
    assert {each.id for each in (*first.items, *rest.items)} == {each.id for each in desired.placements}


@pytest.mark.parametrize(
    "query",
    [
        lambda c: history.page(c, PROD, before="9"),
        lambda c: history.page_of_standings(c, PROD, before="9"),
        lambda c: history.page_of_target(c, place(0).target, before="9"),
        lambda c: history.why(c, place(0).target),
        lambda c: history.standing_now(c, PROD),
        lambda c: history.at(c, PROD, NOW),
    ],
    ids=["decisions", "standings", "target", "why", "now", "at"],
)
async def test_no_question_about_history_reads_a_whole_table(sqlite: str, query) -> None:  # type: ignore[no-untyped-def]
    store = await Store.open(sqlite, inline=True)
    said = _listen(store)
    await store.read(query)
    plans = [
        row.detail
        for statement in list(said)
        for row in await store.read(
            lambda c, s=statement: c.exec_driver_sql(f"explain query plan {s}", tuple("1" * s.count("?"))).all()
        )
    ]
    assert plans
    assert not [step for step in plans if step.startswith("SCAN")]
    await store.aclose()
