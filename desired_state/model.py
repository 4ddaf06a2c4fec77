"""The desired state as frozen records: what the documents mean once they are read, checked and resolved.

No async, clock, randomness, logging, database, filesystem or SDK may come in here, not even indirectly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any

from desired_state.health import Health
from desired_state.hooks import Hooks
from desired_state.secrets import SecretFile, SecretRef
from stickers import digest
from stickers.names import (
    Artifact,
    ComponentName,
    Digest,
    EnvironmentId,
    PlacementId,
    ReleaseName,
    TargetId,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A port of the workload, published at `address:host` of the target. `host` None: any free port of the target."""

    container: int
    host: int | None = None
    address: str = "127.0.0.1"
    protocol: str = "tcp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A named volume of the target, or a directory of it when `source` is absolute, seen at `destination`."""

    source: str
    destination: str
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeHealthcheck:
    """The runtime's own health check of a container, by argv inside it."""

    argv: tuple[str, ...]
    interval: timedelta = timedelta(seconds=30)
    timeout: timedelta = timedelta(seconds=30)
    retries: int = 3
    start_period: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A proxy before the component: which name it answers to, where it listens, and which port of the workload it asks.
    That port is published at a fixed port of the target."""

    server_name: str
    port: int
    listen: int = 80


class RestartPolicy(StrEnum):
    NEVER = "never"
    ON_FAILURE = "on-failure"
    UNLESS_STOPPED = "unless-stopped"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Everything beside the artifact that decides how a workload behaves. Its digest, not any rendered output, is what
    is compared; secrets enter as reference and version. Sequences whose order means nothing are sorted."""

    command: tuple[str, ...] | None = None
    environment: tuple[tuple[str, str | SecretRef], ...] = ()  # sorted by name
    ports: tuple[Port, ...] = ()
    volumes: tuple[Volume, ...] = ()
    networks: tuple[str, ...] = ()
    user: str | None = None
    restart: RestartPolicy = RestartPolicy.UNLESS_STOPPED
    memory: int | None = None  # bytes
    cpus: int | None = None  # thousandths of a core
    stop_grace: timedelta = timedelta(seconds=10)
    healthcheck: RuntimeHealthcheck | None = None
    registry_credentials: SecretRef | None = None
    secrets: tuple[SecretFile, ...] = ()  # sorted by name
    template: str | None = None  # what the target's own template says of the component, as canonical JSON

    @property
    def digest(self) -> Digest:
        """Of everything but the registry credentials: how the bytes were fetched is not how they behave."""
        content = digest.plain(self)
        assert isinstance(content, dict)
        del content["registry_credentials"]
        return digest.of({name: value for name, value in content.items() if value not in (None, [])})


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One component on one target in one slot, with everything that is declared for it.

    `running` False: declared stopped. Health check, hooks and proxy are not part of the configuration: to ask
    differently, or to run another program beside a deployment, is no reason to redeploy.
    """

    id: PlacementId
    environment: EnvironmentId
    release: ReleaseName
    artifact: Artifact
    configuration: Configuration
    health: Health | None = None
    running: bool = True
    hooks: Hooks | None = None
    proxy: Proxy | None = None

    @cached_property
    def configuration_digest(self) -> Digest:
        return self.configuration.digest

    @property
    def content(self) -> tuple[Digest, Digest]:
        """What a sticker's claim is compared with: artifact and configuration digest."""
        return self.artifact.digest, self.configuration_digest

    @cached_property
    def trial(self) -> Digest:
        """What is remembered as refused when it failed: component, artifact, configuration, how it was asked, and what
        ran beside it."""
        hooks = {"hooks": digest.plain(self.hooks)} if self.hooks else {}
        return digest.of(
            {
                "component": self.id.component,
                "artifact": self.artifact.digest,
                "configuration": self.configuration_digest,
                "health": digest.plain(self.health),
            }
            | hooks
        )


@dataclass(frozen=True, kw_only=True)
class Target:
    """One place that wears stickers. `driver` names the runtime; `connection` is how it is reached, in the terms of
    that driver, already validated by its connection model."""

    id: TargetId
    environment: EnvironmentId
    driver: str
    labels: Mapping[str, str] = field(default_factory=dict)
    connection: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hands(self) -> str:
        """Whose hands and eyes it needs: those of its runtime, here or of an agent."""
        return f"{self.driver}@agent" if self.connection.get("via") == "agent" else self.driver


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseComponent:
    artifact: Artifact
    resolved_from: str | None = None  # the tag it was resolved from, for people


@dataclass(frozen=True, kw_only=True)
class Release:
    """An immutable set of component -> artifact. Its identity is `digest`; two contents under one name are an error."""

    project: str
    name: ReleaseName
    components: Mapping[ComponentName, ReleaseComponent]
    repository: str | None = None
    commit: str | None = None

    @cached_property
    def digest(self) -> Digest:
        return digest.of(
            {
                "project": self.project,
                "name": self.name,
                "components": {name: str(part.artifact) for name, part in sorted(self.components.items())},
                "repository": self.repository,
                "commit": self.commit,
            }
        )


class Policy(StrEnum):
    """What may happen without a person: `automatic`; `ask`: planned, waits for `sync --plan-hash`; `report`: shown."""

    AUTOMATIC = "automatic"
    ASK = "ask"
    REPORT = "report"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """`mode` is for adopting another release or configuration, `heal` for restoring the pinned one, `ahead` for a
    target that runs a later release of the same line than declared. `prune` removes what nobody declares any more;
    above `removal_limit` percent of the environment's placements it waits for `sync --confirm-removal`."""

    mode: Policy = Policy.AUTOMATIC
    heal: Policy = Policy.AUTOMATIC
    ahead: Policy = Policy.AUTOMATIC
    prune: bool = False
    removal_limit: int = 30
    interval: timedelta = timedelta(seconds=30)


class StrategyKind(StrEnum):
    ALL_AT_ONCE = "all-at-once"
    ROLLING = "rolling"


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """How many targets may change together. `wave` is a number of targets, or a percent of the environment's targets
    when `percent`; more than `max_failures` failed targets end the job."""

    kind: StrategyKind = StrategyKind.ROLLING
    wave: int = 25
    percent: bool = True
    max_failures: int = 0

    def size(self, targets: int) -> int:
        """Targets in one wave, at least one; a percent is rounded down so that no wave exceeds it."""
        if self.kind is StrategyKind.ALL_AT_ONCE:
            return max(1, targets)
        return max(1, targets * self.wave // 100 if self.percent else self.wave)


class RollbackPolicy(StrEnum):
    AUTOMATIC = "automatic"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspension:
    reason: str
    until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Environment:
    """`after` orders components: a component changes only when those it names are done on every target of the
    environment. `keep` is how many predecessors stay on a target beside last good."""

    id: EnvironmentId
    release: ReleaseName
    suspend: Suspension | None = None
    sync: Sync = field(default_factory=Sync)
    strategy: Strategy = field(default_factory=Strategy)
    rollback: RollbackPolicy = RollbackPolicy.AUTOMATIC
    after: Mapping[ComponentName, tuple[ComponentName, ...]] = field(default_factory=dict)
    keep: int = 2


@dataclass(frozen=True, kw_only=True)
class DesiredState:
    """Everything that is declared for one environment, resolved. `revision` is the source's own identity of what was
    read; `digest` is its meaning, without the revision: equal digests mean the same desire."""

    environment: Environment
    release: Release
    targets: tuple[Target, ...]
    placements: tuple[Placement, ...]
    revision: str

    @cached_property
    def digest(self) -> Digest:
        return digest.of([digest.plain(self.environment), self.release.digest, self.targets, self.placements])

    @cached_property
    def by_target(self) -> Mapping[TargetId, tuple[Placement, ...]]:
        found: dict[TargetId, list[Placement]] = {target.id: [] for target in self.targets}
        for placement in self.placements:
            found[placement.id.target].append(placement)
        return {target: tuple(placements) for target, placements in found.items()}

    @cached_property
    def target_of(self) -> Mapping[TargetId, Target]:
        return {target.id: target for target in self.targets}
