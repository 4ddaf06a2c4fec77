"""The manifest of a job: what it deploys where, by content, and which files that comes to. The same plan gives the same
bytes, and no time is in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from drivers.contract import Change, Deploy, Remove, Rendered, RenderedKind, Restart
from reconciler.core.intent import Wave
from stickers.names import Digest, EnvironmentId, JobId, TargetId

FORMAT: Final = "holdfast.manifest/v1"
NAME: Final = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a manifest speaks of: one direction of a job."""

    job: JobId
    direction: str
    environment: EnvironmentId
    desired: Digest
    revision: str
    plan: str  # its hash


def manifest(subject: Subject, waves: Sequence[Wave], files: Mapping[TargetId, Sequence[Rendered]]) -> Rendered:
    """`files` are those of each target, in any order."""
    whole = {
        "format": FORMAT,
        "job": subject.job,
        "direction": subject.direction,
        "environment": subject.environment,
        "desired": subject.desired,
        "revision": subject.revision,
        "plan": subject.plan,
        "changes": [
            _change(number, change)
            for number, wave in enumerate(waves, 1)
            for intent in wave.intents
            for change in intent.changes
        ],
        "files": list(_files(files)),
    }
    text = json.dumps(whole, indent=2, sort_keys=True, ensure_ascii=True) + "\n"
    return Rendered(kind=RenderedKind.MANIFEST, name=NAME, media_type="application/json", text=text)


def _change(wave: int, change: Change) -> dict[str, Any]:
    id = change.id
    return {
        "wave": wave,
        "target": id.target,
        "component": id.component,
        "slot": id.slot,
        "change": change.verb,
        **_content(change),
    }


def _content(change: Change) -> dict[str, Any]:
    match change:
        case Deploy():
            before = change.predecessor
            replaces = {"release": before.release, "artifact": str(before.artifact)} if before else None
            return _placed(change) | {"predecessor": replaces}
        case Restart():
            return _placed(change)
        case Remove():
            return {"artifact": change.claim.artifact, "configuration": change.claim.configuration}


def _placed(change: Deploy | Restart) -> dict[str, Any]:
    placement = change.placement
    return {
        "release": placement.release,
        "artifact": str(placement.artifact),
        "configuration": placement.configuration_digest,
        "running": placement.running,
    }


def _files(files: Mapping[TargetId, Sequence[Rendered]]) -> Iterator[dict[str, Any]]:
    for target in sorted(files):
        for file in sorted(files[target], key=lambda file: file.name):
            yield {"target": target, "name": file.name, "kind": file.kind, "digest": file.digest}
