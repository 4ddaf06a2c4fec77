"""What is to be done, and what is not: the records of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from drivers.contract import Change
from reconciler.core.judge import Verdict
from stickers.names import Digest, EnvironmentId, PlacementId, ReleaseName, TargetId


class JobKind(StrEnum):
    DEPLOY = "deploy"
    HEAL = "heal"
    ROLLBACK = "rollback"
    ADOPT = "adopt"
    REMOVE = "remove"


class Code(StrEnum):
    """Why nothing happens to a drifted placement."""

    UNSEEN = "UNSEEN"
    UNMANAGED = "UNMANAGED"
    IN_TRANSIT = "IN_TRANSIT"
    SUSPENDED = "SUSPENDED"
    REFUSED = "REFUSED"
    NOT_PRUNED = "NOT_PRUNED"
    REMOVAL_LIMIT = "REMOVAL_LIMIT"
    NO_LAST_GOOD = "NO_LAST_GOOD"
    POLICY_ASK = "POLICY_ASK"
    POLICY_REPORT = "POLICY_REPORT"
    CIRCUIT_OPEN = "CIRCUIT_OPEN"
    GAVE_UP = "GAVE_UP"
    BACKOFF = "BACKOFF"
    AFTER = "AFTER"


REMEDY: Final[Mapping[Code, str]] = {
    Code.UNSEEN: "it is looked at again by itself; make the target reachable",
    Code.UNMANAGED: "nothing has to be done; `holdfast adopt` takes over what is declared",
    Code.IN_TRANSIT: "wait for the job that is under way",
    Code.SUSPENDED: "`holdfast resume {environment}`, or remove `suspend` from its document; `holdfast sync` acts once",
    Code.REFUSED: "declare another release or configuration, or `holdfast resume {environment} --lift-refused`",
    Code.NOT_PRUNED: "declare it, or set `sync.prune: true` for the environment",
    Code.REMOVAL_LIMIT: "`holdfast sync {environment} --confirm-removal {removal}`, or raise `sync.removal_limit`",
    Code.NO_LAST_GOOD: "declare what should run there; nothing has ever been proven on it",
    Code.POLICY_ASK: "`holdfast plan {environment}`, then `holdfast sync {environment} --plan-hash HASH`",
    Code.POLICY_REPORT: "`holdfast sync {environment}`, or another `sync` policy for the environment",
    Code.CIRCUIT_OPEN: "it is tried again by itself; `holdfast sync {environment}` tries at once",
    Code.GAVE_UP: "declare another release or configuration, or `holdfast sync {environment}` once it is repaired",
    Code.BACKOFF: "it is tried again by itself; `holdfast sync {environment}` tries at once",
    Code.AFTER: "it follows by itself when what it comes after is done",
}


class ChangeKind(StrEnum):
    """What a change amounts to, for people and for the plan's hash."""

    DEPLOY = "deploy"
    LABEL = "label"  # only the sticker is written; nothing is restarted
    STOP = "stop"  # declared stopped
    RESTART = "restart"
    ADOPT = "adopt"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """One side of a change. `release` None: it cannot be told; a digest None: likewise."""

    release: ReleaseName | None
    artifact: Digest | None
    configuration: Digest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why a change is planned, and from what to what: for the reader of a plan, and for its hash. `found` None: nothing
    stands there; `wanted` None: nothing should."""

    id: PlacementId
    kind: ChangeKind
    verdict: Verdict
    heal: bool
    found: Content | None
    wanted: Content | None
    rule: str
    reason: str
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """One action to be: what changes on one target, each change with its cause in the same order."""

    target: TargetId
    changes: tuple[Change, ...]
    causes: tuple[Cause, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """What may run together. `stage` rises where components come after others."""

    intents: tuple[Intent, ...]
    stage: int = 0

    @property
    def targets(self) -> tuple[TargetId, ...]:
        return tuple(dict.fromkeys(intent.target for intent in self.intents))


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """A drifted placement to which nothing happens. `until`: when it is judged anew by itself; `remedy` says what
    unblocks it."""

    id: PlacementId
    code: Code
    reason: str
    until: datetime | None = None
    verdict: Verdict = Verdict.UNKNOWN
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a person allowed beyond policy, on `targets` only (None: on all). A granted change also passes a
    suspension, a back-off, an open circuit and a surrender; `removal` confirms the removals of that hash."""

    advance: bool = False
    heal: bool = False
    removal: str | None = None
    targets: frozenset[TargetId] | None = None


NO_GRANT: Final = Grant()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Waves in order, and what is blocked. Every drifted placement is in a wave or blocked, never both, never neither.

    `hash` is over the environment, what is desired, each change with its content and footing, and the codes of what is
    blocked; not over stamps, times or sentences. `removal` is what `--confirm-removal` has to name, where removals
    wait for it.
    """

    environment: EnvironmentId
    desired_digest: Digest
    kind: JobKind
    waves: tuple[Wave, ...]
    blocked: tuple[Blocked, ...]
    hash: str
    removal: str | None = None

    @property
    def empty(self) -> bool:
        return not self.waves

    @property
    def intents(self) -> tuple[Intent, ...]:
        return tuple(intent for wave in self.waves for intent in wave.intents)
