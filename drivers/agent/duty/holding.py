"""Holding a target without a server: what was last authorised and proven on it is brought back where it is gone.

Only as long as a signed grant lasts, and only while no server has been heard of for so long that each of them must take
the agent for lost. What is done so is answered as the grant's, and told when a server is there again. Nothing new is
ever deployed: no placement that was not proven here, no fence higher than the highest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from secrets import token_hex
from typing import Final

import anyio
import anyio.to_thread

from desired_state.model import Placement
from drivers.agent import protocol
from drivers.agent.duty.carry import Carrier, Done, Job
from drivers.agent.duty.clock import Clock
from drivers.agent.duty.journal import Full, Grant, Journal, Proven
from drivers.agent.duty.local import Locals
from drivers.agent.protocol import OFFLINE, Hold, Task, Verb
from drivers.contract import Action, Change, Deploy, Footing, Look, Restart, Stamp
from drivers.errors import Refused
from stickers.names import ActionKey, AgentName, TargetId
from stickers.observation import Standing, Workload, WorkloadState
from stickers.signature import Envelope
from stickers.sticker import Sticker

EVERY: Final = 10.0  # seconds between two looks at what is held
KEPT_EVERY: Final = 60.0  # seconds after which it is kept how long grants still last
PATIENCE: Final = 300.0  # seconds between two tries of what does not succeed, at most
WITHIN: Final = timedelta(minutes=5)

_log: Final = logging.getLogger("holdfast.agent")


class Holding:
    """`silent` answers for how many seconds no server has been heard of, `may` whether a runtime may still be worked
    with on a target."""

    def __init__(
        self,
        *,
        agent: AgentName,
        journal: Journal,
        clock: Clock,
        locals: Locals,
        carrier: Carrier,
        read: Callable[[Envelope], Sticker | None],
        silent: Callable[[], float],
        may: Callable[[TargetId, str], bool],
    ) -> None:
        self._agent, self._journal, self._clock = agent, journal, clock
        self._locals, self._carrier, self._read = locals, carrier, read
        self._silent, self._may = silent, may
        self._pauses: dict[TargetId, tuple[float, float]] = {}  # until when, and how long it was

    async def grant(self, job: Job) -> Done:
        """From now on, for as long as is granted; a grant of nothing ends one."""
        asked, task = job.work, job.task
        assert isinstance(asked, Hold)
        span = self._clock.span(max(0, asked.seconds))
        grant = Grant(id=task.id, target=task.target, environment=task.environment, span=span)
        try:
            if asked.seconds <= 0:
                await anyio.to_thread.run_sync(self._journal.let_go, task.target)
            else:
                await anyio.to_thread.run_sync(self._journal.hold, grant)
        except Full as error:
            raise Refused(f"no room in the agent's journal, nothing was changed: {error}") from None
        return Done(body="null")

    async def run(self) -> None:
        kept = anyio.current_time()
        while True:
            await anyio.sleep(EVERY)
            if anyio.current_time() - kept >= KEPT_EVERY:
                kept = anyio.current_time()
                await anyio.to_thread.run_sync(self.renew)
            if self._silent() >= OFFLINE:
                try:
                    await self.hold_all()
                except Exception:  # what cannot be held now is tried again, and what is asked for goes on
                    _log.exception("could not hold")

    def renew(self) -> None:
        """Keep how long each grant lasts, and let go of those that do not. Blocking."""
        for grant in self._journal.holds.values():
            span = self._clock.renewed(grant.span)
            try:
                if span.left == 0:
                    self._journal.let_go(grant.target)
                else:
                    renewed = Grant(id=grant.id, target=grant.target, environment=grant.environment, span=span)
                    self._journal.hold(renewed)
            except Full as error:
                _log.warning("how long %s may be held cannot be kept: %s", grant.target, error)

    async def hold_all(self) -> None:
        """Look at everything that is held, and bring back what is gone."""
        lasting = [grant for grant in self._journal.holds.values() if self._clock.left(grant.span) > 0]
        for grant in lasting:
            proven = self._journal.proven.get(grant.target)
            if proven is not None and self._may(grant.target, proven.target.driver) and self._is_due(grant.target):
                await self._hold(grant, proven)

    def _is_due(self, target: TargetId) -> bool:
        until, _ = self._pauses.get(target, (0.0, 0.0))
        return anyio.current_time() >= until and not self._carrier.is_busy(target)

    async def _hold(self, grant: Grant, proven: Proven) -> None:
        look = Look(target=proven.target, placements=proven.placements)
        observation = (await self._locals.observe([look]))[grant.target]
        if observation.unseen is not None:
            self._pause(grant.target)
            return
        found = {one.id: observation.standing(one.id.component, one.id.slot) for one in proven.placements}
        changes = tuple(change for one in proven.placements if (change := self._change(one, found[one.id])) is not None)
        if not changes:
            self._pauses.pop(grant.target, None)
            return
        _log.warning("no server is heard of: %s is held, %d placements are brought back", grant.target, len(changes))
        action = self._action(proven, changes)
        if await self._carrier.hold(self._task(grant, action), action):
            self._pauses.pop(grant.target, None)
        else:
            self._pause(grant.target)

    def _change(self, placement: Placement, standing: Standing | None) -> Change | None:
        """What brings the placement back; None where it stands."""
        workload = standing.workload if standing else None
        stamp = self._stamp(standing)
        if workload is None:
            return Deploy(placement=placement, replaces=None, stamp=stamp, predecessor=None)
        if (workload.artifact, workload.configuration) != placement.content:
            return Deploy(placement=placement, replaces=_footing(workload), stamp=stamp, predecessor=None)
        if placement.running and workload.state is WorkloadState.STOPPED:
            return Restart(placement=placement, replaces=_footing(workload), stamp=stamp)
        return None

    def _stamp(self, standing: Standing | None) -> Stamp:
        worn = standing.worn if standing else None
        sticker = self._read(Envelope(worn.envelope)) if worn and worn.envelope else None
        return Stamp(sequence=sticker.sequence + 1 if sticker else 1, previous=sticker.digest if sticker else None)

    def _action(self, proven: Proven, changes: tuple[Change, ...]) -> Action:
        return Action(
            key=ActionKey(token_hex(32)),
            fence=self._journal.fence(proven.target.id),
            environment=proven.environment,
            job=proven.job,
            revision=proven.revision,
            target=proven.target,
            changes=changes,
            deadline=WITHIN,
        )

    def _task(self, grant: Grant, action: Action) -> Task:
        """What was done under the grant, in the words of a task: it is answered as one."""
        return Task(
            id=f"{grant.id}/{action.key[:12]}",
            key=action.key,
            agent=self._agent,
            generation=0,
            epoch=self._clock.epoch,
            target=grant.target,
            environment=grant.environment,
            verb=Verb.HOLD,
            content=protocol.content(protocol.body(action)),
            fence=action.fence,
            not_after=self._clock.at(),
            within=WITHIN,
        )

    def _pause(self, target: TargetId) -> None:
        _, last = self._pauses.get(target, (0.0, EVERY))
        pause = min(2 * last, PATIENCE)
        self._pauses[target] = anyio.current_time() + pause, pause


def _footing(workload: Workload) -> Footing:
    return Footing(instance=workload.instance, artifact=workload.artifact, configuration=workload.configuration)
