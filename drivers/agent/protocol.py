"""What server, signer and agent say to each other: plain records, and the text they travel as.

A task is authorised by the signer, not by whoever delivers it. Its envelope is small and names the body by digest. It
is bound to one agent, one generation of its identity and one run of it (`epoch`), and it ends by that run's own clock
(`not_after`), so that no two machines' clocks are ever compared and nothing of yesterday can be replayed.

Delivery is at least once, both ways: an agent answers a key that it has done with the answer it gave, and sends a
result again until it is acknowledged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

from desired_state.model import Target
from drivers.contract import Diagnosis
from stickers import digest
from stickers.names import ActionKey, AgentName, Digest, EnvironmentId, PlacementId, TargetId, split_id
from stickers.signature import Envelope, Keyring, Sign, Statement, unverified_payload

if TYPE_CHECKING:
    from pydantic import TypeAdapter

VERSIONS: Final = (1, 1)  # of the protocol: the oldest and the newest that this program speaks
BEAT: Final = 30.0  # seconds between two signs of life
DEGRADED: Final = 45.0  # seconds of silence: a beat is missing
OFFLINE: Final = 90.0  # seconds of silence: three are
LARGEST_FRAME: Final = 1024 * 1024  # characters, either way
LARGEST_BODY: Final = 768 * 1024  # characters of a task's or a result's body
LARGEST_LOG: Final = 64 * 1024  # characters of the log that comes with a result

T = TypeVar("T")


class Malformed(ValueError):
    """A text that is no frame, body or statement of this protocol; the sentence says what was found."""


# -- what is authorised, and what is answered --------------------------------------------------------------------------


class Verb(StrEnum):
    """All that an agent can be asked; each has a body of one type, and nothing is a command line."""

    DEPLOY = "deploy"  # an Action
    ROLLBACK = "rollback"  # an Action that returns to what was proven before
    WRITE_STICKER = "write-sticker"  # an Action that finds its content standing, and labels it
    INSPECT = "inspect"  # a Look: look so, whenever asked; once authorised it stands until another takes its place
    HEALTH_CHECK = "health-check"  # a Look, carried out once, answered with an observation
    READ_STICKER = "read-sticker"  # a Look, carried out once, answered with an observation
    READ_LOG = "read-log"  # an Excerpt, answered with Lines
    EXAMINE = "examine"  # a Look, answered with what the target lacks, as a Findings
    EXECUTE_COMMAND = "execute-command"  # an Errand of a name that the host's own settings allow
    UPLOAD_FILES = "upload-files"  # an Upload to a name that the host's own settings allow
    HOLD = "hold"  # a Hold: the last authorised placements are held while no server can be reached
    UPGRADE = "upgrade"  # an Upgrade of the agent itself
    TRUST = "trust"  # a Trust: the signer's next key


READS: Final = frozenset(
    {Verb.INSPECT, Verb.HEALTH_CHECK, Verb.READ_STICKER, Verb.READ_LOG, Verb.EXAMINE}
)  # they change nothing: their fence is 0 and is not judged


class Priority(StrEnum):
    """Which of the waiting tasks is begun first."""

    URGENT = "urgent"
    NORMAL = "normal"
    LOW = "low"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One authorisation, used once. `content` is the digest of the body's text. `not_after` is a reading of the clock
    of the agent's run `epoch`, in milliseconds; by then the task has to be begun, and `within` is the longest it may
    then take. `sequence` rises with each authorisation the signer gives."""

    id: str
    key: ActionKey
    agent: AgentName
    generation: int
    epoch: str
    target: TargetId
    environment: EnvironmentId
    verb: Verb
    content: Digest
    fence: int
    not_after: int
    within: timedelta
    sequence: int = 0
    priority: Priority = Priority.NORMAL


class Code(StrEnum):
    """How a task ended. Everything but DONE left the target as it was, except FAILED, whose detail says."""

    DONE = "DONE"  # carried out; the body is the answer
    FAILED = "FAILED"  # the driver raised; the body is a Failure
    MALFORMED = "MALFORMED"  # what came is no task
    FORGED = "FORGED"  # not signed by the signer this agent trusts
    AUDIENCE = "AUDIENCE"  # for another agent, or a target that is not this agent's
    GENERATION = "GENERATION"  # for an identity that this agent has renewed since
    EPOCH = "EPOCH"  # for another run of this agent
    EXPIRED = "EXPIRED"  # came too late by this agent's own clock
    CONTENT = "CONTENT"  # the body is not what was authorised
    STALE_FENCE = "STALE_FENCE"  # a higher fence has been seen on this target
    USED = "USED"  # this authorisation was used, for another body
    NOT_GRANTED = "NOT_GRANTED"  # the operator has not granted this agent the power
    NOT_ALLOWED = "NOT_ALLOWED"  # the host's own settings do not allow it
    CANCELLED = "CANCELLED"  # taken back before it was begun


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """How long the parts took, in milliseconds; None where there was no such part."""

    pull: int | None = None
    deploy: int | None = None
    health: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the agent says of a task, signed with its own key. `content` is the digest of the body's text; `sequence`
    rises with each result of this agent, so that none is taken for a later one."""

    task: str
    key: ActionKey
    agent: AgentName
    target: TargetId
    environment: EnvironmentId
    verb: Verb
    fence: int
    code: Code
    detail: str
    content: Digest
    sequence: int
    metrics: Metrics = field(default_factory=Metrics)


# -- bodies that are not actions, receipts or observations -------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What a driver raised: the code of `drivers.errors`, and its sentence."""

    error: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """The end of what a workload printed, and no more than `LARGEST_LOG` of it."""

    target: Target
    id: PlacementId
    tail: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Lines without their ends."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What an examination found."""

    found: tuple[Diagnosis, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """A command by the name the host gave it, with arguments that the host's own pattern for them lets through."""

    name: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """Files for a directory by the name the host gave it."""

    name: str
    files: tuple[UploadedFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadedFile:
    """`path` is below the directory, `content` is base64."""

    path: str
    content: str
    digest: Digest
    mode: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Until `seconds` after it was accepted, by the agent's own clock over all its runs, what was last authorised and
    proven on the target is held without a server. 0 seconds take the grant away."""

    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """The agent itself, by digest: a file among the uploads of its settings or an artifact of `repository`."""

    artifact: str  # repository@sha256:…
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """From now on tasks signed with this key are believed, and in `overlap` seconds those of the former one no more."""

    public: str  # hex
    overlap: int


# -- frames ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The agent's first word. `at` is its clock in milliseconds since `epoch` began; `kinds` are the runtimes it can
    work with here; `resolves` are the secret backends it asks itself; `orders` are those that stand, by target."""

    protocol: tuple[int, int]
    version: str
    epoch: str
    at: int
    kinds: tuple[str, ...] = ()
    resolves: tuple[str, ...] = ()
    orders: Mapping[TargetId, Digest] = field(default_factory=dict)
    waiting: int = 0  # results that nobody has acknowledged
    frame: Literal["hello"] = "hello"


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The server's first word: what was agreed on, what is granted, and which other servers there are. `keys` are the
    public keys whose stickers are believed on the targets."""

    protocol: int
    beat: float = BEAT
    targets: tuple[TargetId, ...] = ()
    kinds: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()
    renew: bool = False
    frame: Literal["welcome"] = "welcome"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A public key and the subjects it may speak of, as `stickers.signature.PublicKey` has them."""

    public: str  # hex
    subjects: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turned:
    """The server's last word: it will not speak with this agent, and why."""

    code: str
    sentence: str
    frame: Literal["turned"] = "turned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """A sign of life, with the agent's clock; the server answers with the same."""

    at: int
    queue: int = 0
    frame: Literal["beat"] = "beat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assign:
    """A task: its envelope, its body, and secrets sealed for this agent and this task."""

    envelope: Envelope
    body: str
    sealed: str | None = None  # base64
    frame: Literal["assign"] = "assign"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The task is on the agent's disk; it will be answered, whatever is lost meanwhile."""

    task: str
    frame: Literal["accepted"] = "accepted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """Progress of a task: lines as `drivers.contract.Progress`, plain."""

    task: str
    lines: tuple[Mapping[str, Any], ...]
    frame: Literal["said"] = "said"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A result: its envelope, its body, and the end of the log."""

    task: str
    envelope: Envelope
    body: str
    log: str = ""
    frame: Literal["answer"] = "answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledge:
    """The result is kept on the server; the agent need not send it again."""

    task: str
    frame: Literal["acknowledge"] = "acknowledge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """The task is not wanted any more; one that has begun is carried to its end all the same."""

    task: str
    frame: Literal["cancel"] = "cancel"


@dataclass(frozen=True, slots=True, kw_only=True)
class LookAt:
    """Look at the target as `order` says; `seen` is the digest of the observation that the server has."""

    id: int
    target: TargetId
    order: Digest
    seen: Digest | None = None
    frame: Literal["look"] = "look"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The answer to a look: an observation as plain text, None where it is still the one with digest `seen`; `lacking`
    says that no such order stands here and has to be authorised first."""

    id: int
    digest: Digest | None = None
    observation: str | None = None
    lacking: bool = False
    frame: Literal["seen"] = "seen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """Something happened on these targets; look again."""

    targets: tuple[TargetId, ...]
    frame: Literal["changed"] = "changed"


FromAgent = Hello | Beat | Accepted | Said | Answer | Seen | Changed
FromServer = Welcome | Turned | Beat | Assign | Acknowledge | Cancel | LookAt
Frame = FromAgent | FromServer

# -- to text and back --------------------------------------------------------------------------------------------------


def text(frame: Frame) -> str:
    """A frame as it travels: one JSON object, told from the others by its `frame`."""
    written: bytes = _adapter(type(frame)).dump_json(frame)
    return written.decode()


def from_agent(text: str) -> FromAgent:
    """A frame an agent sent; `Malformed` when it is none. Unknown fields are a later version's and passed over."""
    found: FromAgent = _frame(FromAgent, text)
    return found


def from_server(text: str) -> FromServer:
    """A frame a server sent; `Malformed` when it is none. Unknown fields are a later version's and passed over."""
    found: FromServer = _frame(FromServer, text)
    return found


def _frame(kinds: Any, text: str) -> Any:
    if len(text) > LARGEST_FRAME:
        raise Malformed(f"a frame of {len(text)} characters, at most {LARGEST_FRAME} are read")
    try:
        return _adapter(kinds).validate_json(text)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"no frame of this protocol: {str(error)[:200]}") from None


def body(value: object) -> str:
    """A body's text. Its digest is what is authorised."""
    plain = _adapter(type(value)).dump_python(value, mode="json")
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def read_body(kind: type[T], text: str) -> T:
    """The value of that type in a body; `Malformed` when it is none."""
    if len(text) > LARGEST_BODY:
        raise Malformed(f"a body of {len(text)} characters, at most {LARGEST_BODY} are read")
    try:
        found: T = _adapter(kind).validate_json(text)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"no {kind.__name__}: {str(error)[:200]}") from None
    return found


def from_plain(kind: type[T], plain: object) -> T:
    """The value of that type in plain data that came within a frame; `Malformed` when it is none."""
    try:
        found: T = _adapter(kind).validate_python(plain)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"no {kind.__name__}: {str(error)[:200]}") from None
    return found


def content(text: str) -> Digest:
    """What a task or a result names its body by."""
    return digest.of_bytes(text.encode())


_adapters: Final[dict[Any, TypeAdapter[Any]]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _adapters:
        from pydantic import Field, TypeAdapter  # where something is read or written, and not for a word of help

        told_apart: Any = Annotated[kind, Field(discriminator="frame")] if isinstance(kind, UnionType) else kind
        _adapters[kind] = TypeAdapter(told_apart)
    return _adapters[kind]


# -- statements --------------------------------------------------------------------------------------------------------


FORMAT: Final[Mapping[type, str]] = {Task: "holdfast.task/v1", Result: "holdfast.result/v1"}
_STATEMENT: Final[Mapping[type, Statement]] = {Task: Statement.TASK, Result: Statement.RESULT}
Signed = TypeVar("Signed", Task, Result)


def sealed(statement: Task | Result, sign: Sign) -> Envelope:
    """The statement, signed."""
    said = {"format": FORMAT[type(statement)], "said": digest.plain(statement)}
    return sign(_STATEMENT[type(statement)], statement.environment, said)


def task(envelope: Envelope, keyring: Keyring) -> Task:
    """The task in the envelope, if a key that may speak of its target signed it; else `SignatureError`, or `Malformed`
    when what was signed is no task."""
    return _opened(Task, keyring.payload(envelope, Statement.TASK, lambda content: _subject(Task, content)))


def unverified_task(envelope: Envelope) -> Task:
    """The task that the envelope speaks of, whoever wrote it: to say which one is refused, and for envelopes that were
    verified when they were kept. `SignatureError` or `Malformed` when it speaks of none."""
    return _opened(Task, unverified_payload(envelope))


def result(envelope: Envelope, keyring: Keyring) -> Result:
    """As `task`, for a result."""
    return _opened(Result, keyring.payload(envelope, Statement.RESULT, lambda content: _subject(Result, content)))


def _subject(kind: type[Signed], content: bytes) -> str:
    said = _opened(kind, content)
    return f"{said.environment}/{split_id(said.target)[1]}"


def _opened(kind: type[Signed], content: bytes) -> Signed:
    """Read as it was written, or not at all: a signed text has one meaning."""
    try:
        said = json.loads(content)
        spans = {"within": timedelta(milliseconds=said["said"]["within"])} if kind is Task else {}
        found: Signed = _adapter(kind).validate_python({**said["said"], **spans})
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise Malformed(f"no {kind.__name__}: {type(error).__name__}: {str(error)[:120]}") from None
    if {"format": FORMAT[kind], "said": digest.plain(found)} != said:
        raise Malformed(f"a {kind.__name__} with fields this version does not know, or written in another way")
    return found
