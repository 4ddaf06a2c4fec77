"""Sparklines: how many placements drifted over a day, and how long each healing took, as points for a small drawing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from reconciler.core.drift import Verdict
from reconciler.store.overview import Spell
from stickers.names import PlacementId

WIDTH: Final = 180
HEIGHT: Final = 32
SLICES: Final = 100
DAY: Final = timedelta(hours=24)
NOT_DRIFT: Final = frozenset({Verdict.IN_SYNC, Verdict.UNMANAGED, Verdict.UNKNOWN})  # unknown is never drift


@dataclass(frozen=True, slots=True, kw_only=True)
class Stroke:
    """A line through `points`, the area under it, and what it says in words for whoever does not see it."""

    points: str
    area: str
    words: str
    latest: str
    most: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One placement from its first verdict that is drift until it was in sync again."""

    id: PlacementId
    since: datetime
    until: datetime

    @property
    def seconds(self) -> float:
        return (self.until - self.since).total_seconds()


def drift(spells: Iterable[Spell], since: datetime, now: datetime, *, slices: int = SLICES) -> Stroke | None:
    """How many placements drifted at each moment; None when there is nothing to draw."""
    steps: list[tuple[datetime, int]] = []
    for spell in spells:
        if spell.verdict not in NOT_DRIFT:
            steps.append((max(spell.since, since), 1))
            if spell.until is not None and spell.until <= now:
                steps.append((spell.until, -1))
    if not steps:
        return None
    return _stepped(sorted(steps, key=lambda step: (step[0], -step[1])), since, now, slices)


def _stepped(steps: Sequence[tuple[datetime, int]], since: datetime, now: datetime, slices: int) -> Stroke:
    """The count in each of the slices, as the most there was in it: a short drift is no less a drift."""
    length, standing, at = (now - since) / slices, 0, 0
    heights: list[int] = []
    for number in range(1, slices + 1):
        end, highest = since + number * length, standing
        while at < len(steps) and (steps[at][0] < end or number == slices):
            standing += steps[at][1]
            highest, at = max(highest, standing), at + 1
        heights.append(highest)
    most = max(heights)
    heights.append(standing)  # the line ends at how things are
    words = f"drifted placements over {hours(now - since)}: {standing} now, {most} at most"
    return _stroke(heights, words=words, latest=str(standing), most=str(most))


def healing(episodes: Sequence[Episode]) -> Stroke | None:
    """How long each healing took, the latest last."""
    if not episodes:
        return None
    ordered = sorted(episodes, key=lambda each: each.until)[-60:]
    lengths = [each.seconds for each in ordered]
    middle = sorted(lengths)[len(lengths) // 2]
    words = (
        f"time to heal of the last {len(lengths)}: {_seconds(middle)} in the middle, {_seconds(max(lengths))} at most"
    )
    return _stroke(lengths, words=words, latest=_seconds(middle), most=_seconds(max(lengths)))


def episodes(spells: Iterable[Spell]) -> list[Episode]:
    """The drifts that ended: spells of one placement that follow each other are one. What could not be seen in between
    has neither healed nor drifted, and its episode is left out."""
    done: list[Episode] = []
    begun: dict[PlacementId, Episode] = {}
    for spell in sorted(spells, key=lambda each: each.since):
        before = begun.pop(spell.id, None)
        if before is not None and before.until != spell.since:  # it was in sync in between, and that still lasts
            done.append(before)
            before = None
        if spell.verdict in NOT_DRIFT:
            done += [before] if before is not None and spell.verdict is not Verdict.UNKNOWN else []
        elif spell.until is not None:
            begun[spell.id] = Episode(id=spell.id, since=before.since if before else spell.since, until=spell.until)
    return [*done, *begun.values()]


def _stroke(values: Sequence[float], *, words: str, latest: str, most: str) -> Stroke:
    top, step = max(max(values), 1), WIDTH / max(1, len(values) - 1)
    heights = [HEIGHT - 2 - value / top * (HEIGHT - 4) for value in values]
    if len(heights) == 1:
        heights, step = heights * 2, WIDTH
    points = " ".join(f"{index * step:.1f},{height:.1f}" for index, height in enumerate(heights))
    return Stroke(points=points, area=f"0,{HEIGHT} {points} {WIDTH},{HEIGHT}", words=words, latest=latest, most=most)


def hours(length: timedelta) -> str:
    minutes = length.total_seconds() / 60
    return f"{minutes / 60:.0f} h" if minutes >= 90 else f"{minutes:.0f} min"


def _seconds(length: float) -> str:
    if length < 120:
        return f"{length:.1f} s" if length < 10 else f"{length:.0f} s"
    return f"{length / 60:.0f} min" if length < 7200 else f"{length / 3600:.1f} h"
