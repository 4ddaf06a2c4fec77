"""A fleet at a glance, on both databases: counts, the gravest first, pages without gaps, and a pulse that beats when
something changes and only then."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, text
from sqlalchemy.event import listen

from desired_state.model import Placement
from reconciler.core.judge import Drift, Verdict
from reconciler.store import environments, history, overview
from reconciler.store.overview import GRAVITY, Tally, natural
from reconciler.store.records import Decision, HandSuspension, Lease
from reconciler.store.store import Store
from stickers.names import EnvironmentId, TargetId
from tests.reconciler.core.builders import NOW, PROD, fleet
from tests.reconciler.store.builders import judged, settled

IDLE = Decision(rule="nothing to do", content={"blocked": []})


def at(minutes: int) -> datetime:
    return NOW + timedelta(minutes=minutes)


async def recorded(store: Store, lease: Lease, drifts: Sequence[Drift], minutes: int = 0) -> None:
    await store.write(lambda c: history.standings(c, PROD, drifts, [], lease, at(minutes)))


def some(placements: Sequence[Placement], verdict: Verdict) -> list[Drift]:
    return [judged(each, verdict=verdict) for each in placements]


async def stood(store: Store) -> Lease:
    """Twelve targets: one stopped, two unknown, nine in sync."""
    lease, placements = await settled(store), fleet(12).placements
    await recorded(
        store,
        lease,
        some(placements[:1], Verdict.STOPPED)
        + some(placements[1:3], Verdict.UNKNOWN)
        + some(placements[3:], Verdict.IN_SYNC),
    )
    return lease


def test_every_verdict_has_its_gravity() -> None:
    assert sorted(GRAVITY) == sorted(Verdict)
    assert GRAVITY.index(Verdict.UNKNOWN) < GRAVITY.index(Verdict.IN_SYNC)


async def test_a_tally_counts_targets_and_placements_the_gravest_first(store: Store) -> None:
    await stood(store)
    tallies = await store.read(overview.tallies)
    assert tallies[PROD] == await store.read(lambda c: overview.tally(c, PROD))
    assert tallies[PROD].targets == 12
    assert list(tallies[PROD].placements.items()) == [
        (Verdict.STOPPED, 1),
        (Verdict.UNKNOWN, 2),
        (Verdict.IN_SYNC, 9),
    ]


async def test_a_tally_of_nothing_is_nothing(store: Store) -> None:
    await settled(store)
    assert await store.read(lambda c: overview.tally(c, PROD)) == Tally(targets=0, placements={})
    assert await store.read(overview.tallies) == {}


async def test_where_all_fit_every_target_is_a_cell_in_natural_order(store: Store) -> None:
    await stood(store)
    tally = await store.read(lambda c: overview.tally(c, PROD))
    cells = await store.read(lambda c: overview.cells(c, PROD, tally, most=12))
    names = [target for target, _ in cells]
    assert names == sorted(names, key=natural)
    assert len(cells) == 12


async def test_where_they_do_not_fit_only_what_is_not_in_sync_is_drawn_and_the_gravest_stays(store: Store) -> None:
    await stood(store)
    tally = await store.read(lambda c: overview.tally(c, PROD))
    cells = await store.read(lambda c: overview.cells(c, PROD, tally, most=2))
    assert [verdict for _, verdict in cells] == [Verdict.STOPPED, Verdict.UNKNOWN]


async def test_a_target_with_several_placements_is_as_grave_as_the_gravest(store: Store) -> None:
    lease, placements = await settled(store), fleet(2, components=("api", "worker")).placements
    await recorded(store, lease, some(placements[:1], Verdict.UNHEALTHY) + some(placements[1:], Verdict.IN_SYNC))
    tally = await store.read(lambda c: overview.tally(c, PROD))
    assert tally.targets == 2
    cells = dict(await store.read(lambda c: overview.cells(c, PROD, tally, most=10)))
    assert cells[placements[0].id.target] is Verdict.UNHEALTHY


async def test_pages_of_placements_leave_nothing_out_and_show_nothing_twice(store: Store) -> None:
    await stood(store)
    seen, after = [], None
    while True:
        page = await store.read(lambda c, after=after: overview.placements(c, PROD, after=after, limit=5))  # type: ignore[misc]
        seen += [each.id for each in page.items]
        if (after := page.before) is None:
            break
    assert len(seen) == len(set(seen)) == 12
    assert seen == sorted(seen)


async def test_placements_are_chosen_by_verdict(store: Store) -> None:
    await stood(store)
    page = await store.read(lambda c: overview.placements(c, PROD, verdicts={Verdict.UNKNOWN}, limit=5))
    assert [each.verdict for each in page.items] == [Verdict.UNKNOWN] * 2


async def test_pages_of_targets_leave_nothing_out(store: Store) -> None:
    await stood(store)
    first = await store.read(lambda c: overview.targets(c, [PROD], limit=7))
    rest = await store.read(lambda c: overview.targets(c, [PROD], after=first.before, limit=7))
    names = [row.target for row in (*first.items, *rest.items)]
    assert (len(first.items), len(rest.items), rest.before) == (7, 5, None)
    assert len(set(names)) == 12


async def test_a_moment_tells_what_was_known_then(store: Store) -> None:
    lease = await stood(store)
    await recorded(store, lease, some(fleet(12).placements, Verdict.IN_SYNC), 10)
    then, rows = await store.read(lambda c: overview.stood(c, PROD, at(5), limit=2))
    assert then[Verdict.STOPPED] == 1
    assert rows[0].verdict is not Verdict.IN_SYNC
    assert len(rows) == 2
    now, _ = await store.read(lambda c: overview.stood(c, PROD, at(10), limit=2))
    assert now == {Verdict.IN_SYNC: 12}


async def test_spells_are_those_that_ended_lately_and_those_that_still_differ(store: Store) -> None:
    lease = await stood(store)
    await recorded(store, lease, some(fleet(12).placements[:1], Verdict.IN_SYNC), 10)
    found = await store.read(lambda c: overview.spells(c, PROD, at(5), limit=100))
    assert sorted((spell.verdict.value, spell.until) for spell in found if spell.until) == [("stopped", at(10))]
    assert [spell.verdict for spell in found if spell.until is None] == [Verdict.UNKNOWN] * 2


async def test_spells_of_many_environments_are_those_of_each_and_bounded(store: Store) -> None:
    lease = await stood(store)
    await recorded(store, lease, some(fleet(12).placements[:1], Verdict.IN_SYNC), 10)
    await recorded(store, lease, some(fleet(12).placements[1:4], Verdict.BEHIND), 20)
    ids = [PROD, EnvironmentId("default/elsewhere")]
    alone = await store.read(lambda c: overview.spells(c, PROD, at(5), limit=100))
    found = await store.read(lambda c: overview.spells_of(c, ids, at(5), each=100))
    assert found[ids[1]] == ()
    seen = [each for each in alone if each.until is not None or each.verdict is not Verdict.UNKNOWN]
    assert sorted(found[PROD], key=repr) == sorted(seen, key=repr)
    assert len((await store.read(lambda c: overview.spells_of(c, ids, at(5), each=1)))[PROD]) == 2
    assert await store.read(lambda c: overview.spells_of(c, [], at(5), each=1)) == {}


async def test_a_sparkline_is_read_by_index(store: Store) -> None:
    def explained(c: Connection) -> list[str]:
        asked: list[tuple[str, object]] = []
        listen(c, "before_cursor_execute", lambda *given: asked.append((given[2], given[3])))
        overview.spells_of(c, [PROD], at(5), each=5)
        [(statement, words)] = asked[:1]
        if c.dialect.name != "sqlite":
            return []
        return [str(row[3]) for row in c.exec_driver_sql(f"explain query plan {statement}", words)]  # type: ignore[arg-type]

    found = await store.read(explained)
    assert not [row for row in found if row == "SCAN standing"], found


async def test_a_search_takes_wildcards_as_letters(store: Store) -> None:
    await stood(store)
    for word in ("%", "_", "\\"):
        found = await store.read(lambda c, word=word: overview.search(c, word, [PROD], limit=5))  # type: ignore[misc]
        assert found == overview.Found()


async def test_a_search_finds_by_a_part_of_the_name_whatever_its_case(store: Store) -> None:
    await stood(store)
    name = fleet(12).placements[0].id.target.rpartition("/")[2]
    found = await store.read(lambda c: overview.search(c, name.upper(), [PROD], limit=50))
    assert (TargetId(f"default/{name}"), PROD) in found.targets
    assert await store.read(lambda c: overview.search(c, name, [], limit=50)) == overview.Found()


async def test_the_pulse_beats_when_something_changes_and_only_then(store: Store) -> None:
    lease = await stood(store)
    suspension = HandSuspension(reason="a test", actor="ada", since=NOW)
    for minute, pulse in enumerate((overview.pulse, lambda c: overview.pulse_of(c, PROD))):
        before = await store.read(pulse)
        assert await store.read(pulse) == before
        await recorded(store, lease, some(fleet(12).placements[:1], Verdict.BEHIND), 1 + 2 * minute)
        moved = await store.read(pulse)
        assert moved != before
        await store.write(lambda c: environments.suspend(c, PROD, suspension))
        assert await store.read(pulse) != moved
        await store.write(lambda c: environments.resume(c, PROD, "ada", NOW))
        await recorded(store, lease, some(fleet(12).placements[:1], Verdict.STOPPED), 2 + 2 * minute)


async def test_the_pulse_of_one_environment_beats_with_every_turn(store: Store) -> None:
    lease = await stood(store)
    tokens = set()
    for minute in range(3):
        await store.write(lambda c, minute=minute: history.decide(c, PROD, IDLE, lease, at(minute)))  # type: ignore[misc]
        tokens.add(await store.read(lambda c: overview.pulse_of(c, PROD)))
    assert len(tokens) == 3
    assert (await store.read(overview.looked))[PROD].at == at(2)


async def test_a_glance_reads_an_index_and_no_row(store: Store) -> None:
    await stood(store)

    def explained(c: Connection) -> str:
        if c.dialect.name != "sqlite":
            return "COVERING INDEX open_standing_by_verdict"
        return str(c.execute(text(f"explain query plan {overview._TALLIES}")).all())

    assert "COVERING INDEX open_standing_by_verdict" in await store.read(explained)
