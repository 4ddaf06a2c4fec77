"""What one seed draws: the fleet, its policies, which classes of faults are on, and the releases to come."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random
from typing import Final

from desired_state.health import Health, TcpCheck
from desired_state.model import (
    Configuration,
    DesiredState,
    Environment,
    Placement,
    Policy,
    Port,
    Release,
    ReleaseComponent,
    RollbackPolicy,
    Strategy,
    StrategyKind,
    Sync,
    Target,
)
from drivers.memory import scripts
from drivers.memory.scripts import Script
from stickers import digest
from stickers.names import Artifact, ComponentName, EnvironmentId, PlacementId, ReleaseName, TargetId

CHECK: Final = Health(
    check=TcpCheck(port=8080), interval=timedelta(seconds=1), successes=2, deadline=timedelta(seconds=8)
)
INTERVAL: Final = timedelta(seconds=20)

# Each seed draws which classes are on; were they always on together, some would hide what others find.
CLASSES: Final[tuple[tuple[str, float], ...]] = (
    ("crashes", 0.35),
    ("failpoints", 0.4),
    ("answers", 0.35),
    ("slow", 0.3),
    ("hanging", 0.2),
    ("unreachable", 0.35),
    ("busy", 0.15),
    ("hands", 0.45),
    ("stickers", 0.3),
    ("intruders", 0.25),
    ("replicas", 0.3),
    ("stubborn", 0.25),
    ("source", 0.35),
    ("people", 0.4),
    ("bad releases", 0.55),
    ("store", 0.3),
    ("clock", 0.15),
    ("events lost", 0.2),
    ("drains", 0.15),
)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One seed's world."""

    seed: int
    on: frozenset[str]
    environment: EnvironmentId
    targets: int
    components: tuple[str, ...]
    fixed_ports: bool
    settings: Environment
    chaos: float  # seconds of it
    releases: int

    @property
    def words(self) -> str:
        strategy = self.settings.strategy
        wave = "all" if strategy.kind is StrategyKind.ALL_AT_ONCE else f"{strategy.wave}{'%' * strategy.percent}"
        return (
            f"seed {self.seed}: {self.targets} targets x {'+'.join(self.components)}, wave {wave}, failures "
            f"{strategy.max_failures}, rollback {self.settings.rollback}, prune {self.settings.sync.prune}, "
            f"{'fixed' if self.fixed_ports else 'free'} ports; {', '.join(sorted(self.on))}"
        )


def drawn(seed: int) -> Scenario:
    dice = Random(f"scenario {seed}")
    on = frozenset(name for name, share in CLASSES if dice.random() < share)
    if "stubborn" in on:
        on |= {"replicas"}  # a stale holder harms nobody where nobody follows it
    environment = EnvironmentId("default/prod")
    components = ("api",) if dice.random() < 0.7 else ("api", "db")
    settings = Environment(
        id=environment,
        release=ReleaseName("shop@1"),
        sync=Sync(
            interval=INTERVAL, prune=dice.random() < 0.4, removal_limit=dice.choice((30, 100)), ahead=Policy.AUTOMATIC
        ),
        strategy=_strategy(dice),
        rollback=RollbackPolicy.AUTOMATIC if dice.random() < 0.85 else RollbackPolicy.MANUAL,
        after={ComponentName("api"): (ComponentName("db"),)} if len(components) > 1 else {},
        keep=dice.choice((0, 2)),
    )
    return Scenario(
        seed=seed,
        on=on,
        environment=environment,
        targets=dice.choice((2, 2, 3)) if len(components) > 1 else dice.choice((2, 3, 3, 4)),
        components=components,
        fixed_ports=dice.random() < 0.3,
        settings=settings,
        chaos=dice.uniform(50, 130),
        releases=dice.choice((1, 2, 2, 3)),
    )


def _strategy(dice: Random) -> Strategy:
    failures = dice.choice((0, 0, 0, 1))
    match dice.randrange(4):
        case 0:
            return Strategy(kind=StrategyKind.ALL_AT_ONCE, max_failures=failures)
        case 1:
            return Strategy(wave=50, percent=True, max_failures=failures)
        case 2:
            return Strategy(wave=2, percent=False, max_failures=failures)
    return Strategy(wave=1, percent=False, max_failures=failures)


@dataclass(frozen=True, kw_only=True)
class Version:
    """One release to come: how each component's artifact behaves, and with what configuration it is declared."""

    number: int
    level: str
    parts: dict[str, str]  # component -> the version of its artifact
    targets: int

    @property
    def name(self) -> ReleaseName:
        return ReleaseName(f"shop@{self.number}")


class Author:
    """Who writes the documents: releases good and bad, changes of configuration, renamed releases, targets that come
    and go."""

    def __init__(self, scenario: Scenario, dice: Random) -> None:
        self.scenario, self.dice = scenario, dice
        self.scripts: dict[str, Script] = {}  # artifact -> how it behaves
        self.version = Version(
            number=1, level="info", parts=dict.fromkeys(scenario.components, "1"), targets=scenario.targets
        )

    def next(self, *, good: bool = False) -> Version:
        """The next version of the documents."""
        was, number = self.version, self.version.number + 1
        throw = self.dice.random()
        parts, level, targets = dict(was.parts), was.level, was.targets
        if throw < 0.12:
            pass  # another name for the same content
        elif throw < 0.3:
            level = f"level-{number}"
        else:
            for name in self.scenario.components:
                if len(parts) == 1 or self.dice.random() < 0.6:
                    parts[name] = str(number)
                    self._behave(name, str(number), good)
        if self.dice.random() < 0.15:
            targets = max(1, self.scenario.targets - 1) if targets == self.scenario.targets else self.scenario.targets
        self.version = Version(number=number, level=level, parts=parts, targets=targets)
        return self.version

    def _behave(self, component: str, version: str, good: bool) -> None:
        throw = self.dice.random()
        if good or "bad releases" not in self.scenario.on or throw < 0.4:
            script = scripts.HEALTHY if throw < 0.3 else scripts.Warming(3)
        elif throw < 0.8:
            script = scripts.NEVER
        elif throw < 0.9:
            script = scripts.CrashLoop(1, 2)
        else:
            script = scripts.Dying(4)
        self.scripts[artifact(component, version).digest] = script

    def state(self, version: Version | None = None) -> DesiredState:
        return declared(self.scenario, version or self.version)


def artifact(component: str, version: str) -> Artifact:
    return Artifact(f"registry.example.com/shop/{component}", digest.of(f"{component}-{version}"))


def place(number: int, component: str) -> PlacementId:
    return PlacementId(TargetId(f"default/t{number}"), ComponentName(component))


def declared(scenario: Scenario, version: Version) -> DesiredState:
    parts = {
        ComponentName(name): ReleaseComponent(artifact=artifact(name, version.parts[name]))
        for name in scenario.components
    }
    environment = scenario.environment
    placements = tuple(
        Placement(
            id=place(number, name),
            environment=environment,
            release=version.name,
            artifact=parts[ComponentName(name)].artifact,
            configuration=_configuration(scenario, name, version.level),
            health=CHECK,
        )
        for number in range(version.targets)
        for name in scenario.components
    )
    return DesiredState(
        environment=replace(scenario.settings, release=version.name),
        release=Release(project="default", name=version.name, components=parts),
        targets=tuple(
            Target(id=TargetId(f"default/t{number}"), environment=environment, driver="memory")
            for number in range(version.targets)
        ),
        placements=placements,
        revision=f"r{version.number}",
    )


def _configuration(scenario: Scenario, component: str, level: str) -> Configuration:
    ports = (Port(container=8080, host=8000 + len(component)),) if scenario.fixed_ports else ()
    return Configuration(environment=(("LOG_LEVEL", level),), ports=ports, stop_grace=timedelta(seconds=2))
