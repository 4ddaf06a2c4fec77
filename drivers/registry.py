"""Which runtimes there are: kind -> driver and connection model, loaded on first use.

Another distribution adds a kind by an entry point of the group `holdfast.drivers`, ``kind = "module:Class"``; the class
carries its connection model as the class attribute `connection`. The built-in kinds cannot be taken over.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from drivers.contract import Capabilities, Driver, Tools, Verified

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from pydantic import BaseModel

GROUP: Final = "holdfast.drivers"


class DriverClass(Protocol):
    """A driver's class: its powers can be read before one is made."""

    kind: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    def __call__(self, tools: Tools) -> Driver: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where a kind's classes are, as ``module:Class``. `connection` None: the driver's class attribute of that name."""

    driver: str
    connection: str | None = None
    origin: str = "holdfast"


BUILT_IN: Final[dict[str, Entry]] = {
    "compose": Entry(driver="drivers.compose.driver:ComposeDriver", connection="drivers.compose.connection:Connection"),
    "docker": Entry(driver="drivers.docker.driver:DockerDriver", connection="drivers.docker.connection:Connection"),
    "ecs": Entry(driver="drivers.ecs.driver:EcsDriver", connection="drivers.ecs.connection:Connection"),
    "memory": Entry(driver="drivers.memory:MemoryDriver", connection="drivers.memory:MemoryConnection"),
    "nomad": Entry(driver="drivers.nomad.driver:NomadDriver", connection="drivers.nomad.connection:Connection"),
    "process": Entry(driver="drivers.process.driver:ProcessDriver", connection="drivers.process.connection:Connection"),
    "script": Entry(driver="drivers.script.driver:ScriptDriver", connection="drivers.script.connection:Connection"),
    "systemd": Entry(driver="drivers.systemd.driver:SystemdDriver", connection="drivers.systemd.connection:Connection"),
    "windows": Entry(driver="drivers.windows.driver:WindowsDriver", connection="drivers.windows.connection:Connection"),
}


class UnknownKind(LookupError):
    """No driver of that kind is installed; the text names the nearest that is."""

    def __init__(self, kind: str, known: tuple[str, ...]) -> None:
        from difflib import get_close_matches

        self.kind, self.known = kind, known
        self.nearest = next(iter(get_close_matches(kind, known, n=1, cutoff=0.5)), None)
        hint = f"; did you mean {self.nearest}?" if self.nearest else ""
        super().__init__(f"no driver of kind {kind[:80]!r} is installed, known are {', '.join(known)}{hint}")


class BrokenDriver(Exception):
    """A driver is declared for the kind and cannot be used; the text says whose it is and why."""


def kinds() -> tuple[str, ...]:
    """Every kind that is installed, in order of name. Nothing of a driver is imported for it."""
    return tuple(sorted({*BUILT_IN, *(point.name for point in _points())}))


def load(kind: str) -> DriverClass:
    """The driver class of the kind, imported now. Raises `UnknownKind` or `BrokenDriver`."""
    entry = _entry(kind)
    found: DriverClass = _imported(kind, entry, entry.driver)
    if getattr(found, "kind", None) != kind:
        raise BrokenDriver(f"{_whose(kind, entry)}: {entry.driver} says its kind is {getattr(found, 'kind', None)!r}")
    if not isinstance(getattr(found, "capabilities", None), Capabilities):
        raise BrokenDriver(f"{_whose(kind, entry)}: {entry.driver} does not say its capabilities")
    return found


def verified(driver: DriverClass) -> Verified | None:
    """What the driver was proven against; None when it does not say."""
    found = getattr(driver, "verified", None)
    return found if isinstance(found, Verified) else None


def origin(kind: str) -> str:
    """The distribution that brings the kind."""
    return _entry(kind).origin


def connection_model(kind: str) -> type[BaseModel]:
    """What a target's `connection` of this kind must keep. No SDK is imported for a built-in kind."""
    from pydantic import BaseModel

    entry = _entry(kind)
    place = entry.connection or f"{entry.driver}.connection"
    found = _imported(kind, entry, place)
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise BrokenDriver(f"{_whose(kind, entry)}: {place} is not a pydantic model")
    return found


def _entry(kind: str) -> Entry:
    if kind in BUILT_IN:
        return BUILT_IN[kind]
    points = [point for point in _points() if point.name == kind]
    if not points:
        raise UnknownKind(kind, kinds())
    entries = [Entry(driver=point.value, origin=point.dist.name if point.dist else "unknown") for point in points]
    if len({entry.driver for entry in entries}) > 1:
        origins = ", ".join(sorted(entry.origin for entry in entries))
        raise BrokenDriver(f"driver {kind!r} is declared more than once, by {origins}: uninstall all but one")
    return entries[0]


def _points() -> tuple[EntryPoint, ...]:
    from importlib.metadata import entry_points  # reads every installed distribution: only where a kind is not ours

    return tuple(entry_points(group=GROUP))


def _imported(kind: str, entry: Entry, place: str):  # type: ignore[no-untyped-def]  # whatever stands at that place
    module, _, attributes = place.partition(":")
    try:
        found = import_module(module.strip())
        for attribute in attributes.strip().split("."):
            found = getattr(found, attribute)
    except Exception as error:  # another's module may fail in any way; one driver must not take the others along
        raise BrokenDriver(f"{_whose(kind, entry)}: {place}: {type(error).__name__}: {error}") from error
    return found


def _whose(kind: str, entry: Entry) -> str:
    return f"driver {kind!r} of {entry.origin} cannot be used"
