"""Evidence: signed statements of what was proven and of what was done, kept by id."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from stickers import digest
from stickers.names import ActionKey, Digest, EnvironmentId, EvidenceId, JobId, PlacementId


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthEvidence:
    """That this instance, running this content, answered its checks after the switch.

    `instance` is the runtime's own identity of what was started (container id, process id with start time).
    `checks` are sentences, one per kind of check; `answers` counts the consecutive good ones.
    """

    environment: EnvironmentId
    placement: PlacementId
    key: ActionKey
    instance: str
    artifact: Digest
    configuration: Digest
    started_at: datetime
    switched_at: datetime
    proven_at: datetime
    checks: tuple[str, ...]
    answers: int

    @property
    def id(self) -> EvidenceId:
        return EvidenceId(digest.of(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRecord:
    """What one action did on one target: the request and the answer, for the auditor who was not there."""

    environment: EnvironmentId
    job: JobId
    key: ActionKey
    fence: int
    target: str
    attempt: int
    changes: tuple[str, ...]
    result: str
    detail: str
    began_at: datetime
    ended_at: datetime
    evidence: tuple[EvidenceId, ...]

    @property
    def id(self) -> EvidenceId:
        return EvidenceId(digest.of(self))
