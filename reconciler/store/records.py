"""What the store hands out and takes in: frozen records, one per kind of row.

Times are aware and in UTC. A record is what a row was when it was read; a write compares its `version`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, Generic, TypeVar

from desired_state.model import Placement, Target
from drivers.contract import Receipt, RenderedKind, Step
from reconciler.core.conditions import Condition
from reconciler.core.drift import Trust, Verdict
from reconciler.core.machine import JobState, TaskState
from reconciler.core.plan import Intent, JobKind, Plan
from stickers import digest
from stickers.names import (
    ActionKey,
    ComponentName,
    Digest,
    EnvironmentId,
    EvidenceId,
    JobId,
    PlacementId,
    ReleaseName,
    TargetId,
    TaskId,
)
from stickers.signature import Envelope, Statement

T = TypeVar("T")


class Direction(StrEnum):
    """Whether a task brings what is wanted, or puts back what was last good."""

    FORWARD = "forward"
    BACK = "back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to write for one environment. `token` rises with every change of holder and fences the former."""

    environment: EnvironmentId
    holder: str
    token: int
    until: datetime


class Role(StrEnum):
    """What a replica does: answers people and programs, holds environments, or both."""

    API = "api"
    LOOP = "loop"
    BOTH = "both"


class AgentState(StrEnum):
    """Where an agent stands in its life, as operators have it."""

    INVITED = "invited"  # it has no identity, or none that counts any more
    ACTIVE = "active"
    LOCKED = "locked"  # nothing it says counts, and nobody speaks with it
    DRAINING = "draining"  # it ends what it does and is given nothing new
    REMOVED = "removed"  # the name is kept, so that its generations go on counting; nothing else is


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A process on the database, believed alive `until`. `id` is new with every start, `place` is where it lives,
    `key` the id of the key it signs with, `agents` the address at which agents reach it, if they do."""

    id: str
    place: str
    role: Role
    version: str
    key: str
    until: datetime
    environments: int = 0
    agents: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a person asks of an environment, on its way to whoever holds it."""

    id: str
    environment: EnvironmentId
    kind: str
    arguments: Mapping[str, Any]
    actor: str
    answer: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The answer to a desired state: its generation, and whether its meaning is new."""

    generation: int
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HandSuspension:
    """A suspension by a person, beside the one that the documents may declare."""

    reason: str
    actor: str
    since: datetime
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentRow:
    """One environment. `desired` is the digest of the accepted meaning; `revision` the one that brought it.
    `undeclared_at`: the documents name it no more, the last accepted desire stays in force. `memories` is another text
    whenever something was written to what is remembered of it; `source` is the name of the source that owns it."""

    id: EnvironmentId
    generation: int
    desired: Digest
    release: ReleaseName
    revision: str
    accepted_at: datetime
    undeclared_at: datetime | None = None
    suspended: HandSuspension | None = None
    conditions: tuple[Condition, ...] = ()
    last_attempted: ReleaseName | None = None
    last_applied: ReleaseName | None = None
    memories: str = ""
    source: str = ""


class Wish(StrEnum):
    """What a person wants of a job; the last one counts, and a cancellation is final."""

    PAUSE = "pause"
    CONTINUE = "continue"
    CANCEL = "cancel"


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A plan that is to become a job. `requested_by` is a person or `holdfast`; `reason` a sentence."""

    environment: EnvironmentId
    kind: JobKind
    generation: int
    plan: Plan
    requested_by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One plan on its way. `plan` names its kept content (`contents.plan`), `wave` counts the waves begun."""

    id: JobId
    environment: EnvironmentId
    number: int
    kind: JobKind
    state: JobState
    generation: int
    desired: Digest
    plan: Digest
    plan_hash: str
    requested_by: str
    reason: str
    wave: int
    message: str
    wish: Wish | None
    wished_by: str | None
    wished_at: datetime | None
    created_at: datetime
    changed_at: datetime
    ended_at: datetime | None
    fence: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One action on its way. `attempt` counts the times it was dispatched; `not_before` is when a retry may begin;
    `code` and `detail` say what went wrong last; `evidence` is the signed record of its last action."""

    id: TaskId
    job: JobId
    number: int
    wave: int
    direction: Direction
    target: TargetId
    key: ActionKey
    intent: Intent
    state: TaskState
    attempt: int
    not_before: datetime | None
    code: str | None
    detail: str
    receipt: Receipt | None
    evidence: EvidenceId | None
    began_at: datetime | None
    changed_at: datetime
    ended_at: datetime | None
    fence: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressLine:
    """One line that a driver reported about a task; `number` rises within the task and is 0 until it is kept."""

    at: datetime
    id: PlacementId
    step: Step
    message: str
    number: int = 0


@dataclass(frozen=True, kw_only=True)
class Good:
    """A placement that was seen in health: what stands, the proof of it, and the target as it was reached."""

    placement: Placement
    target: Target
    evidence: EvidenceId
    sequence: int


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A placement that failed its proof, and in which job."""

    placement: Placement
    reason: str
    job: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A trial that is not tried again in the environment. `lifted_at`: a person has lifted it."""

    environment: EnvironmentId
    trial: Digest
    id: PlacementId
    release: ReleaseName
    reason: str
    job: JobId
    at: datetime
    lifted_at: datetime | None = None
    lifted_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """How often in a row a target failed; it is left alone until `open_until`."""

    target: TargetId
    failures: int
    open_until: datetime | None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What one turn decided, and from what. `content` is plain data (inputs by digest, the plan's hash, what is blocked
    and why) and must be the same for the same decision: no times, no counts of turns. `again_at` is when the
    environment is looked at again; it is shown, and no part of what is compared."""

    rule: str
    content: Mapping[str, Any] = field(default_factory=dict)
    again_at: datetime | None = None

    @cached_property
    def digest(self) -> Digest:
        return digest.of({"rule": self.rule, "content": dict(self.content)})


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionInterval:
    """The same decision on the same inputs, `count` turns long: first at `since`, last at `until`."""

    environment: EnvironmentId
    number: int
    since: datetime
    until: datetime
    count: int
    digest: Digest
    rule: str
    content: Mapping[str, Any]
    again_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingInterval:
    """How one placement stood from `since` to `until` (None: still). `content` is plain data: what was wanted, declared
    and seen, what the sticker said, and the differences in words."""

    number: int
    environment: EnvironmentId
    id: PlacementId
    since: datetime
    until: datetime | None
    verdict: Verdict
    trust: Trust
    rule: str
    reason: str
    heal: bool
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """An environment as it was known at a moment; `decision` is None where no turn's interval holds the moment."""

    environment: EnvironmentId
    moment: datetime
    decision: DecisionInterval | None
    standings: tuple[StandingInterval, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceRow:
    """A signed statement, kept by id. `component` is None for what speaks of the whole target."""

    id: EvidenceId
    kind: Statement
    environment: EnvironmentId
    target: TargetId
    component: ComponentName | None
    envelope: Envelope
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """Some rows, newest first, and where the next page begins (None: this was the last)."""

    items: tuple[T, ...]
    before: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFile:
    """A rendered file of a job, as it is kept: where it is for, and the digest of its bytes. `target` None: it is of
    the job as a whole."""

    job: JobId
    direction: Direction
    target: TargetId | None
    components: tuple[ComponentName, ...]
    name: str
    kind: RenderedKind
    media_type: str
    digest: Digest
    kept_at: datetime
