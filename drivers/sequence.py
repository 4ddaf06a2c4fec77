"""The one order of steps, for every runtime: look, prepare, hook, mark in transit, start, prove, switch, prove again,
hook, settle, sticker. Where a runtime changes a target as a whole, its changes go through them in step: all are
prepared before the first is marked, and all are marked before anything is started.

Each step of `Hands` may be interrupted and is safe to repeat; the sticker in transit says that somebody was here, and
the next action, by the same key or a newer one, finishes the work by the same steps. The proven sticker comes last of
all: whoever reads it need not ask whether a predecessor still runs. A failed proof puts what stood before back, proves
and labels that, and answers `reverted`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol, assert_never, runtime_checkable

import anyio

from desired_state.health import Health
from desired_state.hooks import Hook, OnFailure, Where
from desired_state.model import Placement
from drivers import proof
from drivers.contract import (
    Action,
    Change,
    Deploy,
    Ended,
    Errand,
    Footing,
    Outcome,
    Progress,
    Receipt,
    Remove,
    Report,
    Restart,
    Result,
    Step,
    Tools,
    Unit,
    claim_of,
)
from drivers.errors import Conflict, InvalidAction, NotAllowed, OutcomeUnknown, Refused, StaleFence, Terminal
from drivers.proof import Disproven, Proven
from stickers import codec
from stickers.evidence import HealthEvidence
from stickers.names import EvidenceId, PlacementId
from stickers.observation import Standing, Workload, WorkloadState
from stickers.signature import Envelope, Statement
from stickers.sticker import Claim, Phase, Sticker


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What `start` brought up. `beside`: the predecessor still serves, and `switch` has something to do. `failed`: why
    it could not be brought up; there is nothing to prove then, and what stood before is put back."""

    instance: str
    beside: bool
    failed: str | None = None


class Hands(Protocol):
    """What one runtime brings to one target for the length of one action. Every step is idempotent, confined to the
    placement, finds things by label and id, never by name, and raises only `drivers.errors`. A step that changes
    something raises `StaleFence` instead where somebody with a higher fence has acted since the look."""

    async def look(self, id: PlacementId, adopts: str | None) -> Standing:
        """What stands there now. `adopts` names a foreign workload to be looked at as if it were ours."""
        ...

    async def prepare(self, deploy: Deploy) -> None:
        """Bring the bytes to the target and verify their digest. Nothing that serves is touched."""
        ...

    async def start(self, deploy: Deploy) -> Started:
        """Bring the placement up beside what serves, or, where a port is fixed, in its place (which is stopped and
        kept). Found half-made by an earlier try, it is finished. Declared stopped, it is made and not started."""
        ...

    async def switch(self, deploy: Deploy, instance: str) -> None:
        """Send traffic to the instance."""
        ...

    async def workload(self, id: PlacementId, instance: str, health: Health | None) -> Workload | None:
        """A fresh look at one instance, its health asked once within the check's time-out; None when it is gone."""
        ...

    async def put_back(self, deploy: Deploy, standing: Standing) -> str | None:
        """Undo `start` and `switch`: the instance that `standing` shows serves again and the new one is gone. Where the
        new one is what `standing` shows, begun by an interrupted try, what is kept of `deploy.predecessor` serves
        again. None where nothing stood."""
        ...

    async def settle(self, deploy: Deploy, instance: str) -> None:
        """Stop the predecessor where it still runs, keep `deploy.keep` of them beside last good, collect the rest."""
        ...

    async def restart(self, id: PlacementId, instance: str) -> str:
        """Stop and start; answers the instance that runs afterwards."""
        ...

    async def remove(self, id: PlacementId) -> None:
        """Take everything of the placement away but its sticker."""
        ...

    async def wear(self, id: PlacementId, sticker: Sticker, envelope: Envelope) -> None:
        """Write the sticker atomically in place of the one worn; a crash leaves one of the two."""
        ...

    async def bare(self, id: PlacementId) -> None:
        """Take the sticker off."""
        ...


@runtime_checkable
class RunsHooks(Protocol):
    """Hands on a target that has a host of its own, on which programs beside a deployment can run."""

    @property
    def lets_hooks(self) -> bool:
        """Whether the target's connection allows them there."""
        ...

    async def run(self, id: PlacementId, errand: Errand) -> Ended:
        """Run it to its end or its deadline, in a process group of its own, while the placement is held."""
        ...


async def carry_out(
    action: Action,
    hands: Hands,
    tools: Tools,
    *,
    report: Report,
    unit: Unit = Unit.COMPONENT,
    marks_first: bool = True,
) -> Receipt:
    """Carry out the action's changes within its deadline; out of time is `OutcomeUnknown`. One after the other, or all
    in step where the target is the unit of change: `start` is then called when every change has been marked, so the
    first call may start them all. Without `marks_first` nothing is worn where nothing stood until it is proven: no
    sticker is there that could lie, and the workload is made with labels that say whose it is."""
    carriers = [_Carrier(action, change, hands, tools, report, marks_first) for change in action.changes]
    with anyio.move_on_after(action.deadline.total_seconds()):
        for together in [carriers] if unit is Unit.TARGET else [[carrier] for carrier in carriers]:
            await _in_step(together)
        return Receipt(key=action.key, target=action.target.id, outcomes=tuple(carrier.outcome for carrier in carriers))
    raise OutcomeUnknown(f"not done within {action.deadline.total_seconds():g} s; what it did is to be looked at")


_ENDED: Final = object()


async def _in_step(carriers: Sequence[_Carrier]) -> None:
    """Each as far as its next `yield`, in order, again and again."""
    async with AsyncExitStack() as stack:
        going = [await stack.enter_async_context(aclosing(carrier.carry())) for carrier in carriers]
        while going:
            going = [one for one in going if await anext(one, _ENDED) is not _ENDED]


class _Carrier:
    """One change of one action on its way. It yields when it is prepared, when it is marked, and when it is started;
    `outcome` is there when it has ended."""

    outcome: Outcome

    def __init__(
        self, action: Action, change: Change, hands: Hands, tools: Tools, report: Report, marks_first: bool = True
    ) -> None:
        self.action, self.change, self.hands, self.tools = action, change, hands, tools
        self._report, self._marks_first = report, marks_first
        self.worn: Sticker | None = None
        self.sequence = change.stamp.sequence
        self.switched_at: datetime | None = None

    def carry(self) -> AsyncGenerator[None, None]:
        match self.change:
            case Deploy():
                return self._deploy(self.change)
            case Restart():
                return self._restart(self.change)
            case Remove():
                return self._remove(self.change)
            case _:
                assert_never(self.change)

    # -- the three changes ------------------------------------------------------------------------------------------

    async def _deploy(self, deploy: Deploy) -> AsyncGenerator[None, None]:
        placement, standing = deploy.placement, await self._look()
        if self._stands_as(placement, standing) and not self._in_transit and not self._unwell(deploy, standing):
            yield
            self.outcome = await self._as_wanted(deploy, standing)
            return
        if deploy.adopts is not None:
            raise Conflict(f"{deploy.id}: {deploy.adopts} does not run what is declared, so it cannot be taken over")
        self._must_be(deploy.replaces, standing)
        self._may_run_hooks(placement)
        self.say(Step.PREPARE, f"bring {placement.artifact} to the target")
        await self.hands.prepare(deploy)
        await self._pre_deploy(deploy)
        yield
        if self._marks_first or not _is_first(standing):
            await self._mark(claim_of(placement, self.tools.installation))
        yield
        self.say(Step.START, f"start {placement.release} {placement.artifact.digest[7:19]}")
        started = await self.hands.start(deploy)
        self.switched_at = None if started.beside else self.tools.now()
        yield
        self.outcome = await self._proven(deploy, standing, started)

    async def _as_wanted(self, deploy: Deploy, standing: Standing) -> Outcome:
        if self._wears(claim_of(deploy.placement, self.tools.installation)) and not standing.debris:
            return self._outcome(Result.UNCHANGED, "already as wanted", standing.workload)
        return await self._label(deploy, standing)

    async def _proven(self, deploy: Deploy, standing: Standing, started: Started) -> Outcome:
        placement = deploy.placement
        if started.failed is not None:
            return await self._revert(deploy, standing, Disproven(reason=started.failed))
        found = await self._prove(placement, started.instance)
        if isinstance(found, Proven) and started.beside:
            self.say(Step.SWITCH, "send traffic to the new instance")
            await self.hands.switch(deploy, started.instance)
            self.switched_at = self.tools.now()
            found = await self._prove(placement, started.instance, answers=1)
        if isinstance(found, Disproven):
            return await self._revert(deploy, standing, found)
        failed = await self._post_deploy(deploy)
        if isinstance(failed, Disproven):
            return await self._revert(deploy, standing, failed)
        await self._settle(deploy, started.instance)
        evidence = await self._label_proven(placement, found)
        return self._outcome(Result.CHANGED, f"now runs {placement.release}{failed or ''}", found.workload, evidence)

    async def _label(self, deploy: Deploy, standing: Standing) -> Outcome:
        """The workload is as wanted and only its sticker is not, or something is left of an interrupted action: prove,
        tidy up and write the sticker; nothing is restarted."""
        assert standing.workload is not None
        found = await self._prove(deploy.placement, standing.workload.instance)
        if isinstance(found, Disproven):
            return self._outcome(
                Result.UNPROVEN, f"runs as wanted but is not labelled: {found.reason}", standing.workload
            )
        await self._settle(deploy, found.workload.instance)
        evidence = await self._label_proven(deploy.placement, found)
        return self._outcome(Result.LABELLED, "proven and labelled, nothing restarted", found.workload, evidence)

    async def _revert(self, deploy: Deploy, standing: Standing, failed: Disproven) -> Outcome:
        self.say(Step.PUT_BACK, f"proof failed ({failed.reason}); put back what stood before")
        instance = await self.hands.put_back(deploy, standing)
        self.switched_at = self.tools.now()
        if instance is None:
            await self.hands.bare(deploy.id)
            return self._outcome(Result.REVERTED, f"{failed.reason}; nothing stood there before", None)
        again, before = await self.hands.workload(deploy.id, instance, None), deploy.predecessor
        if before is None or not _is(before, again):
            await self.hands.bare(deploy.id)
            detail = f"{failed.reason}; what stood before stands again, and was never proven"
            return self._outcome(Result.UNPROVEN, detail, again)
        found = await self._prove(before, instance)
        if isinstance(found, Disproven):
            return self._outcome(Result.UNPROVEN, f"{failed.reason}; and of what was put back: {found.reason}", again)
        evidence = await self._label_proven(before, found)
        detail = f"{failed.reason}; {before.release} stands again"
        return self._outcome(Result.REVERTED, detail, found.workload, evidence)

    async def _restart(self, restart: Restart) -> AsyncGenerator[None, None]:
        standing = await self._look()
        done = self.worn is not None and self.worn.key == self.action.key and self.worn.phase is Phase.PROVEN
        if done:
            self.outcome = await self._restarted_before(restart, standing)
            return
        self._must_be(restart.replaces, standing)
        if not _is(restart.placement, standing.workload):
            raise Conflict(f"{restart.id}: found {_shown(_footing(standing.workload))}, not what is to be restarted")
        yield
        self.say(Step.START, "restart")
        instance = await self.hands.restart(restart.id, restart.replaces.instance)
        self.switched_at = self.tools.now()
        yield
        self.outcome = await self._restarted(restart, standing, instance)

    async def _restarted_before(self, restart: Restart, standing: Standing) -> Outcome:
        """Under this very key: unchanged, unless something is left of an interrupted action."""
        if standing.debris and self._stands_as(restart.placement, standing):
            return await self._label(_in_place(restart, standing), standing)
        return self._outcome(Result.UNCHANGED, "already restarted under this key", standing.workload)

    async def _restarted(self, restart: Restart, standing: Standing, instance: str) -> Outcome:
        found = await self._prove(restart.placement, instance)
        if isinstance(found, Disproven):
            return self._outcome(Result.UNPROVEN, f"restarted; {found.reason}", None)
        if standing.debris:
            await self._settle(_in_place(restart, standing), found.workload.instance)
        evidence = await self._label_proven(restart.placement, found)
        return self._outcome(Result.CHANGED, "restarted and proven", found.workload, evidence)

    async def _remove(self, remove: Remove) -> AsyncGenerator[None, None]:
        standing = await self._look()
        if standing.workload is None and standing.worn is None and not standing.kept and not standing.debris:
            self.outcome = self._outcome(Result.UNCHANGED, "nothing stands there", None)
            return
        if standing.workload is not None:
            self._must_be(remove.replaces, standing)
        yield
        await self._mark(remove.claim)
        yield
        self.say(Step.REMOVE, "take the workload away")
        await self.hands.remove(remove.id)
        await self.hands.bare(remove.id)
        self.outcome = self._outcome(Result.CHANGED, "removed", None)

    # -- the steps --------------------------------------------------------------------------------------------------

    def say(self, step: Step, message: str) -> None:
        self._report(Progress(id=self.change.id, step=step, message=message))

    async def _look(self) -> Standing:
        self.say(Step.LOOK, "look before acting")
        adopts = self.change.adopts if isinstance(self.change, Deploy) else None
        standing = await self.hands.look(self.change.id, adopts)
        if standing.worn is not None and standing.worn.envelope is not None:
            self.worn = self._believed(self.tools.read(Envelope(standing.worn.envelope)))
        seen = max(standing.fence, self.worn.fence if self.worn else 0)
        if seen > self.action.fence:
            raise StaleFence(f"{self.change.id} was changed under fence {seen}, this action holds {self.action.fence}")
        if self.worn is not None:
            self.sequence = max(self.sequence, self.worn.sequence + 1)
        return standing

    def _believed(self, sticker: Sticker | None) -> Sticker | None:
        """None for a sticker of somewhere else, and for one replayed: older than the last one seen here."""
        if sticker is None or sticker.sequence + 1 < self.change.stamp.sequence:
            return None
        claim = sticker.claim
        here = (self.tools.installation, self.action.environment, self.change.id)
        return sticker if (claim.installation, claim.environment_id, claim.placement) == here else None

    @property
    def _in_transit(self) -> bool:
        return self.worn is not None and self.worn.phase is Phase.IN_TRANSIT

    def _stands_as(self, placement: Placement, standing: Standing) -> bool:
        if standing.workload is None or not _is(placement, standing.workload):
            return False
        up = (WorkloadState.RUNNING, WorkloadState.STARTING)
        return standing.workload.state in (up if placement.running else (WorkloadState.STOPPED,))

    def _unwell(self, deploy: Deploy, standing: Standing) -> bool:
        """What stands is to be made anew, and this very action has not done so yet."""
        return deploy.anew and standing.workload is not None and standing.workload.key != self.action.key

    def _wears(self, claim: Claim) -> bool:
        return self.worn is not None and self.worn.claim == claim and not self._in_transit

    def _must_be(self, replaces: Footing | None, standing: Standing) -> None:
        """`Conflict`, unless what stands is what the change replaces, or what an interrupted action left in transit."""
        if self._in_transit:
            return
        workload = standing.workload
        found = _footing(workload)
        if found == replaces or (workload is not None and workload.key == self.action.key):
            return
        raise Conflict(f"{self.change.id}: found {_shown(found)}, the change replaces {_shown(replaces)}")

    def _may_run_hooks(self, placement: Placement) -> None:
        """All of them, before anything is changed."""
        if placement.hooks is None:
            return
        if self.tools.hook is None:
            raise NotAllowed(f"{placement.id} declares hooks, and none are run here: HOLDFAST_HOOKS=on lets them")
        hooks = {"pre_deploy": placement.hooks.pre_deploy, "post_deploy": placement.hooks.post_deploy}
        for name, hook in hooks.items():
            if hook is not None:
                self._may_run(f"{placement.id}: hooks.{name}", hook)

    def _may_run(self, field: str, hook: Hook) -> None:
        if hook.where not in self.tools.hooks_at:
            raise NotAllowed(f"{field} is to run beside the daemon, and HOLDFAST_HOOKS lets hooks run on targets alone")
        if hook.where is Where.DAEMON:
            return
        if not isinstance(self.hands, RunsHooks):
            kind = self.action.target.driver
            raise InvalidAction(f"{field}.where: a target of {kind} has no host to run it on; expected where: daemon")
        if not self.hands.lets_hooks:
            raise NotAllowed(f"{field}.where: its target lets no hooks run there; connection.hooks: true lets them")

    async def _pre_deploy(self, deploy: Deploy) -> None:
        hook = deploy.placement.hooks and deploy.placement.hooks.pre_deploy
        if hook and (failed := await self._hook("pre_deploy", hook, deploy)):
            raise Refused(f"{deploy.id}: nothing was changed, the pre-deploy hook failed: {failed}")

    async def _post_deploy(self, deploy: Deploy) -> Disproven | str | None:
        """What its failing means: no proof, or a warning to be told."""
        hook = deploy.placement.hooks and deploy.placement.hooks.post_deploy
        failed = await self._hook("post_deploy", hook, deploy) if hook else None
        if not hook or failed is None:
            return None
        if hook.on_failure is OnFailure.ROLLBACK:
            return Disproven(reason=f"the post-deploy hook failed: {failed}")
        return f"; the post-deploy hook failed, which is to be told only: {failed}"

    async def _hook(self, name: str, hook: Hook, deploy: Deploy) -> str | None:
        """None, or how it failed. The key is the same whenever this action is carried out again."""
        assert self.tools.hook is not None
        self.say(Step.HOOK, f"run the {name.replace('_', '-')} hook: {hook}")
        placement, before = deploy.placement, deploy.predecessor
        about = {
            "hook": name,
            "key": self.action.key,
            "environment": self.action.environment,
            "target": placement.id.target,
            "component": placement.id.component,
            "release": placement.release,
            "artifact": str(placement.artifact),
            "previous_release": before.release if before else "",
        }
        if hook.where is Where.DAEMON:
            return await self.tools.hook(hook, about)
        hands = self.hands
        assert isinstance(hands, RunsHooks)
        return await self.tools.hook(hook, about, lambda errand: hands.run(placement.id, errand))

    async def _mark(self, claim: Claim) -> None:
        self.say(Step.MARK, f"mark in transit, sequence {self.sequence}")
        await self._wear(claim, Phase.IN_TRANSIT, None)

    async def _prove(self, placement: Placement, instance: str, *, answers: int | None = None) -> Proven | Disproven:
        async def glimpse() -> Workload | None:
            return await self.hands.workload(placement.id, instance, placement.health)

        self.say(
            Step.PROVE, str(placement.health.check) if placement.health else "no health check is declared: running"
        )
        if placement.running:
            found = await proof.healthy(glimpse, placement.health, answers=answers)
        else:
            found = await proof.stopped(glimpse, placement.configuration.stop_grace + timedelta(seconds=10))
        if isinstance(found, Proven) and not _is(placement, found.workload):
            differs = "; ".join(found.workload.differences) or f"runs {_shown(_footing(found.workload))}"
            return Disproven(reason=f"not what was to be started: {differs}")
        return found

    async def _settle(self, deploy: Deploy, instance: str) -> None:
        """What is proven is not failed because something old could not be collected."""
        self.say(Step.SETTLE, "keep the predecessor, collect what is older")
        try:
            await self.hands.settle(deploy, instance)
        except Terminal as error:
            self.say(Step.SETTLE, f"not all that is older could be collected: {error}")

    async def _label_proven(self, placement: Placement, found: Proven) -> HealthEvidence:
        evidence = self._evidence(placement, found)
        self.say(Step.STICKER, f"write the sticker, sequence {self.sequence}")
        await self._wear(claim_of(placement, self.tools.installation), Phase.PROVEN, evidence.id)
        return evidence

    def _evidence(self, placement: Placement, found: Proven) -> HealthEvidence:
        now = self.tools.now()
        started = found.workload.started_at or now
        return HealthEvidence(
            environment=self.action.environment,
            placement=placement.id,
            key=self.action.key,
            instance=found.workload.instance,
            artifact=placement.artifact.digest,
            configuration=placement.configuration_digest,
            started_at=started,
            switched_at=self.switched_at or started,
            proven_at=now,
            checks=(str(placement.health.check),) if placement.health else (found.workload.state.value,),
            answers=found.answers,
        )

    async def _wear(self, claim: Claim, phase: Phase, evidence: EvidenceId | None) -> None:
        sticker = Sticker(
            claim=claim,
            phase=phase,
            job=self.action.job,
            key=self.action.key,
            fence=self.action.fence,
            sequence=self.sequence,
            previous=self.worn.digest if self.worn else None,
            revision=self.action.revision,
            evidence=evidence,
            written_at=self.tools.now(),
        )
        envelope = self.tools.sign(Statement.STICKER, self.action.environment, codec.payload(sticker))
        await self.hands.wear(self.change.id, sticker, envelope)
        self.worn, self.sequence = sticker, self.sequence + 1

    def _outcome(
        self, result: Result, detail: str, workload: Workload | None, evidence: HealthEvidence | None = None
    ) -> Outcome:
        return Outcome(
            id=self.change.id,
            result=result,
            detail=detail,
            instance=workload.instance if workload else None,
            evidence=evidence,
            sequence=self.sequence - 1,
        )


def _in_place(restart: Restart, standing: Standing) -> Deploy:
    """A deploy of what is restarted, by which debris is collected, and no predecessor that is kept."""
    return Deploy(
        placement=restart.placement,
        replaces=restart.replaces,
        stamp=restart.stamp,
        predecessor=restart.placement,
        keep=len(standing.kept),
    )


def _is(placement: Placement, workload: Workload | None) -> bool:
    """Whether the runtime itself says that this is the placement's content."""
    return workload is not None and (workload.artifact, workload.configuration) == placement.content


def _is_first(standing: Standing) -> bool:
    return standing.worn is None and standing.workload is None and not standing.debris and not standing.kept


def _footing(workload: Workload | None) -> Footing | None:
    if workload is None:
        return None
    return Footing(instance=workload.instance, artifact=workload.artifact, configuration=workload.configuration)


def _shown(footing: Footing | None) -> str:
    if footing is None:
        return "nothing"
    artifact = footing.artifact[7:19] if footing.artifact else "an unknown artifact"
    return f"{artifact} as {footing.instance[:24]}"
