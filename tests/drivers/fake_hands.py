"""Hands that do nothing but remember what they were asked, on a target that is what a test says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

import anyio

from desired_state.health import Health, TcpCheck
from desired_state.hooks import Hook
from desired_state.model import Configuration, Placement, Target
from desired_state.secrets import SecretRef
from drivers.contract import (
    Action,
    Change,
    Deploy,
    Footing,
    Outcome,
    Progress,
    Receipt,
    Run,
    Stamp,
    Step,
    Tools,
    Unit,
    claim_of,
)
from drivers.errors import Refused
from drivers.sequence import Started, carry_out
from stickers import digest, names
from stickers.names import (
    ActionKey,
    Artifact,
    EnvironmentId,
    InstallationId,
    JobId,
    PlacementId,
    ReleaseName,
)
from stickers.observation import Health as Answer
from stickers.observation import HealthState, Standing, Workload, WorkloadState, Worn
from stickers.signature import Envelope, Statement
from stickers.sticker import Phase, Sticker
from tests.harness import virtual_time

TARGET = names.target_id("default", "t1")
ID = PlacementId(TARGET, names.ComponentName("api"))
ENVIRONMENT = EnvironmentId("default/prod")
KEY, OTHER_KEY = ActionKey("a" * 64), ActionKey("b" * 64)
HEALTH = Health(check=TcpCheck(port=80), interval=timedelta(seconds=1), successes=2, deadline=timedelta(seconds=10))


def placement(version: str = "one", *, running: bool = True, health: Health | None = HEALTH) -> Placement:
    return Placement(
        id=ID,
        environment=ENVIRONMENT,
        release=ReleaseName(f"shop@{version}"),
        artifact=Artifact("shop/api", digest.of_bytes(version.encode())),
        configuration=Configuration(command=(version,)),
        health=health,
        running=running,
    )


def workload(
    of: Placement,
    instance: str = "old",
    *,
    state: WorkloadState = WorkloadState.RUNNING,
    health: HealthState = HealthState.HEALTHY,
    key: ActionKey = OTHER_KEY,
) -> Workload:
    artifact, configuration = of.content
    return Workload(
        instance=instance,
        artifact=artifact,
        configuration=configuration,
        state=state,
        health=Answer(state=health),
        key=key,
        started_at=virtual_time.EPOCH,
    )


def footing(of: Workload) -> Footing:
    return Footing(instance=of.instance, artifact=of.artifact, configuration=of.configuration)


def sticker(of: Placement, *, phase: Phase = Phase.PROVEN, sequence: int = 4, fence: int = 1) -> Sticker:
    return Sticker(
        claim=claim_of(of, InstallationId("home")),
        phase=phase,
        job=JobId(f"{ENVIRONMENT}:1"),
        key=OTHER_KEY,
        fence=fence,
        sequence=sequence,
        previous=None,
        revision="r1",
        evidence=None,
        written_at=virtual_time.EPOCH,
    )


def deploy(of: Placement, *, replaces: Workload | None = None, predecessor: Placement | None = None) -> Deploy:
    return Deploy(
        placement=of,
        replaces=footing(replaces) if replaces else None,
        stamp=Stamp(sequence=5, previous=None),
        predecessor=predecessor,
    )


def action(*changes: Change, fence: int = 1, deadline: timedelta = timedelta(minutes=5)) -> Action:
    target = Target(id=TARGET, environment=ENVIRONMENT, driver="fake")
    return Action(
        key=KEY,
        fence=fence,
        environment=ENVIRONMENT,
        job=JobId(f"{ENVIRONMENT}:2"),
        revision="r2",
        target=target,
        changes=changes,
        deadline=deadline,
    )


@dataclass
class FakeHands:
    """`answers` is what each instance says when it is asked, one after the other, the last one for ever. `errors` maps
    a step to what it raises. `beside`: what `start` says; `back`: the instance that `put_back` says serves again."""

    unit: Unit = Unit.COMPONENT
    stands: Workload | None = None
    worn: Sticker | None = None
    unreadable: bool = False
    fence: int = 0
    debris: tuple[str, ...] = ()
    answers: dict[str, list[Workload | None]] = field(default_factory=dict)
    beside: bool = False
    back: str | None = None
    errors: dict[str, Exception] = field(default_factory=dict)
    slow: dict[str, float] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    wrote: list[Sticker] = field(default_factory=list)
    adopted: str | None = None
    hooks: dict[str, str | None] | None = None  # hook -> how it fails; None: hooks are not allowed
    _envelopes: dict[Envelope, Sticker] = field(default_factory=dict)

    # -- what a test asks -------------------------------------------------------------------------------------------

    async def carry(self, given: Action | Change) -> Receipt:
        whole = given if isinstance(given, Action) else action(given)
        self.said: list[Progress] = []
        return await carry_out(whole, self, self.tools, report=self.said.append, unit=self.unit)

    async def one(self, given: Action | Change) -> Outcome:
        return (await self.carry(given)).outcomes[0]

    @property
    def steps(self) -> list[Step]:
        return [progress.step for progress in self.said]

    @property
    def tools(self) -> Tools:
        return Tools(
            installation=InstallationId("home"),
            sign=self._sign,
            read=self._envelopes.get,
            now=virtual_time.now,
            secret=_no_secret,
            hook=None if self.hooks is None else self._hook,
        )

    async def _hook(self, hook: Hook, about: Mapping[str, str], there: Run | None = None, /) -> str | None:
        assert self.hooks is not None
        assert about["key"] == KEY
        self.calls.append(f"{about['hook']} {about['release']} after {about['previous_release'] or 'nothing'}")
        return self.hooks.get(about["hook"])

    def _sign(self, statement: Statement, environment: EnvironmentId, record: object) -> Envelope:
        assert (statement, environment) == (Statement.STICKER, ENVIRONMENT)
        return Envelope(f"envelope {len(self._envelopes)} of {digest.of(record)}")

    # -- hands ------------------------------------------------------------------------------------------------------

    async def look(self, id: PlacementId, adopts: str | None) -> Standing:
        await self._called("look")
        self.adopted = adopts
        worn = Worn(envelope=None, problem="spoilt") if self.unreadable else None
        if self.worn is not None:
            self._envelopes[Envelope("worn")] = self.worn
            worn = Worn(envelope="worn")
        return Standing(
            component=id.component, slot=id.slot, worn=worn, workload=self.stands, fence=self.fence, debris=self.debris
        )

    async def prepare(self, deploy: Deploy) -> None:
        await self._called("prepare")

    async def start(self, deploy: Deploy) -> Started:
        await self._called("start")
        self.answers.setdefault("new", [workload(deploy.placement, "new")])
        return Started(instance="new", beside=self.beside)

    async def switch(self, deploy: Deploy, instance: str) -> None:
        await self._called(f"switch {instance}", "switch")

    async def workload(self, id: PlacementId, instance: str, health: Health | None) -> Workload | None:
        await self._called(f"ask {instance}", "ask")
        told = self.answers.get(instance, [self.stands])
        return told.pop(0) if len(told) > 1 else told[0]

    async def put_back(self, deploy: Deploy, standing: Standing) -> str | None:
        await self._called("put back", "put back")
        return self.back

    async def settle(self, deploy: Deploy, instance: str) -> None:
        await self._called(f"settle {instance}", "settle")

    async def restart(self, id: PlacementId, instance: str) -> str:
        await self._called(f"restart {instance}", "restart")
        return instance

    async def remove(self, id: PlacementId) -> None:
        await self._called("remove")

    async def wear(self, id: PlacementId, sticker: Sticker, envelope: Envelope) -> None:
        await self._called(f"wear {sticker.phase} {sticker.claim.release}", "wear")
        self._envelopes[envelope] = sticker
        self.wrote.append(sticker)

    async def bare(self, id: PlacementId) -> None:
        await self._called("bare")

    async def _called(self, what: str, step: str | None = None) -> None:
        await anyio.lowlevel.checkpoint()
        self.calls.append(what)
        if (step or what) in self.slow:
            await anyio.sleep(self.slow[step or what])
        if (step or what) in self.errors:
            raise self.errors[step or what]


def unwell(of: Workload) -> Workload:
    return replace(of, health=Answer(state=HealthState.UNHEALTHY, detail="answers 503"))


async def _no_secret(reference: SecretRef) -> str:
    raise Refused("no secrets here")
