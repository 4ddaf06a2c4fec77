"""Looking at all targets of one engine at once: one list call, and an inspection only of what may have changed.

The engine's answer is compared piece by piece, as bytes, with the last one; only what differs is parsed. What a list
does not show (limits, restart policy) is covered by the events that a watcher hands to `forget`, and by age.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import anyio

from desired_state.health import CommandCheck, Health
from desired_state.model import Placement
from drivers.contract import Look
from drivers.docker import checks, look, render
from drivers.docker.compare import Inspected
from drivers.docker.engine import Engine
from drivers.docker.look import Group, Listed
from drivers.errors import Unreachable
from stickers.names import InstallationId, PlacementId, TargetId
from stickers.observation import Health as Answer
from stickers.observation import Observation, Standing, Unmanaged, Workload

AGE: Final = 60.0  # seconds after which a container is inspected again although nothing seems changed
COMMAND_AGE: Final = 10.0  # seconds a command's answer is good for: each costs the engine a process
ASKED: Final = 16  # health checks at once

_ENTRY: Final = b'{"Id":"'
_STATUS: Final = b'"Status":"'
_AGES: Final = re.compile(rb'("Status":"(?:Up|Exited \(\d+\)|Restarting \(\d+\)))[^()"]*')


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the list as the engine wrote it, but for the age in its status text."""

    before: bytes
    status: str
    after: bytes


@dataclass(slots=True)
class Inspection:
    """`mark` is how the list showed the container and its sticker then. While an action is under way a container has
    another restart policy than its own, and the list does not show that it has its own again: the sticker does."""

    mark: tuple[object, ...]
    container: Inspected
    until: float


@dataclass(frozen=True, slots=True)
class Sight:
    """One placement as seen, with what its health is asked of."""

    standing: Standing
    container: Inspected | None


class Eyes:
    """What is remembered of one engine between looks."""

    def __init__(self, engine: Engine, installation: InstallationId, now: Callable[[], datetime]) -> None:
        self._engine, self._installation, self._now = engine, installation, now
        self._turn = anyio.Lock()
        self._steady = b""
        self._pieces: dict[str, tuple[Piece, Listed]] = {}
        self._inspections: dict[str, Inspection] = {}
        self._images: dict[str, tuple[Inspected | None, float]] = {}
        self._stale = False  # what is told in `sights` may not be so any more
        self._due = 0.0
        self._sights: dict[TargetId, dict[PlacementId, Sight]] = {}
        self._unmanaged: tuple[Unmanaged, ...] = ()
        self._answers: dict[tuple[str, Health], tuple[Answer, float]] = {}
        self._placements: dict[str, TargetId] = {}

    async def look(self, looks: Sequence[Look]) -> dict[TargetId, Observation]:
        """One observation for every look; raises `DriverError` when the engine cannot be seen."""
        async with self._turn:
            changed = self._understood(await self._engine.listing())
            if changed or self._stale or anyio.current_time() >= self._due:
                await self._see_anew()
            await self._ask(looks)
            at = self._now()
            return {one.target.id: self._observation(one, at) for one in looks}

    def forget(self, id: str) -> None:
        """Something happened to the container: inspect it at the next look."""
        if self._inspections.pop(id, None) is not None:
            self._stale = True

    def forget_target(self, target: TargetId) -> None:
        """Somebody has acted there: what a list does not show may have changed too."""
        for id in [id for id, of in self._placements.items() if of == target]:
            self.forget(id)

    def target_of(self, id: str) -> TargetId | None:
        """The target for which the container stood when it was last seen; adopted ones carry no labels."""
        return self._placements.get(id)

    # -- the list ---------------------------------------------------------------------------------------------------

    def _understood(self, answer: bytes) -> bool:
        try:
            return self._read(answer)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Unreachable(f"the engine's list of containers is not understood: {type(error).__name__}") from None

    def _read(self, answer: bytes) -> bool:
        """Take in the engine's list; whether anything in it is new, which ages alone are not."""
        steady = _AGES.sub(rb"\1", answer)
        if steady == self._steady:
            return False
        found: dict[str, tuple[Piece, Listed]] = {}
        changed = False
        for text in _texts(answer):
            id, piece = text[:64].decode(), _piece(text)
            known = self._pieces.get(id)
            if known is None or known[0] != piece:
                known, changed = (piece, look.listed(json.loads(_ENTRY + text))), True
            found[id] = known
        changed = changed or found.keys() != self._pieces.keys()
        self._pieces, self._steady = found, steady
        return changed

    # -- inspections ------------------------------------------------------------------------------------------------

    async def _see_anew(self) -> None:
        """What could not be seen now is not what was seen before: the next look begins here again."""
        self._stale = False
        try:
            await self._see()
        except BaseException:
            self._stale = True
            raise

    async def _see(self) -> None:
        """Group the containers anew, inspect what has to be, and keep what was seen until something changes."""
        listed = [one for _, one in self._pieces.values()]
        groups = look.groups(listed, self._installation)
        wanted = {one.id: _mark(one, group) for group in groups.values() for one in look.candidates(group)}
        await self._inspect(wanted)
        sights: dict[TargetId, dict[PlacementId, Sight]] = {}
        for id, group in sorted(groups.items()):
            sights.setdefault(id.target, {})[id] = await self._sight(group)
        self._sights = sights
        self._placements = {
            one.id: id.target for id, group in groups.items() for one in (*group.workloads, *group.holders)
        }
        self._unmanaged = await self._strangers(listed)
        self._due = min((one.until for one in self._inspections.values()), default=anyio.current_time() + AGE)

    async def _inspect(self, wanted: Mapping[str, tuple[object, ...]]) -> None:
        now = anyio.current_time()
        for id in self._inspections.keys() - wanted.keys():
            del self._inspections[id]
        for id, mark in wanted.items():
            known = self._inspections.get(id)
            if known is not None and known.mark == mark and now < known.until:
                continue
            self._inspections.pop(id, None)
            container = await self._engine.container(id)
            if container is not None:
                self._inspections[id] = Inspection(mark, container, now + _age(id))

    async def _sight(self, group: Group) -> Sight:
        seen = {one.id: self._inspections[one.id].container for one in group.workloads if one.id in self._inspections}
        serving = look.serving(group, seen)
        if serving is None:
            return Sight(look.standing(group, None), None)
        container = seen[serving.id]
        image = await self._image(container["Image"])
        answer = look.runtime_health(container["State"]) or look.UNCHECKED
        workload = look.workload(container, image, look.record_of(serving, group), answer)
        return Sight(look.standing(group, workload), container)

    async def _image(self, id: str) -> Inspected | None:
        image, until = self._images.get(id, (None, 0.0))
        if anyio.current_time() >= until:
            image = await self._engine.image(id)
            self._images[id] = image, anyio.current_time() + (AGE * 10 if image else AGE)
        return image

    async def _strangers(self, listed: Iterable[Listed]) -> tuple[Unmanaged, ...]:
        """What runs here and is not of this installation."""
        strange = [
            one
            for one in listed
            if one.running and one.id not in self._placements and one.labels.get(render.ROLE) != render.STICKER
        ]
        found = [look.unmanaged(one, await self._image(one.image_id)) for one in strange]
        used = {one.image_id for one in listed}
        self._images = {id: known for id, known in self._images.items() if id in used}
        return tuple(sorted(found, key=lambda one: (one.name, one.instance)))

    # -- health -----------------------------------------------------------------------------------------------------

    async def _ask(self, looks: Sequence[Look]) -> None:
        """Ask what is declared and not freshly answered, all at once."""
        now, limit = anyio.current_time(), anyio.CapacityLimiter(ASKED)
        self._answers = {key: known for key, known in self._answers.items() if now < known[1]}
        async with anyio.create_task_group() as questions:
            for placement in (placement for one in looks for placement in one.placements):
                if placement.health is None or (container := self._asked(placement)) is None:
                    continue
                if (container["Id"], placement.health) not in self._answers:
                    questions.start_soon(self._answer, container, placement.health, limit)

    def _asked(self, placement: Placement) -> Inspected | None:
        """The container to ask, where one runs."""
        sight = self._sights.get(placement.id.target, {}).get(placement.id)
        if sight is None or sight.container is None or not sight.container["State"].get("Running"):
            return None
        return sight.container

    async def _answer(self, container: Inspected, rules: Health, limit: anyio.CapacityLimiter) -> None:
        async with limit:
            answer = await checks.ask(self._engine, container, rules)
        age = max(rules.interval.total_seconds(), COMMAND_AGE if isinstance(rules.check, CommandCheck) else 0.0)
        self._answers[container["Id"], rules] = replace(answer, checked_at=self._now()), anyio.current_time() + age

    # -- the answer -------------------------------------------------------------------------------------------------

    def _observation(self, look: Look, at: datetime) -> Observation:
        sights = self._sights.get(look.target.id, {})
        rules = {placement.id: placement.health for placement in look.placements}
        return Observation(
            target=look.target.id,
            at=at,
            standings=tuple(self._with_health(sight, rules.get(id)) for id, sight in sights.items()),
            unmanaged=self._unmanaged,
        )

    def _with_health(self, sight: Sight, rules: Health | None) -> Standing:
        if sight.container is None or sight.standing.workload is None or rules is None:
            return sight.standing
        answer, _ = self._answers.get((sight.container["Id"], rules), (None, 0.0))
        if answer is None:
            return sight.standing
        workload: Workload = replace(sight.standing.workload, health=answer)
        return replace(sight.standing, workload=workload)


def _mark(one: Listed, group: Group) -> tuple[object, ...]:
    return (*one.mark, group.holder.id if group.holder else None)


def _texts(answer: bytes) -> list[bytes]:
    """The entries of the list, each without its first ten characters. An engine that writes them otherwise than all
    have done so far is understood too, at a price."""
    if answer.startswith(b"[" + _ENTRY):
        return [text.rstrip(b",]\n ") for text in answer.split(_ENTRY)[1:]]
    entries = json.loads(answer)
    return [json.dumps({"Id": one["Id"]} | one, separators=(",", ":")).encode()[len(_ENTRY) :] for one in entries]


def _piece(text: bytes) -> Piece:
    """The last of them is the engine's own; an earlier one may be a label of that name."""
    before, _, after = text.rpartition(_STATUS)
    status, _, after = after.partition(b'"')
    return Piece(before, look.steady(status.decode(errors="replace")), after)


def _age(id: str) -> float:
    """Spread over half of it again, so that not everything is inspected in one look."""
    return AGE * (1 + (zlib.crc32(id.encode()) % 512) / 1024)
