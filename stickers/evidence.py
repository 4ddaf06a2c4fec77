"""Evidence: signed statements of what was proven and of what was done, kept by id."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Final

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
        return _id(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRecord:
    """What one action did on one target: the request and the answer, for the auditor who was not there. `cut` says what
    of it there was no room for."""

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
    cut: tuple[str, ...] = ()

    @property
    def id(self) -> EvidenceId:
        return _id(self)


@lru_cache(maxsize=256)
def _id(statement: HealthEvidence | ActionRecord) -> EvidenceId:
    """Asked for several times while a statement is made, signed and kept."""
    return EvidenceId(digest.of(statement))


# -- what an envelope has room for ------------------------------------------------------------------------------------

DETAIL: Final = 3 * 1024  # bytes as written; with all that is bounded by its own grammar, an envelope stays readable
RESULT: Final = 512
CHANGES: Final = 4 * 1024
PROOFS: Final = 24


def bounded(record: ActionRecord) -> ActionRecord:
    """The record within the room of an envelope, whatever a driver said; what is left out is named in `cut`."""
    changes = _fitting(record.changes, CHANGES)
    detail, result = _shortened(record.detail, DETAIL), _shortened(record.result, RESULT)
    proofs = record.evidence[:PROOFS]
    cut = (
        _left("detail", "characters", record.detail, detail),
        _left("result", "characters", record.result, result),
        _left("changes", "changes", record.changes, changes),
        _left("evidence", "proofs", record.evidence, proofs),
    )
    return replace(
        record, detail=detail, result=result, changes=changes, evidence=proofs, cut=tuple(one for one in cut if one)
    )


def _left(field: str, what: str, whole: Sequence[object], kept: Sequence[object]) -> str:
    missing = len(whole) - len(kept)
    return f"{field}: {missing} of {len(whole)} {what} left out" if missing else ""


def _fitting(texts: Sequence[str], room: int) -> tuple[str, ...]:
    """As many from the first on as there is room for."""
    kept: list[str] = []
    for text in texts:
        room -= _size(text) + 1
        if room < 0:
            break
        kept.append(text)
    return tuple(kept)


def _shortened(text: str, room: int) -> str:
    """Its beginning, as far as there is room; what no text can hold is replaced by a mark."""
    kept = text.encode("utf-8", "replace").decode()[:room]
    while (size := _size(kept)) > room:
        kept = kept[: len(kept) * room // size]
    return kept


def _size(text: str) -> int:
    """Bytes that it takes in a statement."""
    return len(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace"))
