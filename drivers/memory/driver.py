"""The memory driver: a runtime like any other, on a world that can be told to misbehave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, ClassVar, Final, Literal

import anyio
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from desired_state.model import Target
from drivers import sequence
from drivers.contract import Action, Against, Capabilities, Look, Receipt, Report, Tools, Unit, Verified
from drivers.errors import DriverError, InvalidAction, Refused, Unreachable
from drivers.memory.faults import Crossing, When
from drivers.memory.hands import MemoryHands
from drivers.memory.scripts import NAMED, Script
from drivers.memory.world import Thing, World
from stickers import names
from stickers.names import Digest, PlacementId, TargetId
from stickers.observation import Observation

LOOK_WITHIN: Final = timedelta(seconds=5)  # for one target; then it is unseen
AHEAD: Final = 4096  # events or lines that nobody has read yet; then they are lost


def _script(text: str) -> str:
    if text not in NAMED:
        raise ValueError(f"expected one of {', '.join(NAMED)}")
    return text


class MemoryConnection(BaseModel):
    """A target in memory."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    via: Literal["local", "agent"] = "local"
    scripts: dict[Annotated[str, AfterValidator(names.digest)], Annotated[str, AfterValidator(_script)]] = Field(
        default_factory=dict,
        description="how artifacts behave here, by digest: " + ", ".join(NAMED),
    )


class MemoryDriver:
    """Hands and eyes in a `World`. Without one it makes a world of its own, whose targets are there, and empty, as
    soon as they are looked at. `who` tells several drivers in one world apart in its records."""

    kind: ClassVar[str] = "memory"
    capabilities: ClassVar[Capabilities] = Capabilities(unit=Unit.COMPONENT, events=True, logs=True, adopts=True)
    verified: ClassVar[Verified] = Verified(against=Against.REAL, by="the world in memory that it is")

    def __init__(self, tools: Tools, world: World | None = None, *, who: str = "driver") -> None:
        self.tools, self.who = tools, who
        self.world = world or World(now=tools.now)

    # -- eyes -------------------------------------------------------------------------------------------------------

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        await anyio.lowlevel.checkpoint()
        world, found, at, now = self.world, {}, self.tools.now(), self.world.clock()
        troubled = []
        for look in looks:
            host = world.host(look.target.id)
            if host.faults or world.nemesis is not None:
                troubled.append(look)
            else:
                found[look.target.id] = host.observation(look.placements, now, at)
        if troubled:
            async with anyio.create_task_group() as group:
                for look in troubled:
                    group.start_soon(self._observe, look, found)
        return found

    async def _observe(self, look: Look, found: dict[TargetId, Observation]) -> None:
        """One target that may misbehave, whatever becomes of it, in its own time."""
        id, reason = look.target.id, f"no answer within {LOOK_WITHIN.total_seconds():g} s"
        with anyio.move_on_after(LOOK_WITHIN.total_seconds()):
            try:
                found[id] = await self._seen(look)
                return
            except DriverError as error:
                reason = str(error)
        found[id] = Observation(target=id, at=self.tools.now(), unseen=reason)

    async def _seen(self, look: Look) -> Observation:
        id = look.target.id
        await self.world.cross(Crossing(who=self.who, target=id, step="observe"))
        seen = self.world.host(id).observation(look.placements, self.world.clock(), self.tools.now())
        await self.world.cross(Crossing(who=self.who, target=id, step="observe", when=When.AFTER))
        return seen

    # -- hands ------------------------------------------------------------------------------------------------------

    async def apply(self, action: Action, *, report: Report) -> Receipt:
        return await sequence.carry_out(action, self.hands(action), self.tools, report=report)

    def hands(self, action: Action) -> sequence.Hands:
        return MemoryHands(self.world, action, self.who, _scripts(action.target))

    async def aclose(self) -> None:
        """The world goes on without its drivers."""

    # -- what happens there -----------------------------------------------------------------------------------------

    async def watch(self, targets: Sequence[Target]) -> AsyncIterator[TargetId]:
        wanted = {target.id for target in targets}
        send, receive = anyio.create_memory_object_stream[TargetId](AHEAD)
        self.world.watch(send)
        with send, receive:
            while (id := await self.world.told(receive)) is not None:
                if id in wanted:
                    yield id
            raise Unreachable("events were lost")

    async def logs(self, target: Target, id: PlacementId, *, tail: int, follow: bool) -> AsyncIterator[str]:
        thing = self._serving(target, id)
        send, receive = anyio.create_memory_object_stream[str](AHEAD)
        if follow:
            self.world.read(thing.instance, send)
        else:
            send.close()
        with send, receive:
            for line in thing.lines[-tail:] if tail else ():
                yield line
            async for line in receive:
                yield line

    def _serving(self, target: Target, id: PlacementId) -> Thing:
        place = self.world.host(target.id).places.get(id)
        if place is None or place.served is None:
            raise Refused(f"nothing stands for {id}")
        return place.served


def _scripts(target: Target) -> dict[Digest, Script]:
    try:
        connection = MemoryConnection.model_validate(dict(target.connection))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InvalidAction(f"connection of {target.id}: {first['msg']}") from None
    return {Digest(artifact): NAMED[name] for artifact, name in connection.scripts.items()}
