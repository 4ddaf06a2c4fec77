"""The files that a job deployed, as they were kept when it was prepared."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from api.commands.given import Given
from api.commands.jobs import found
from api.house import House
from api.problem import Problem
from drivers.contract import RenderedKind
from reconciler.store import artifacts
from reconciler.store.records import KeptFile

Events = AsyncGenerator[dict[str, Any], None]


async def index(house: House, given: Given) -> Events:
    """Every file of the job, or those asked for; with their text where it is asked for."""
    job = await found(house, given.job())
    kept = await house.store.read(lambda c: artifacts.of_job(c, job.id))
    wanted = [file for file in kept if _asked(file, given)]
    if kept and not wanted:
        there = ", ".join(sorted({f"{file.target or job.id} {file.name} ({file.kind})" for file in kept})[:10])
        raise Problem("NO_ARTIFACT", f"{job.id} has no such file; it has {there}")
    whole = given.flag("text")
    texts = await house.store.read(lambda c: artifacts.texts(c, wanted)) if whole else {}
    yield {"result": {"job": job.id, "files": [_file(file, texts.get(file.digest)) for file in wanted]}}


def _asked(file: KeptFile, given: Given) -> bool:
    kind, target, name = given.text_or_none("kind"), given.text_or_none("target"), given.text_or_none("name")
    digest = given.text_or_none("digest")
    if kind is not None and kind not in list(RenderedKind):
        raise Problem("BAD_ARGUMENT", f"{kind[:40]!r} is no kind of file; known are {', '.join(RenderedKind)}")
    return (
        (kind is None or file.kind == kind)
        and (target is None or file.target == given.target(target))
        and (name is None or file.name == name)
        and (digest is None or file.digest == digest)
    )


def _file(file: KeptFile, text: str | None) -> dict[str, Any]:
    about = {
        "target": file.target,
        "components": list(file.components),
        "direction": file.direction,
        "name": file.name,
        "kind": file.kind,
        "media_type": file.media_type,
        "digest": file.digest,
        "kept_at": file.kept_at,
    }
    return about if text is None else about | {"text": text}
