"""Looking at all targets at once: batched per driver, within a deadline, and never an error.

What cannot be looked at is unseen with a sentence, and only that. A target that was not seen the last time is looked
at on its own, beside the batch, so that it cannot hold up the others again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import anyio
import anyio.lowlevel

from drivers.contract import Driver, Look
from drivers.errors import DriverError
from reconciler.core import trust
from reconciler.core.known import NO_READING, Reading, Seen, Trust
from reconciler.core.trust import Opened
from stickers import codec
from stickers.codec import Unreadable
from stickers.names import EnvironmentId, InstallationId, PlacementId, TargetId
from stickers.observation import Observation, Standing, Worn
from stickers.signature import Envelope, Forged, Keyring, Unsigned
from stickers.sticker import Sticker

BATCH: Final = 512  # looks in one call
LONGEST: Final = 3  # deadlines of one call that looking at everything may take
BREATH: Final = 512  # sights compared with the last before the loop's other tasks get a turn
VERIFYING: Final = 8  # times as long as that does it take to verify a signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """How looking is bounded: seconds for one call of a driver, and calls that run together."""

    deadline: float = 30.0
    parallel: int = 32


class Eyes:
    """Looks at targets through their drivers and reads what they wear.

    Remembers the last sight of each target: an unchanged observation costs one comparison, and no signature is
    verified twice.
    """

    def __init__(
        self,
        drivers: Mapping[str, Driver],
        keyring: Keyring,
        installation: InstallationId,
        *,
        now: Callable[[], datetime],
        sight: Sight | None = None,
    ) -> None:
        self._drivers, self._keyring, self._installation, self._now = drivers, keyring, installation, now
        self._sight = sight or Sight()
        self._seen: dict[TargetId, Seen] = {}
        self._suspects: set[TargetId] = set()

    async def look(self, environment: EnvironmentId, looks: Sequence[Look]) -> dict[TargetId, Seen]:
        """One sight for every look, whatever happens."""
        observations: dict[TargetId, Observation] = {}
        limit = anyio.CapacityLimiter(self._sight.parallel)
        with anyio.move_on_after(self._sight.deadline * LONGEST):
            async with anyio.create_task_group() as calls:
                for kind, batch in self._batches(looks):
                    calls.start_soon(self._call, kind, batch, observations, limit)
        return await self._read(environment, looks, observations)

    def forget(self, targets: Sequence[TargetId]) -> None:
        """Drop what is remembered of targets that nobody declares any more."""
        for target in targets:
            self._seen.pop(target, None)
            self._suspects.discard(target)

    def believe(self, keyring: Keyring) -> None:
        """Believe other keys from now on; everything is read anew."""
        self._keyring = keyring
        self._seen.clear()

    # -- looking ----------------------------------------------------------------------------------------------------

    def _batches(self, looks: Sequence[Look]) -> Iterator[tuple[str, Sequence[Look]]]:
        """By driver, in the order given; suspects each on their own."""
        by_kind: dict[str, list[Look]] = {}
        for look in looks:
            if look.target.id in self._suspects:
                yield look.target.hands, (look,)
            else:
                by_kind.setdefault(look.target.hands, []).append(look)
        for kind, batch in by_kind.items():
            for start in range(0, len(batch), BATCH):
                yield kind, batch[start : start + BATCH]

    async def _call(
        self, kind: str, looks: Sequence[Look], into: dict[TargetId, Observation], limit: anyio.CapacityLimiter
    ) -> None:
        """One call of a driver. A batch that fails as a whole is asked for target by target, so that only those that
        cannot be seen stay unseen."""
        try:
            driver = _driver(self._drivers, kind)
        except DriverError as error:
            into.update(self._unseen(looks, str(error)))
            return
        async with limit:
            answer = await self._ask(driver, looks)
        if not isinstance(answer, str):
            into.update(answer)
        elif len(looks) == 1:
            into.update(self._unseen(looks, answer))
        else:
            async with anyio.create_task_group() as calls:
                for look in looks:
                    calls.start_soon(self._call, kind, (look,), into, limit)

    async def _ask(self, driver: Driver, looks: Sequence[Look]) -> Mapping[TargetId, Observation] | str:
        """The driver's observations, or the sentence why there are none."""
        try:
            with anyio.move_on_after(self._sight.deadline):
                return await driver.observe(looks)
        except DriverError as error:
            return str(error) or error.code
        except Exception as error:  # whatever a driver raises, its targets are unknown and the others go on
            return f"looking failed: {type(error).__name__}: {error}"[:400]
        return f"no answer within {self._sight.deadline:g} s"

    def _unseen(self, looks: Sequence[Look], sentence: str) -> dict[TargetId, Observation]:
        now = self._now()
        return {look.target.id: Observation(target=look.target.id, at=now, unseen=sentence) for look in looks}

    # -- reading ----------------------------------------------------------------------------------------------------

    async def _read(
        self, environment: EnvironmentId, looks: Sequence[Look], observations: Mapping[TargetId, Observation]
    ) -> dict[TargetId, Seen]:
        found: dict[TargetId, Seen] = {}
        done = 0
        for look in looks:
            target = look.target.id
            observation = observations.get(target) or self._unanswered(target)
            before = self._seen.get(target)
            if before is not None and before.observation is observation:
                found[target] = before
                continue
            seen = found[target] = self._sighted(environment, observation, before)
            self._remember(target, seen)
            done += 1 if before is not None else VERIFYING * len(observation.standings)
            if done >= BREATH:
                done = 0
                await anyio.lowlevel.checkpoint()
        return found

    def _unanswered(self, target: TargetId) -> Observation:
        return Observation(target=target, at=self._now(), unseen="no answer about this target in time")

    def _remember(self, target: TargetId, seen: Seen) -> None:
        if seen.observation.unseen is None:
            self._seen[target] = seen
            self._suspects.discard(target)
        else:
            self._suspects.add(target)

    def _sighted(self, environment: EnvironmentId, observation: Observation, before: Seen | None) -> Seen:
        """The observation with its stickers read; texts that were read at the last sight are not read again."""
        if before is not None and before.observation == observation:
            return Seen(observation=_as_before(before.observation, observation.at), readings=before.readings)
        readings: dict[PlacementId, Reading] = {}
        for standing in observation.standings:
            id = PlacementId(observation.target, standing.component, standing.slot)
            known = _reading_before(before, id, standing)
            readings[id] = known or self._reading(environment, id, standing.worn)
        return Seen(observation=observation, readings=readings)

    def _reading(self, environment: EnvironmentId, id: PlacementId, worn: Worn | None) -> Reading:
        """How far the sticker is believed; whether it is replayed is judged where memories are at hand."""
        if worn is None:
            return NO_READING
        sticker, flaw, problem = self._opened(worn)
        return trust.reading(
            Opened(
                worn=worn,
                id=id,
                environment=environment,
                installation=self._installation,
                sticker=sticker,
                flaw=flaw,
                problem=problem,
            )
        )

    def _opened(self, worn: Worn) -> tuple[Sticker | None, Trust | None, str]:
        if worn.envelope is None:
            return None, None, ""
        try:
            return codec.verified(Envelope(worn.envelope), self._keyring), None, ""
        except Unreadable as error:
            return None, Trust.UNREADABLE, str(error)
        except Unsigned as error:
            return None, Trust.UNSIGNED, str(error)
        except Forged as error:
            return None, Trust.FORGED, str(error)


def _as_before(observation: Observation, at: datetime) -> Observation:
    """What was seen before, seen again: what was judged from it holds the same records, so there is one of each."""
    return Observation(
        target=observation.target, at=at, standings=observation.standings, unmanaged=observation.unmanaged
    )


def _reading_before(before: Seen | None, id: PlacementId, standing: Standing) -> Reading | None:
    """The reading of the last sight, where the same text is still worn."""
    if before is None or id not in before.readings:
        return None
    was = before.observation.standing(id.component, id.slot)
    return before.readings[id] if was is not None and was.worn == standing.worn else None


def _driver(drivers: Mapping[str, Driver], kind: str) -> Driver:
    """The driver of that kind; one that cannot be had is an error with a sentence, like any other of the target."""
    try:
        return drivers[kind]
    except KeyError:
        raise DriverError(f"no driver of kind {kind!r} is known here") from None
    except DriverError:
        raise
    except Exception as error:  # a driver's own import may raise anything
        raise DriverError(f"driver {kind!r} cannot be loaded: {type(error).__name__}: {error}"[:400]) from None
