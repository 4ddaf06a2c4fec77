"""Looking at compose projects: containers as the engine shows them, with what is recorded of them beside.

The engine is asked once for all targets that stand on it. Of a file only what has changed is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from drivers.compose.folder import Folder, Record
from drivers.compose.hands import with_record
from stickers.names import LIVE, ComponentName, InvalidName, SlotName, name
from stickers.observation import Observation, Standing, Worn

T = TypeVar("T")
Mark = tuple[int, int, int]  # of a file: another one after each rename


class Shelf:
    """The services of one project as their files tell of them, remembered between looks."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._records: dict[str, tuple[Mark, Record]] = {}
        self._worn: dict[str, tuple[Mark, Worn | None]] = {}

    def read(self) -> dict[str, tuple[Record, Worn | None]]:
        services = self.folder.services()
        self._records = {name: self._records[name] for name in services if name in self._records}
        self._worn = {name: self._worn[name] for name in services if name in self._worn}
        return {service: (self._record(service), self._sticker(service)) for service in services}

    def _record(self, service: str) -> Record:
        mark = self.folder.mark(service, "record.json")
        return _remembered(self._records, service, mark, lambda: self.folder.record(service))

    def _sticker(self, service: str) -> Worn | None:
        mark = self.folder.mark(service, "sticker.json")
        return _remembered(self._worn, service, mark, lambda: self.folder.worn(service))


def _remembered(known: dict[str, tuple[Mark, T]], service: str, mark: Mark, read: Callable[[], T]) -> T:
    if service not in known or known[service][0] != mark:
        known[service] = mark, read()
    return known[service][1]


def whole(seen: Observation, told: dict[str, tuple[Record, Worn | None]]) -> Observation:
    """What the engine shows of a target, with what its files tell of it."""
    standings = {(one.component, one.slot): one for one in seen.standings}
    found = dict(_standings(standings, told))
    return replace(seen, standings=tuple(found[key] for key in sorted(found)))


def _standings(
    shown: dict[tuple[ComponentName, SlotName], Standing], told: dict[str, tuple[Record, Worn | None]]
) -> Iterator[tuple[tuple[ComponentName, SlotName], Standing]]:
    for key, standing in shown.items():
        yield key, with_record(standing, Record(), None)
    for service, (record, worn) in told.items():
        found = _parts(service)
        if found is None:
            continue
        standing = shown.get(found) or Standing(component=found[0], slot=found[1], worn=None, workload=None)
        if standing.workload or worn or record.piece:
            yield found, with_record(standing, record, worn)


def _parts(service: str) -> tuple[ComponentName, SlotName] | None:
    component, dot, slot = service.partition(".")
    try:
        return ComponentName(name(component)), SlotName(name(slot)) if dot else LIVE
    except InvalidName:
        return None
