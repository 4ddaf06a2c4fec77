"""What happened, as typed records handed to a sink: the log, the audit and the stream are made of them elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from drivers.contract import Progress
from reconciler.core.drift import Trust, Verdict
from reconciler.core.machine import JobState, TaskState
from reconciler.core.plan import JobKind
from reconciler.store.records import Job
from stickers.names import ActionKey, AgentName, EnvironmentId, JobId, PlacementId, ReleaseName, TargetId, TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRead:
    """A source was read and accepted; `changed` are the environments whose desire has a new meaning."""

    source: str
    revision: str
    changed: tuple[EnvironmentId, ...]
    undeclared: tuple[EnvironmentId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRefused:
    """A source could not be read, was empty, or what it says may not be taken; the last accepted desire stays in
    force."""

    source: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStale:
    """An alarm: for so many seconds, more than it may be, nothing could be taken from a source."""

    source: str
    age: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """A turn has looked at the environment and recorded what it saw; `took` are seconds."""

    environment: EnvironmentId
    placements: int
    drifted: int
    took: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictChanged:
    """A placement is judged otherwise than at the last turn; `before` is None at the first."""

    environment: EnvironmentId
    id: PlacementId
    before: Verdict | None
    after: Verdict
    trust: Trust
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StickerDistrusted:
    """An alarm: a sticker that is forged or replayed."""

    environment: EnvironmentId
    id: PlacementId
    trust: Trust
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobMoved:
    """A job is new or in another state; `message` is a sentence."""

    environment: EnvironmentId
    job: JobId
    release: ReleaseName
    kind: JobKind
    state: JobState
    message: str
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMoved:
    environment: EnvironmentId
    job: JobId
    release: ReleaseName
    task: TaskId
    key: ActionKey
    target: TargetId
    state: TaskState
    attempt: int
    code: str | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """A driver reported a step of a task."""

    environment: EnvironmentId
    job: JobId
    release: ReleaseName
    task: TaskId
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTaken:
    environment: EnvironmentId
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseLost:
    """Nothing more is started for the environment until the lease is held again."""

    environment: EnvironmentId
    token: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSeen:
    """Another replica works on the same database; `replica` is where it lives."""

    replica: str
    role: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaGone:
    """It has left, or has not been heard of for too long."""

    replica: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaDoubted:
    """Another replica signs with a key that this one does not believe: its stickers are taken for forgeries here."""

    replica: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFailed:
    """This replica could not say that it lives, nor take what nobody holds; it tries again after `again` seconds."""

    error: str
    again: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFailed:
    """A turn raised; it is tried again after `again` seconds. `terminal`: trying again is not expected to help."""

    key: str
    error: str
    failures: int
    terminal: bool
    again: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchLost:
    """The events of a driver, or of the source, ended; looking at the interval goes on, and they are resumed."""

    watched: str
    reason: str
    again: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentJoined:
    """An agent has an identity from now on, or the next generation of it."""

    agent: AgentName
    generation: int
    peer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLocked:
    """An alarm: an identity or a join token was used by somebody else too. Nobody speaks with the agent until a person
    has looked."""

    agent: AgentName
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentAnswered:
    """An agent was asked to carry out a task, and how that ended; without a code nobody heard. `key` is that of the
    action where one led to it; `milliseconds` is how long its parts took there."""

    environment: EnvironmentId
    target: TargetId
    agent: AgentName
    task: str
    key: ActionKey
    verb: str
    code: str | None
    detail: str
    began_at: datetime
    milliseconds: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """The loop has ended; `abandoned` are the turns that did not finish in time and were cancelled."""

    abandoned: tuple[str, ...]


Event = (
    SourceRead
    | SourceRefused
    | SourceStale
    | Looked
    | VerdictChanged
    | StickerDistrusted
    | JobMoved
    | TaskMoved
    | Progressed
    | LeaseTaken
    | LeaseLost
    | ReplicaSeen
    | ReplicaGone
    | ReplicaDoubted
    | RoundFailed
    | TurnFailed
    | WatchLost
    | AgentJoined
    | AgentLocked
    | AgentAnswered
    | Drained
)

Sink = Callable[[Event], None]


def job_moved(job: Job, release: ReleaseName, message: str) -> JobMoved:
    return JobMoved(
        environment=job.environment,
        job=job.id,
        release=release,
        kind=job.kind,
        state=job.state,
        message=message,
        created_at=job.created_at,
        ended_at=job.ended_at,
    )


def to_all(*sinks: Sink) -> Sink:
    """A sink that hands every event to each of these, in order."""

    def tell(event: Event) -> None:
        for sink in sinks:
            sink(event)

    return tell


def nowhere(event: Event) -> None:
    """A sink for whoever does not care."""
