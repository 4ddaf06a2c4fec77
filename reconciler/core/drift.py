"""Drift: the judged distance of each placement between what is declared, what its target wears and what runs there.

The tables are `trust.TRUST` for the sticker and `judge.VERDICTS` for the placement; here they are asked for a whole
environment, and only about what has changed since the last time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from itertools import chain
from typing import Final

from desired_state.model import Configuration, DesiredState, Placement
from reconciler.core.judge import VERDICTS, Case, Drift, Verdict, judge, running_release
from reconciler.core.known import NO_READING, NOTHING_REMEMBERED, Known, Memory, Reading, Seen, Trust
from reconciler.core.trust import TRUST, Opened, judge_sequence, reading
from stickers import digest, mismatch
from stickers.names import ComponentName, PlacementId, SlotName, TargetId
from stickers.observation import Standing, Unmanaged, Workload
from stickers.sticker import Sticker

__all__ = [
    "NOTHING_REMEMBERED",
    "NO_READING",
    "TRUST",
    "VERDICTS",
    "Case",
    "Diffed",
    "Drift",
    "Judged",
    "Known",
    "Memory",
    "Opened",
    "Reading",
    "Seen",
    "Trust",
    "Verdict",
    "diff",
    "effective",
    "is_held",
    "judge",
    "judge_sequence",
    "reading",
    "rediff",
    "running_release",
]

UNMANAGED_SLOT: Final = SlotName("unmanaged")  # of what is not ours: it can never meet a placement of the same name
STALE_AFTER: Final = 2  # intervals, after which a look says nothing any more


# -- why it differs, in words -----------------------------------------------------------------------------------------


class _Explainer:
    """Differences in words, each pair of contents compared once however many targets show it."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[str, ...]] = {}

    def explained(self, drift: Drift, memory: Memory) -> Drift:
        words = self._words(drift, memory)
        return replace(drift, differences=words) if words else drift

    def _words(self, drift: Drift, memory: Memory) -> tuple[str, ...]:
        goal, workload = drift.wanted or drift.declared, drift.standing.workload if drift.standing else None
        match drift.verdict:
            case Verdict.WRONG_CONFIGURATION | Verdict.LYING if goal and workload:
                return self._configuration(goal, workload, memory.last_good)
            case Verdict.UNLABELLED if goal and drift.sticker and drift.trust is Trust.VALID:
                return self._compared(_label(goal), _claim_label(drift.sticker))
        return ()

    def _configuration(self, goal: Placement, workload: Workload, last_good: Placement | None) -> tuple[str, ...]:
        if workload.configuration == goal.configuration_digest:
            return ()
        if last_good is not None and workload.configuration == last_good.configuration_digest:
            key = (goal.configuration_digest, last_good.configuration_digest)
            return self._remembered(key, _keyed(goal.configuration), _keyed(last_good.configuration))
        return workload.differences

    def _compared(self, wanted: dict[str, str], found: dict[str, str]) -> tuple[str, ...]:
        return self._remembered((*wanted.values(), *found.values()), wanted, found)

    def _remembered(self, key: object, wanted: object, found: object) -> tuple[str, ...]:
        if key not in self._known:
            self._known[key] = mismatch.differences(wanted, found)
        return self._known[key]


def _label(goal: Placement) -> dict[str, str]:
    return {
        "release": goal.release,
        "artifact": goal.artifact.digest,
        "configuration": goal.configuration_digest,
    }


def _claim_label(sticker: Sticker) -> dict[str, str]:
    claim = sticker.claim
    return {"release": claim.release, "artifact": claim.artifact, "configuration": claim.configuration}


def _keyed(configuration: Configuration) -> object:
    """The configuration with its lists keyed by name, as a comparison by position would shift."""
    content = digest.plain(configuration)
    assert isinstance(content, dict)
    content["environment"] = {name: digest.plain(value) for name, value in configuration.environment}
    content["ports"] = {f"{port.container}/{port.protocol}": digest.plain(port) for port in configuration.ports}
    content["volumes"] = {volume.destination: digest.plain(volume) for volume in configuration.volumes}
    content["template"] = json.loads(configuration.template) if configuration.template is not None else None
    return content


# -- the whole environment --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judged:
    """One target's drifts. Time comes into them through `stale` alone."""

    stale: bool
    drifts: tuple[Drift, ...]
    apart: tuple[Drift, ...]  # those not in sync


@dataclass(frozen=True, kw_only=True)
class Diffed:
    """A diff with what it was made from, so that the next one judges again only what has changed since.

    `judged` and `drifted`, what is not in sync, are in the order of `diff`. No look is older than `oldest`; those from
    before `horizon` were stale.
    """

    drifted: tuple[Drift, ...]
    judged: Mapping[TargetId, Judged]
    desired: DesiredState
    seen: Mapping[TargetId, Seen]
    known: Known
    held: bool
    oldest: datetime
    horizon: datetime

    @cached_property
    def drifts(self) -> tuple[Drift, ...]:
        """All placements."""
        return tuple(chain.from_iterable([judged.drifts for judged in self.judged.values()]))


def diff(desired: DesiredState, seen: Mapping[TargetId, Seen], known: Known, *, now: datetime) -> tuple[Drift, ...]:
    """Every declared placement exactly once, in the order declared; after a target's own, what is foreign and what is
    unmanaged there. Targets that nobody declares come last, and only where they were seen."""
    return rediff(desired, seen, known, now=now).drifts


def rediff(
    desired: DesiredState,
    seen: Mapping[TargetId, Seen],
    known: Known,
    *,
    now: datetime,
    before: Diffed | None = None,
) -> Diffed:
    """`diff`, keeping of `before` what was judged from equal observations, readings, placements and memories. Hand in
    the same objects where nothing has changed: identity is asked before equality."""
    held = before.held if before and _same_refusals(before, desired, known) else is_held(desired, known)
    bench = _Bench(desired, seen, known, held, now - STALE_AFTER * desired.environment.sync.interval)
    if before is None or before.held is not held or not _same_order(before, desired):
        return bench.anew()
    changed = _changed(before.seen, seen)
    return bench.anew() if changed is None else bench.again(before, changed, _moved(before, desired, known))


def effective(desired: DesiredState, known: Known) -> dict[PlacementId, Placement | None]:
    """What each declared placement is held to. While anything declared is refused, the release is not advanced, as a
    set: each placement is held to its last good, and where it has none, to nothing."""
    held = is_held(desired, known)
    return {
        placement.id: _wanted(placement, known.memories.get(placement.id, NOTHING_REMEMBERED), held)
        for placement in desired.placements
    }


def is_held(desired: DesiredState, known: Known) -> bool:
    """Whether anything that is declared was refused here."""
    return bool(known.refused) and any(placement.trial in known.refused for placement in desired.placements)


def _wanted(declared: Placement, memory: Memory, held: bool) -> Placement | None:
    return memory.last_good if held else declared


def _targets(desired: DesiredState, seen: Mapping[TargetId, Seen]) -> Iterator[TargetId]:
    declared = desired.target_of
    yield from declared
    yield from sorted(target for target in seen if target not in declared)


def _same_refusals(before: Diffed, desired: DesiredState, known: Known) -> bool:
    return before.desired is desired and before.known.refused == known.refused


def _same_order(before: Diffed, desired: DesiredState) -> bool:
    """Whether the declared targets, and their order, are as they were."""
    return before.desired is desired or list(before.desired.target_of) == list(desired.target_of)


def _changed(old: Mapping[TargetId, Seen], new: Mapping[TargetId, Seen]) -> list[TargetId] | None:
    """Targets whose sight is another record than before, whatever it says; None when they are not the same targets.
    Looks come in the same order turn after turn, and walking along both asks no table."""
    if new is old:
        return []
    if len(new) == len(old):
        pairs = zip(old.items(), new.items(), strict=True)
        apart = [(was, now) for (was, before), (now, found) in pairs if found is not before or was != now]
        if all(was == now for was, now in apart):
            return [now for _, now in apart]
    return [target for target, found in new.items() if old[target] is not found] if old.keys() == new.keys() else None


def _moved(before: Diffed, desired: DesiredState, known: Known) -> set[TargetId]:
    """Targets whose desire or memories are not as they were."""
    moved = _moved_desires(before.desired, desired)
    return {*moved, *_moved_memories(before.known, known), *_moved_keys(before, known)}


def _moved_desires(old: DesiredState, new: DesiredState) -> list[TargetId]:
    if old is new:
        return []
    return [target for target, placements in old.by_target.items() if new.by_target.get(target) != placements]


def _moved_memories(old: Known, new: Known) -> list[TargetId]:
    if old is new or old.memories is new.memories:
        return []
    moved = [id.target for id, memory in new.memories.items() if old.memories.get(id) != memory]
    return moved + [id.target for id in old.memories if id not in new.memories]


def _moved_keys(before: Diffed, known: Known) -> list[TargetId]:
    moved = before.known.active_keys ^ known.active_keys
    if not moved:
        return []
    standings = ((drift.id.target, drift.standing) for drift in before.drifts)
    return [
        target for target, standing in standings if standing and standing.workload and standing.workload.key in moved
    ]


class _Bench:
    """Where one environment's targets are judged. A look from before `horizon` is stale."""

    def __init__(
        self, desired: DesiredState, seen: Mapping[TargetId, Seen], known: Known, held: bool, horizon: datetime
    ) -> None:
        self.desired, self.seen, self.known, self.held, self.horizon = desired, seen, known, held, horizon
        self._explainer = _Explainer()

    def anew(self) -> Diffed:
        judged = {target: self._judge(target) for target in _targets(self.desired, self.seen)}
        return self._diffed(judged, self._oldest())

    def again(self, before: Diffed, changed: Sequence[TargetId], moved: set[TargetId]) -> Diffed:
        judged = dict(before.judged)
        oldest = min([before.oldest, *(self.seen[target].observation.at for target in changed)])
        if oldest < max(self.horizon, before.horizon):  # some look may have grown stale, or no longer be
            oldest = self._oldest()
            aged = {target for target, found in self.seen.items() if judged[target].stale is not self._stale(found)}
            moved = moved | aged
        for target in changed:
            if target not in moved and not _same_sight(before.seen[target], self.seen[target]):
                judged[target] = self._judge(target)
        for target in moved & judged.keys():
            judged[target] = self._judge(target)
        return self._diffed(judged, oldest)

    def _oldest(self) -> datetime:
        return min((found.observation.at for found in self.seen.values()), default=self.horizon)

    def _diffed(self, judged: dict[TargetId, Judged], oldest: datetime) -> Diffed:
        apart = [each.apart for each in judged.values() if each.apart]
        return Diffed(
            drifted=tuple(chain.from_iterable(apart)),
            judged=judged,
            desired=self.desired,
            seen=self.seen,
            known=self.known,
            held=self.held,
            oldest=oldest,
            horizon=self.horizon,
        )

    def _judge(self, target: TargetId) -> Judged:
        found = self.seen.get(target)
        stale = found is not None and self._stale(found)
        drifts = self._drifts(target, found, stale)
        return Judged(stale, drifts, tuple([drift for drift in drifts if drift.drifted]))

    def _stale(self, found: Seen) -> bool:
        return found.observation.at < self.horizon

    def _drifts(self, target: TargetId, found: Seen | None, stale: bool) -> tuple[Drift, ...]:
        declared = self.desired.by_target.get(target, ())
        blind = _blindness(found)
        observation = found.observation if found is not None and blind is None else None
        drifts = [self._declared(placement, found, stale, blind) for placement in declared]
        if observation is not None:
            ours = {(placement.id.component, placement.id.slot) for placement in declared}
            drifts += [
                self._foreign(target, standing, found, stale)
                for standing in observation.standings
                if (standing.component, standing.slot) not in ours and _stands(standing)
            ]
            drifts += [_unmanaged(target, unmanaged, stale) for unmanaged in observation.unmanaged]
        return tuple(drifts)

    def _declared(self, declared: Placement, found: Seen | None, stale: bool, blind: str | None) -> Drift:
        memory = self.known.memories.get(declared.id, NOTHING_REMEMBERED)
        case = Case(
            id=declared.id,
            wanted=_wanted(declared, memory, self.held),
            declared=declared,
            standing=found.observation.standing(declared.id.component, declared.id.slot) if found else None,
            reading=_read(found, declared.id, memory),
            memory=memory,
            active_keys=self.known.active_keys,
            blind=blind,
            stale=stale,
        )
        return self._explained(judge(case), memory)

    def _foreign(self, target: TargetId, standing: Standing, found: Seen | None, stale: bool) -> Drift:
        id = PlacementId(target, standing.component, standing.slot)
        memory = self.known.memories.get(id, NOTHING_REMEMBERED)
        return judge(
            Case(
                id=id,
                wanted=None,
                declared=None,
                standing=standing,
                reading=_read(found, id, memory),
                memory=memory,
                active_keys=self.known.active_keys,
                stale=stale,
            )
        )

    def _explained(self, drift: Drift, memory: Memory) -> Drift:
        return self._explainer.explained(drift, memory) if drift.drifted else drift


def _same_sight(old: Seen, new: Seen) -> bool:
    same = old.readings is new.readings or old.readings == new.readings
    return same and old.observation == new.observation


def _blindness(found: Seen | None) -> str | None:
    return "it has not been looked at yet" if found is None else found.observation.unseen


def _stands(standing: Standing) -> bool:
    return bool(standing.workload or standing.worn or standing.kept or standing.debris)


def _read(found: Seen | None, id: PlacementId, memory: Memory) -> Reading:
    if found is None:
        return NO_READING
    return judge_sequence(found.readings.get(id, NO_READING), memory)


def _unmanaged(target: TargetId, unmanaged: Unmanaged, stale: bool) -> Drift:
    return judge(
        Case(
            id=PlacementId(target, ComponentName(unmanaged.name), UNMANAGED_SLOT),
            wanted=None,
            declared=None,
            standing=None,
            reading=NO_READING,
            memory=NOTHING_REMEMBERED,
            stale=stale,
            unmanaged=unmanaged,
        )
    )
