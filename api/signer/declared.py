"""What is declared, read by the signer itself, and everything that it ever saw declared: a file that only grows, so
that the way back is open to what once was.

A line of the file is one reading: `at`, the source and its revision, and the digests of targets and placements that
were new in it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import structlog
from anyio import Lock, to_thread

from api.problem import Problem
from api.repositories import clone
from api.signer import appended
from api.signer.judge import placement_name, target_name
from api.signer.policy import Documents as Where
from desired_state.findings import some
from desired_state.load import load
from desired_state.resolve import Connections, Resolved
from desired_state.secrets import Resolve
from desired_state.sources import declared as declared_sources
from desired_state.sources.base import InForce, Source, SourceUnavailable
from desired_state.sources.directory import Directory
from stickers import digest
from stickers.names import Digest, PlacementId

FILE: Final = "declared.jsonl"
APART: Final = 1.0  # seconds between two readings that somebody's question leads to


class Memory:
    """The file, and what is in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.targets: set[Digest] = set()
        self.placements: set[Digest] = set()
        self.revisions: dict[str, str] = {}
        for line in appended.whole_lines(path):
            self._take(json.loads(line))

    def learn(self, source: str, resolved: Resolved, now: datetime) -> None:
        """What is new in the reading, on the disk before it counts."""
        states = resolved.environments.values()
        targets = {target_name(target) for state in states for target in state.targets} - self.targets
        placements = {placement_name(one) for state in states for one in state.placements} - self.placements
        if not targets and not placements and self.revisions.get(source) == resolved.revision:
            return
        line = {
            "at": digest.instant(now),
            "source": source,
            "revision": resolved.revision,
            "targets": sorted(targets),
            "placements": sorted(placements),
        }
        appended.append(self._path, json.dumps(line, sort_keys=True))
        self._take(line)

    def _take(self, line: Mapping[str, Any]) -> None:
        self.targets.update(line["targets"])
        self.placements.update(line["placements"])
        self.revisions[line["source"]] = line["revision"]


@dataclass(slots=True)
class _Reading:
    """What a source says now. `why`: it could not be read, or errs, and how."""

    standing: dict[str, frozenset[PlacementId]] = field(default_factory=dict)  # by environment
    why: str | None = "not read yet"


class Documents:
    """What the sources say now, and said before."""

    def __init__(
        self, sources: Mapping[str, Source], memory: Memory, connections: Connections, now: Callable[[], datetime]
    ) -> None:
        self._sources, self._memory, self._connections, self._now = sources, memory, connections, now
        self._readings = {name: _Reading() for name in sources}
        self._one = Lock()
        self._read_at = float("-inf")

    def target(self, name: Digest, /) -> bool:
        return name in self._memory.targets

    def placement(self, name: Digest, /) -> bool:
        return name in self._memory.placements

    def is_gone(self, id: PlacementId, environment: str, /) -> bool | None:
        found = [
            reading.standing[environment] for reading in self._readings.values() if environment in reading.standing
        ]
        if found:
            return not any(id in ids for ids in found)
        return None if any(reading.why for reading in self._readings.values()) else True

    @property
    def faults(self) -> Sequence[str]:
        return [f"{name}: {reading.why}" for name, reading in self._readings.items() if reading.why]

    async def again(self) -> bool:
        """Read once more, unless that was just done; whether it was."""
        if time.monotonic() - self._read_at < APART:
            return False
        await self.read()
        return True

    async def read(self) -> None:
        async with self._one:
            for name in self._sources:
                await self._read(name)
            self._read_at = time.monotonic()

    async def _read(self, name: str) -> None:
        reading, before = self._readings[name], self._readings[name].why
        try:
            tree = await self._sources[name].read(InForce(revision=self._memory.revisions.get(name)))
        except SourceUnavailable as error:
            reading.why = str(error)
        else:
            resolved = await to_thread.run_sync(load, tree, self._connections)
            self._memory.learn(name, resolved, self._now())
            reading.standing = {
                id: frozenset(placement.id for placement in state.placements)
                for id, state in resolved.environments.items()
            }
            reading.why = some(map(str, resolved.findings), 3) or None
        if reading.why and reading.why != before:
            structlog.get_logger().warning("documents_err", source=name, reason=reading.why)


def sources(said: Where, place: Path, secret: Resolve) -> Mapping[str, Source]:
    """The sources that the policy names. Clones stand below `place`. What is declared in a database of the server's is
    the server's word, and no source here."""
    if said.directory is not None:
        return {"documents": Directory(Path(said.directory))}
    assert said.sources is not None
    path = Path(said.sources)
    try:
        found = declared_sources.read(path.name, path.read_bytes())
    except OSError as error:
        raise Problem("NO_SOURCES", f"{path}: {error.strerror}") from None
    if found.findings or not found.sources:
        raise Problem("SOURCES_INVALID", f"{path}: {some(map(str, found.findings)) or 'declares no source'}")
    built: dict[str, Source] = {}
    for one in found.sources:
        if one.git is not None:
            folder = f"{one.name}-{digest.short(digest.of(one.git.repository))}"
            built[one.name] = clone(one.git, place / "sources" / folder, secret)
        elif one.directory is not None:
            built[one.name] = Directory(Path(one.directory.path))
        else:
            raise Problem("SOURCES_INVALID", f"{path}: {one.name} is a database: a signer reads directories and git")
    os.makedirs(place, mode=0o700, exist_ok=True)
    return built
