"""The language of action: what a driver is asked, and how it answers.

Plain data throughout, so that an action can be carried out elsewhere. No async runtime, clock, randomness, logging,
database, filesystem or SDK may come in here.

`apply` keeps six clauses, each a check in `drivers.conformance`:

1. Twice is once: already as wanted, in sticker and runtime: `changed` is False and nothing is touched.
2. No surprise overwritten: neither as wanted nor what the change replaces: `Conflict`, nothing touched.
3. A sticker never lies: in transit before the first change that could make it untrue, proven only after proof.
4. Resumable: the same key, or a newer action, may finish what an interrupted one began.
5. Cancellation-safe: out of time, the driver raises `OutcomeUnknown`; cancelled, it lets the cancellation through.
6. Only our errors: those of `drivers.errors`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import ClassVar, Literal, Protocol, runtime_checkable

from desired_state.hooks import Hook, Where
from desired_state.model import Placement, Target
from desired_state.secrets import SecretRef
from stickers import digest
from stickers.evidence import HealthEvidence
from stickers.names import (
    ActionKey,
    Digest,
    EnvironmentId,
    EnvironmentName,
    InstallationId,
    JobId,
    PlacementId,
    TargetId,
    TargetName,
    split_id,
)
from stickers.observation import Observation
from stickers.signature import Envelope, Sign
from stickers.sticker import Claim, Sticker


class RenderedKind(StrEnum):
    """What a rendered file is for."""

    COMPOSE_FILE = "compose-file"  # the template as it was understood
    COMPOSE_LOCK = "compose-lock"  # what compose is told, every image by digest
    ENV_FILE = "env-file"
    SYSTEMD_UNIT = "systemd-unit"
    NGINX_CONFIG = "nginx-config"
    MANIFEST = "manifest"  # what a job deploys where


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A file that a deployment amounts to. A secret is in it as its reference, never as its value. `name` is unique on
    the target; `of` are the placements it was rendered from."""

    kind: RenderedKind
    name: str
    media_type: str
    text: str
    of: tuple[PlacementId, ...] = ()

    @property
    def digest(self) -> Digest:
        return digest.of_bytes(self.text.encode())


class Unit(StrEnum):
    """What a runtime changes at once."""

    COMPONENT = "component"
    TARGET = "target"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Powers as data: whoever plans reads them, and no driver has a method that only says "not supported"."""

    unit: Unit
    events: bool = False  # is a Watcher
    logs: bool = False  # is a Narrator
    adopts: bool = False  # can take over a workload it did not start


class Against(StrEnum):
    """What a driver's tests ran against: the real thing, or a server written from its published API."""

    REAL = "real"
    CONTRACT = "contract"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """How far a driver's word can be taken. A driver class says it as its attribute `verified`; `by` names what was
    there, for people."""

    against: Against
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Footing:
    """The workload that a change was planned against; anything else found there is a `Conflict`."""

    instance: str
    artifact: Digest | None
    configuration: Digest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """Where the next sticker stands in its line: the first free sequence number, and the verified sticker it follows
    (None when none is worn, or the one worn is not trusted)."""

    sequence: int
    previous: Digest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deploy:
    """Make the placement so, and prove it. Also writes the sticker alone where the workload already is as wanted.

    `replaces` None: nothing may stand there. `predecessor` is last good: what is put back, and labelled again, when
    proof fails. `keep` predecessors stay on the target beside it. `adopts` names a workload that the driver did not
    start and that is to be taken over as it is. `anew`: what stands is as wanted and unwell, and a restart did not
    help, so it is made again.
    """

    placement: Placement
    replaces: Footing | None
    stamp: Stamp
    predecessor: Placement | None = None
    keep: int = 2
    adopts: str | None = None
    anew: bool = False
    verb: Literal["deploy"] = "deploy"  # told apart by it when kept or sent as plain data

    @property
    def id(self) -> PlacementId:
        return self.placement.id

    @property
    def only_labels(self) -> bool:
        """Whether it replaces what is there by the same, which leaves it as it is."""
        if self.anew or self.replaces is None:
            return False
        return (self.replaces.artifact, self.replaces.configuration) == self.placement.content


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Stop and start what stands there, content unchanged, and prove it again."""

    placement: Placement
    replaces: Footing
    stamp: Stamp
    verb: Literal["restart"] = "restart"

    @property
    def id(self) -> PlacementId:
        return self.placement.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """Take the workload and its sticker away, predecessors included. `claim` is what it wears until then."""

    id: PlacementId
    claim: Claim
    replaces: Footing | None
    stamp: Stamp
    verb: Literal["remove"] = "remove"


Change = Deploy | Restart | Remove


@dataclass(frozen=True, kw_only=True)
class Action:
    """One idempotent request to one target. `deadline` is the longest it may take. `rendered` are the files that were
    kept for these changes, where the runtime deploys files that are kept (`Rendering.deploys`). `back`: it returns to
    what was proven before."""

    key: ActionKey
    fence: int
    environment: EnvironmentId
    job: JobId
    revision: str
    target: Target
    changes: tuple[Change, ...]
    deadline: timedelta
    rendered: tuple[Rendered, ...] = ()
    back: bool = False

    @property
    def only_labels(self) -> bool:
        """Whether all of it leaves workloads as they are."""
        return all(isinstance(change, Deploy) and change.only_labels for change in self.changes)


class Result(StrEnum):
    UNCHANGED = "unchanged"  # already as wanted; nothing was touched
    LABELLED = "labelled"  # the workload was as wanted; proven, and its sticker written
    CHANGED = "changed"
    REVERTED = "reverted"  # proof failed; what stood before stands again, proven (or nothing, if nothing stood)
    UNPROVEN = "unproven"  # proof failed, and so did the proof of what was put back


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The answer for one change. `evidence` proves what stands now, None where nothing does; `detail` is a sentence."""

    id: PlacementId
    result: Result
    detail: str
    instance: str | None = None
    evidence: HealthEvidence | None = None
    sequence: int = 0  # the highest of this placement that was ever seen or written

    @property
    def as_wanted(self) -> bool:
        return self.result in (Result.UNCHANGED, Result.LABELLED, Result.CHANGED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The answer to an action, per change."""

    key: ActionKey
    target: TargetId
    outcomes: tuple[Outcome, ...]

    @property
    def changed(self) -> bool:
        return any(outcome.result is not Result.UNCHANGED for outcome in self.outcomes)

    @property
    def as_wanted(self) -> bool:
        return all(outcome.as_wanted for outcome in self.outcomes)


class Step(StrEnum):
    """The one order of steps; see `drivers.sequence`."""

    LOOK = "look"
    PREPARE = "prepare"
    HOOK = "hook"
    MARK = "mark"
    START = "start"
    PROVE = "prove"
    SWITCH = "switch"
    SETTLE = "settle"
    STICKER = "sticker"
    PUT_BACK = "put back"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One line about an action on its way."""

    id: PlacementId
    step: Step
    message: str


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """A hook as a host is told of it: secrets resolved, and what it is about among its environment."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    within: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a program has ended: `exit_code` None at its deadline, `why` in words, and the end of what it printed."""

    exit_code: int | None
    why: str
    said: str


Run = Callable[[Errand], Awaitable[Ended]]


class RunHook(Protocol):
    async def __call__(self, hook: Hook, about: Mapping[str, str], there: Run | None = None, /) -> str | None:
        """How it failed, None when it did not; `there` runs it elsewhere than beside the daemon."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every driver is handed: who we are, how to sign and to read a sticker, the wall clock, and secrets.

    `read` answers the sticker only when its signature is valid for its subject. `secret` resolves a reference at the
    moment of use and raises `Refused` when it cannot. `hook` runs one with what it is about; without it, hooks are not
    allowed, and with it, they are at the places of `hooks_at`.
    """

    installation: InstallationId
    sign: Sign
    read: Callable[[Envelope], Sticker | None]
    now: Callable[[], datetime]
    secret: Callable[[SecretRef], Awaitable[str]]
    hook: RunHook | None = None
    hooks_at: frozenset[Where] = frozenset(Where)


@dataclass(frozen=True, kw_only=True)
class Look:
    """A target to look at, and what is effective there, so that health is asked as it is declared today."""

    target: Target
    placements: tuple[Placement, ...] = ()


class Driver(Protocol):
    """Hands and eyes of one runtime."""

    kind: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        """One observation for every look, batched by connection. What cannot be seen is `unseen`, never an error."""
        ...

    async def apply(self, action: Action, *, report: Report) -> Receipt: ...

    async def aclose(self) -> None: ...


@runtime_checkable
class Watcher(Protocol):
    """A runtime that tells when something happened: targets to look at again, nothing more."""

    def watch(self, targets: Sequence[Target]) -> AsyncIterator[TargetId]:
        """Ends by raising `Unreachable` when the events are lost; the caller looks again and resumes."""
        ...


@runtime_checkable
class Narrator(Protocol):
    """A runtime that can show what a workload printed."""

    def logs(self, target: Target, id: PlacementId, *, tail: int, follow: bool) -> AsyncIterator[str]: ...


@runtime_checkable
class Rendering(Protocol):
    """A runtime that says beforehand which files a deployment amounts to. `deploys` are the kinds it deploys exactly as
    they were kept, so that a rollback says what was proven in the very words that were."""

    deploys: ClassVar[frozenset[RenderedKind]]

    def rendered(
        self, target: Target, placements: Sequence[Placement], kept: Sequence[Rendered]
    ) -> tuple[Rendered, ...]:
        """The files of everything that is to stand on the target: a function of what is given and of nothing else.
        `kept` are files of former days, of placements with the same content: what they say of these is said again.
        Raises `drivers.errors` where a deployment would be refused."""
        ...


class Grade(StrEnum):
    OK = "ok"
    WARNING = "warning"  # it works, and somebody should know
    MISSING = "missing"  # changes will fail for want of it
    UNKNOWN = "unknown"  # could not be seen from here


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """One thing a target needs, and how it stands there: a sentence, and where it is not ok, what helps."""

    about: str
    grade: Grade
    sentence: str
    remedy: str | None = None


@runtime_checkable
class Examiner(Protocol):
    """A runtime that can say what a target lacks before anything is changed there."""

    async def examine(self, look: Look) -> tuple[Diagnosis, ...]:
        """Changes nothing at the target. What cannot be seen is `unknown`, never an error."""
        ...


def claim_of(placement: Placement, installation: InstallationId) -> Claim:
    """What a sticker says of this placement."""
    project, environment = split_id(placement.environment)
    _, target = split_id(placement.id.target)
    return Claim(
        installation=installation,
        project=project,
        environment=EnvironmentName(environment),
        target=TargetName(target),
        component=placement.id.component,
        slot=placement.id.slot,
        release=placement.release,
        artifact=placement.artifact.digest,
        configuration=placement.configuration_digest,
    )
