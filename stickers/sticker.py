"""The sticker: what a target claims to wear for one placement.

The claim is compared with what is declared. Everything beside it is signed too, and never compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from stickers import digest
from stickers.names import (
    ActionKey,
    ComponentName,
    Digest,
    EnvironmentId,
    EnvironmentName,
    EvidenceId,
    InstallationId,
    JobId,
    PlacementId,
    ProjectName,
    ReleaseName,
    SlotName,
    TargetName,
    environment_id,
    target_id,
)


class Phase(StrEnum):
    """A sticker is marked in transit before the first change that could make it untrue, and proven after proof."""

    IN_TRANSIT = "in_transit"
    PROVEN = "proven"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What is worn where. `artifact` and `configuration` are the content; a different `release` with the same
    content only rewrites the sticker."""

    installation: InstallationId
    project: ProjectName
    environment: EnvironmentName
    target: TargetName
    component: ComponentName
    slot: SlotName
    release: ReleaseName
    artifact: Digest
    configuration: Digest

    @property
    def placement(self) -> PlacementId:
        return PlacementId(target_id(self.project, self.target), self.component, self.slot)

    @property
    def environment_id(self) -> EnvironmentId:
        return environment_id(self.project, self.environment)

    @property
    def content(self) -> tuple[Digest, Digest]:
        return self.artifact, self.configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class Sticker:
    """A claim, and where it comes from. `sequence` only rises per placement; `previous` is the digest of the
    sticker it replaces; `evidence` names the proof of health and is None only while in transit."""

    claim: Claim
    phase: Phase
    job: JobId
    key: ActionKey
    fence: int
    sequence: int
    previous: Digest | None
    revision: str
    evidence: EvidenceId | None
    written_at: datetime

    @property
    def digest(self) -> Digest:
        return digest.of(self)
