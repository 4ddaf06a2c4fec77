"""What is asked and what is answered under `/api/v1`, as programs may rely on it: the models of the OpenAPI document.

Answers hold at least this; requests hold nothing else.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from drivers.contract import RenderedKind
from reconciler.core.drift import Trust, Verdict
from reconciler.core.intent import JobKind
from reconciler.core.machine import JobState, TaskState
from reconciler.store.records import AgentState, Direction

Sentence = Annotated[str, Field(min_length=1, max_length=500)]
Counts = Annotated[dict[str, int], Field(description="verdict -> how many placements stand so")]


class Asked(BaseModel):
    """A request's body: what is not listed is refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Problem(BaseModel):
    """What went wrong (RFC 9457). `code` is stable and the same on the command line."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    exit_code: int


class Condition(BaseModel):
    type: str
    status: str
    reason: str
    message: str


class Suspension(BaseModel):
    reason: str
    until: datetime | None = None


class JobSummary(BaseModel):
    id: str
    environment: str
    kind: JobKind
    state: JobState
    ok: bool | None = Field(description="null while it is under way")
    generation: int
    plan_hash: str
    requested_by: str
    reason: str
    message: str
    wave: int
    created_at: datetime
    ended_at: datetime | None


class Environment(BaseModel):
    id: str
    release: str
    revision: str
    generation: int
    accepted_at: datetime
    undeclared_at: datetime | None
    last_attempted: str | None
    last_applied: str | None
    targets: int
    verdicts: Counts
    conditions: list[Condition]
    suspended: Suspension | None
    job: JobSummary | None
    looked_at: datetime | None


class Placement(BaseModel):
    number: int
    environment: str
    target: str
    component: str
    slot: str
    verdict: Verdict
    trust: Trust
    rule: str
    reason: str
    release: str | None
    since: datetime
    until: datetime | None
    differences: list[Any]


class Source(BaseModel):
    problem: str | None


class Fleet(BaseModel):
    installation: str
    environments: list[Environment]
    source: Source
    agents: dict[str, int] = Field(default={}, description="online, degraded, offline, … -> how many agents stand so")


class WholeEnvironment(Environment):
    placements: list[Placement]


class Drifted(Placement):
    blocked: str | None


class Drift(BaseModel):
    placements: list[Drifted]


class TargetLine(BaseModel):
    id: str
    environment: str
    driver: str
    verdicts: Counts


class Targets(BaseModel):
    environment: str
    targets: list[TargetLine]
    next: str | None


class ComponentLine(BaseModel):
    name: str
    artifact: str | None
    verdicts: Counts


class Components(BaseModel):
    environment: str
    release: str
    components: list[ComponentLine]


class Change(BaseModel):
    target: str
    component: str
    change: str
    verdict: Verdict
    heal: bool
    summary: str
    differences: list[Any]


class Blocked(BaseModel):
    placement: str
    code: str
    reason: str
    until: datetime | None
    verdict: Verdict


class Plan(BaseModel):
    environment: str
    kind: JobKind
    desired: str
    hash: str
    removal_hash: str | None
    waves: list[list[Change]]
    blocked: list[Blocked]
    notes: list[str]


class Made(JobSummary):
    """The job that was made; watch it at its own address."""


class NothingToDo(BaseModel):
    environment: str
    job: None
    ok: Literal[True]
    message: str


class Done(BaseModel):
    environment: str
    message: str


class Jobs(BaseModel):
    jobs: list[JobSummary]
    next: str | None = Field(description="the cursor of the next page, for `before`")


class Progress(BaseModel):
    at: datetime
    component: str
    step: str
    message: str


class Task(BaseModel):
    id: str
    target: str
    components: str
    direction: Direction
    wave: int
    state: TaskState
    attempt: int
    code: str | None
    detail: str
    evidence: list[str]
    began_at: datetime | None
    ended_at: datetime | None
    progress: list[Progress]


class Job(JobSummary):
    tasks: list[Task]


class Tasks(BaseModel):
    job: str
    tasks: list[Task]


class Why(BaseModel):
    target: str
    driver: str
    environment: str
    suspended: Suspension | None
    placements: list[dict[str, Any]]


class Decision(BaseModel):
    since: datetime
    until: datetime
    count: int
    summary: str
    again_at: datetime | None
    content: dict[str, Any]


class History(BaseModel):
    """`entries` of an environment, newest first; `placements` of one target, or of all at a moment."""

    environment: str
    entries: list[Decision] = []
    placements: list[Placement] = []
    decision: Decision | None = None
    next: str | None = None


class Evidence(BaseModel):
    id: str
    kind: str
    environment: str
    target: str
    component: str | None
    at: datetime
    signature: str = Field(description="`valid`, or what is wrong with it")
    statement: Any


class Logs(BaseModel):
    target: str
    component: str
    lines: list[str]


class Release(BaseModel):
    project: str
    name: str
    digest: str
    repository: str | None
    commit: str | None
    components: dict[str, str]


class Releases(BaseModel):
    project: str
    releases: list[Release]
    next: str | None


class Artifact(BaseModel):
    """A rendered file of a job. `target` null: it is of the job as a whole."""

    target: str | None
    components: list[str]
    direction: Direction
    name: str
    kind: RenderedKind
    media_type: str
    digest: str = Field(description="of its bytes; the last part of its address")
    kept_at: datetime


class Artifacts(BaseModel):
    job: str
    files: list[Artifact]


class SourceFault(BaseModel):
    code: str
    message: str
    revision: str | None
    since: datetime | None


class DeclaredSource(BaseModel):
    """Where documents come from. `age` is in seconds, and `stale` above its `limit`."""

    name: str
    type: str
    where: str
    revision: str | None
    accepted_at: datetime | None
    signer: str | None
    read_at: datetime | None
    age: float | None
    stale: bool
    limit: float
    fault: SourceFault | None
    environments: list[str]


class Sources(BaseModel):
    sources: list[DeclaredSource]


class Documents(BaseModel):
    """YAML texts by the name of a file, as of `revision`."""

    revision: int
    files: dict[str, str]


class DocumentChange(BaseModel):
    kind: str
    project: str
    name: str
    change: Literal["created", "changed", "removed"]


class Written(BaseModel):
    """What was changed, or with `dry_run` would be."""

    changes: list[DocumentChange]
    environments: list[str]
    revision: int
    dry_run: bool
    fault: Any = None


class AuditEntry(BaseModel):
    chain: str
    seq: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: Any
    prev: str
    hash: str


class Audit(BaseModel):
    entries: list[AuditEntry]
    next: str | None


class Chain(BaseModel):
    chain: str
    entries: int
    hash: str


class ChainFault(BaseModel):
    chain: str
    seq: int
    says: str


class AuditVerified(BaseModel):
    ok: bool
    chains: list[Chain]
    faults: list[ChainFault]
    checkpoints: int = Field(description="how many were compared")


class Granted(BaseModel):
    what: str
    place: str


class User(BaseModel):
    name: str
    known_by: str
    groups: list[str]
    grants: list[Granted]
    disabled_at: datetime | None
    created_at: datetime
    created_by: str


class Users(BaseModel):
    users: list[User]
    groups: dict[str, list[Granted]]


class UserMade(User):
    password: str | None = Field(description="the one that was made, told this once")


class UserMoved(BaseModel):
    name: str
    message: str


class PasswordSet(UserMoved):
    password: str | None = Field(description="the one that was made, told this once")


class GrantMoved(UserMoved):
    what: str
    place: str
    changed: bool


class Token(BaseModel):
    """A machine's token without its secret."""

    id: str
    name: str
    scopes: list[Granted]
    created_at: datetime
    created_by: str
    expires_at: datetime
    used_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None


class Tokens(BaseModel):
    tokens: list[Token]


class TokenMade(Token):
    token: str = Field(description="told this once")


class TokenRevoked(BaseModel):
    id: str
    name: str
    changed: bool
    message: str


class Agent(BaseModel):
    name: str
    state: AgentState
    presence: str = Field(description="online, degraded or offline; of one that may not speak, its state")
    reason: str
    generation: int
    version: str
    reported: list[str] = Field(description="runtimes that the host has")
    granted: list[str] = Field(description="runtimes that the operator grants")
    targets: list[str]
    shared: list[str]
    holds: list[str]
    heard_at: datetime | None
    queue: int
    way: str
    peer: str
    server: str
    joined_at: datetime | None
    invited_at: datetime
    invited_by: str
    invited_until: datetime | None


class Agents(BaseModel):
    agents: list[Agent]


class AgentCertificate(BaseModel):
    serial: str
    generation: int
    issuer: str
    key: str
    issued_at: datetime
    not_after: datetime
    used_at: datetime | None
    ends_at: datetime | None
    revoked_at: datetime | None
    counts: bool


class WholeAgent(Agent):
    certificates: list[AgentCertificate]


class AgentInvited(Agent):
    token: str = Field(description="shown this once")
    expires_at: datetime
    url: str | None
    run: str = Field(description="what to run on the host, and to give the token to")
    message: str


class AgentMoved(Agent):
    changed: bool
    message: str
    environments: list[str] = []


class TargetHeld(BaseModel):
    target: str
    agent: str
    seconds: int
    message: str


class CommandEnded(BaseModel):
    target: str
    name: str
    exit_code: int | None
    why: str
    said: str


class AgentUpgraded(BaseModel):
    agent: str
    artifact: str
    version: str
    message: str


class SeenByAgent(BaseModel):
    component: str
    state: str
    health: str
    detail: str
    artifact: str
    instance: str


class Inspected(BaseModel):
    target: str
    unseen: str | None = Field(description="why nothing is known; then the rest is empty")
    seen: list[SeenByAgent]


class FilesUploaded(BaseModel):
    target: str
    name: str
    files: list[str]


class AgentTrusts(BaseModel):
    name: str
    problem: str | None


class KeyTrusted(BaseModel):
    public: str
    agents: list[AgentTrusts]


class Root(BaseModel):
    id: str
    not_after: datetime
    fingerprint: str
    key_here: bool


class Issuer(BaseModel):
    id: str
    made_at: datetime
    not_after: datetime
    retired_at: datetime | None
    issues: bool
    agents: int


class Authority(BaseModel):
    directory: str
    root: Root
    issuers: list[Issuer]
    due: bool = Field(description="the issuer ends within 60 days")


class AuthorityRotated(BaseModel):
    id: str
    before: str
    not_after: datetime
    message: str


class AuthorityRetired(BaseModel):
    id: str
    agents: int
    message: str


# -- requests -------------------------------------------------------------------------------------------------------


class SyncAsked(Asked):
    plan_hash: str | None = Field(default=None, min_length=8, max_length=80, description="only exactly this plan")
    confirm_removal: str | None = Field(
        default=None, min_length=1, max_length=80, description="allow this large removal"
    )


class RollbackAsked(Asked):
    reason: Sentence = "asked for by a person"


class AdoptAsked(Asked):
    targets: list[str] = Field(default=[], max_length=1_000, description="all when left out")


class SuspendAsked(Asked):
    reason: Sentence
    until: str | None = Field(default=None, description="ISO 8601 with a zone; until resumed when left out")


class ResumeAsked(Asked):
    lift_refused: bool = False


class RefreshAsked(Asked):
    allow: str | None = Field(default=None, pattern="^([0-9a-f]{40}|[0-9a-f]{64})$", description="let this commit in")


class DocumentsOffered(Asked):
    files: dict[str, str] = Field(min_length=1, max_length=2_000, description="YAML texts by the name of a file")
    dry_run: bool = Field(default=False, description="only say what would change")
    revision: int | None = Field(
        default=None, ge=0, le=2**53, description="the documents must still be at it; goes before `If-Match`"
    )


class VerifyAsked(Asked):
    checkpoints: list[str] = Field(default=[], max_length=100, description="signed earlier, and kept elsewhere")


Word = Annotated[str, Field(min_length=1, max_length=40)]
AtPlace = Annotated[str, Field(min_length=1, max_length=127)]
Password = Annotated[str, Field(min_length=1, max_length=1_000)]


class UserOffered(Asked):
    name: str = Field(min_length=1, max_length=63)
    password: Password | None = None
    grants: list[Word] = Field(default=[], max_length=20, description="roles or verbs")
    place: AtPlace = Field(default="*", description="where they are granted")


class PasswordAsked(Asked):
    password: Password | None = None


class GrantAsked(Asked):
    what: Word = Field(description="a role or a verb")
    place: AtPlace = Field(default="*", description="an environment, `project/*`, or `*`")


class TokenAsked(Asked):
    name: str = Field(min_length=1, max_length=63)
    scopes: list[Word] = Field(min_length=1, max_length=20, description="roles or verbs")
    places: list[AtPlace] = Field(default=["*"], max_length=50)
    days: int = Field(default=90, ge=1, le=366)


class AgentAsked(Asked):
    name: str = Field(min_length=1, max_length=63)
    targets: list[AtPlace] = Field(default=[], max_length=500)
    kinds: list[Word] = Field(default=[], max_length=20)
    shared: bool = False


class LockAsked(Asked):
    reason: Sentence | None = None


class DrainAsked(Asked):
    end: bool = Field(default=False, description="give it work again")


class KindsAsked(Asked):
    kinds: list[Word] = Field(min_length=1, max_length=20)


class BindAsked(Asked):
    target: AtPlace
    shared: bool = False


class HoldAsked(Asked):
    span: str = Field(min_length=1, max_length=10, description="`30m`, `12h`, `7d`, or `0` to end it")


class CommandAsked(Asked):
    name: str = Field(min_length=1, max_length=63, description="as the host's settings name it")
    arguments: list[str] = Field(default_factory=list, max_length=100)


class UpgradeAsked(Asked):
    artifact: str = Field(max_length=1000, description="repository@sha256:…, which the host's settings have to name")
    version: str = Field(min_length=1, max_length=80, description="what the new one is called")


class FileAsked(Asked):
    path: str = Field(min_length=1, max_length=1000, description="below the directory")
    content: str = Field(description="base64")
    digest: str = Field(description="of the file, sha256:…")
    mode: int = Field(default=0o644, ge=0, le=0o777)


class UploadAsked(Asked):
    name: str = Field(min_length=1, max_length=63, description="as the host's settings name it")
    files: list[FileAsked] = Field(min_length=1, max_length=200)


class RetireAsked(Asked):
    force: bool = False
