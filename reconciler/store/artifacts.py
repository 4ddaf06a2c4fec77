"""Rendered files of jobs: kept once when a job is prepared, never changed, each body by the digest of its bytes.

A file is kept with every placement it was rendered from, so that what was proven with a placement is found by the
placement's content, long after its job.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, select

from desired_state.model import Placement
from drivers.contract import Rendered, RenderedKind
from reconciler.store import contents, leases
from reconciler.store.contents import Kind
from reconciler.store.records import Direction, Job, KeptFile, Lease
from reconciler.store.statements import insert, insert_all
from reconciler.store.tables import artifact as table
from stickers.names import ComponentName, Digest, EnvironmentId, JobId, PlacementId, SlotName, TargetId

WHOLE: Final = ""  # stands for no target, no component and no slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The files of one target, and the placements they were rendered from; of the job as a whole without a target."""

    target: TargetId | None
    files: tuple[Rendered, ...]
    placements: Mapping[PlacementId, Placement]


def keep(c: Connection, job: Job, direction: Direction, batches: Sequence[Batch], lease: Lease, now: datetime) -> None:
    """Keep the files of one direction of the job. What is kept already stays as it is: a turn may be repeated."""
    leases.hold(c, lease, job.environment)
    files = [each for batch in batches for each in batch.files]
    digests = dict(zip(map(id, files), contents.keep_texts(c, (each.text for each in files), now), strict=True))
    wanted = {of: placed for batch in batches for of, placed in batch.placements.items()}
    placements = dict(zip(wanted, contents.keep(c, Kind.PLACEMENT, wanted.values(), now), strict=True))
    about = {"environment": job.environment, "job": job.id, "direction": direction.value, "kept_at": now}
    rows = [
        about | _file(batch.target, each, digests[id(each)]) | where
        for batch in batches
        for each in batch.files
        for where in _places(each, wanted, placements)
    ]
    offered = insert(c, table)
    insert_all(c, offered.on_conflict_do_nothing(index_elements=[one.name for one in table.primary_key]), rows)


def _file(target: TargetId | None, file: Rendered, digest: Digest) -> dict[str, Any]:
    return {
        "target": target or WHOLE,
        "name": file.name,
        "kind": file.kind.value,
        "media_type": file.media_type,
        "content": digest,
    }


def _places(
    file: Rendered, wanted: Mapping[PlacementId, Placement], kept: Mapping[PlacementId, Digest]
) -> Iterable[dict[str, Any]]:
    """A row for every placement it was rendered from; one for none."""
    nowhere = {"component": WHOLE, "slot": WHOLE, "artifact": None, "configuration": None, "placement": None}
    if not file.of:
        return [nowhere]
    return [
        {
            "component": id.component,
            "slot": id.slot,
            "artifact": wanted[id].artifact.digest,
            "configuration": wanted[id].configuration_digest,
            "placement": kept[id],
        }
        for id in file.of
    ]


def of_job(c: Connection, job: JobId) -> tuple[KeptFile, ...]:
    """Every file of the job, by direction, target and name."""
    query = select(table).where(table.c.job == job)
    found: dict[tuple[str, str, str], list[Row[Any]]] = {}
    for row in c.execute(query.order_by(table.c.target, table.c.name, table.c.component)):
        found.setdefault((row.direction, row.target, row.name), []).append(row)
    order = {Direction.FORWARD: 0, Direction.BACK: 1}
    return tuple(_kept(found[key]) for key in sorted(found, key=lambda key: (order[Direction(key[0])], *key[1:])))


def texts(c: Connection, files: Iterable[KeptFile]) -> Mapping[Digest, str]:
    """What they say, by digest."""
    return contents.texts(c, [file.digest for file in files])


def of_action(
    c: Connection, job: JobId, direction: Direction, target: TargetId, kinds: Collection[RenderedKind]
) -> tuple[Rendered, ...]:
    """What the job deploys on the target as it was kept."""
    where = (table.c.job == job, table.c.direction == direction, table.c.target == target)
    query = select(table).where(*where, table.c.kind.in_(sorted(kinds)))
    return _read(c, c.execute(query.order_by(table.c.name, table.c.component)).all())


def latest(
    c: Connection, environment: EnvironmentId, placements: Iterable[Placement], kinds: Collection[RenderedKind]
) -> tuple[Rendered, ...]:
    """The last files that were kept of placements with the content of these, each file said to be of these alone."""
    wanted = {placement.id: placement for placement in placements}
    targets = sorted({id.target for id in wanted})
    found: dict[tuple[PlacementId, str], Row[Any]] = {}
    for start in range(0, len(targets), contents.CHUNK):
        some = table.c.target.in_(targets[start : start + contents.CHUNK])
        query = select(table).where(table.c.environment == environment, some, table.c.kind.in_(sorted(kinds)))
        for row in c.execute(query.order_by(table.c.kept_at)):
            placement = wanted.get(id := _id(row))
            if placement is not None and placement.content == (row.artifact, row.configuration):
                found[id, row.kind] = row
    return _read(c, list(found.values()))


def _read(c: Connection, rows: Sequence[Row[Any]]) -> tuple[Rendered, ...]:
    texts = contents.texts(c, [Digest(row.content) for row in rows])
    files: dict[tuple[str, str, str], list[Row[Any]]] = {}
    for row in rows:
        files.setdefault((row.target, row.name, row.content), []).append(row)
    return tuple(
        Rendered(
            kind=RenderedKind(rows[0].kind),
            name=rows[0].name,
            media_type=rows[0].media_type,
            text=texts[Digest(rows[0].content)],
            of=tuple(_id(row) for row in rows if row.component != WHOLE),
        )
        for rows in files.values()
    )


def _id(row: Row[Any]) -> PlacementId:
    return PlacementId(TargetId(row.target), ComponentName(row.component), SlotName(row.slot))


def _kept(rows: Sequence[Row[Any]]) -> KeptFile:
    first = rows[0]
    return KeptFile(
        job=JobId(first.job),
        direction=Direction(first.direction),
        target=TargetId(first.target) if first.target != WHOLE else None,
        components=tuple(ComponentName(row.component) for row in rows if row.component != WHOLE),
        name=first.name,
        kind=RenderedKind(first.kind),
        media_type=first.media_type,
        digest=Digest(first.content),
        kept_at=first.kept_at,
    )
