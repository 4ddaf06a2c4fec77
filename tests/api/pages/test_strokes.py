"""Sparklines say what happened: short drifts too, healings until in sync, and nothing about what nobody saw."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from api.pages import strokes
from reconciler.core.drift import Verdict
from reconciler.store.overview import Spell
from stickers.names import ComponentName, PlacementId, TargetId

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY_BEFORE = NOON - timedelta(hours=24)


def spell(verdict: Verdict, begins: float, ends: float | None, target: str = "web-1") -> Spell:
    """Minutes before noon."""
    return Spell(
        id=PlacementId(TargetId(f"default/{target}"), ComponentName("api")),
        verdict=verdict,
        since=NOON - timedelta(minutes=begins),
        until=None if ends is None else NOON - timedelta(minutes=ends),
    )


def test_a_drift_of_a_second_is_drawn() -> None:
    drawn = strokes.drift([spell(Verdict.STOPPED, 600, 599.98)], DAY_BEFORE, NOON)
    assert drawn is not None
    assert (drawn.latest, drawn.most) == ("0", "1")


def test_the_line_ends_at_how_things_are() -> None:
    drawn = strokes.drift([spell(Verdict.STOPPED, 5, None), spell(Verdict.BEHIND, 300, 2, "web-2")], DAY_BEFORE, NOON)
    assert drawn is not None
    assert (drawn.latest, drawn.most) == ("1", "2")
    assert "1 now, 2 at most" in drawn.words


def test_what_could_not_be_seen_is_no_drift() -> None:
    assert strokes.drift([spell(Verdict.UNKNOWN, 60, None)], DAY_BEFORE, NOON) is None


def test_a_healing_lasts_from_the_first_drift_until_in_sync() -> None:
    found = strokes.episodes(
        [spell(Verdict.STOPPED, 30, 28), spell(Verdict.IN_TRANSIT, 28, 27), spell(Verdict.IN_SYNC, 27, 10)]
    )
    assert [each.seconds for each in found] == [180.0]


def test_two_drifts_of_one_placement_are_two_healings_while_what_is_in_sync_still_lasts() -> None:
    found = strokes.episodes([spell(Verdict.STOPPED, 30, 28), spell(Verdict.STOPPED, 10, 9)])
    assert sorted(each.seconds for each in found) == [60.0, 120.0]


def test_what_still_drifts_has_not_healed() -> None:
    assert strokes.episodes([spell(Verdict.STOPPED, 30, 28), spell(Verdict.UNHEALTHY, 28, None)]) == []


def test_what_was_lost_sight_of_has_neither_healed_nor_drifted() -> None:
    assert strokes.episodes([spell(Verdict.STOPPED, 30, 28), spell(Verdict.UNKNOWN, 28, 20)]) == []


def test_nothing_to_heal_draws_nothing() -> None:
    assert strokes.healing([]) is None
