"""Looking at compose projects: containers as the engine shows them, with what is recorded of them beside.

The engine is asked once for all targets that stand on it. Of a file only what has changed is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from drivers.compose.folder import Record, read_record, read_worn
from drivers.compose.hands import with_record
from stickers.names import LIVE, ComponentName, InvalidName, SlotName, name
from stickers.observation import Observation, Standing, Worn

T = TypeVar("T")
Mark = list[int]  # of a file: another one after each rename


class Shelf:
    """The services of one project as their files tell of them, remembered between looks."""

    def __init__(self) -> None:
        self._records: dict[str, tuple[Mark, Record]] = {}
        self._worn: dict[str, tuple[Mark, Worn | None]] = {}

    @property
    def known(self) -> dict[str, dict[str, Mark]]:
        """The marks of what need not be told again."""
        both = self._records.keys() & self._worn.keys()
        return {
            service: {"record.json": self._records[service][0], "sticker.json": self._worn[service][0]}
            for service in both
        }

    def told(self, services: Mapping[str, Any]) -> dict[str, tuple[Record, Worn | None]]:
        self._records = {
            service: _taken(self._records.get(service), files["record.json"], read_record)
            for service, files in services.items()
        }
        self._worn = {
            service: _taken(self._worn.get(service), files["sticker.json"], read_worn)
            for service, files in services.items()
        }
        return {service: (self._records[service][1], self._worn[service][1]) for service in services}


def _taken(known: tuple[Mark, T] | None, file: Mapping[str, Any], read: Callable[[str | None], T]) -> tuple[Mark, T]:
    if "text" in file:
        return file["mark"], read(file["text"])
    return known or ([], read(None))  # forgotten since it was asked for: told again with the next look


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
