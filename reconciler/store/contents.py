"""Bodies by digest: domain records as canonical JSON text, kept once, read back as the frozen records they were.

A body is immutable and named by its content, so what was read once is kept decoded for a while.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakValueDictionary

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import Insert

from desired_state.model import DesiredState, Placement, Release, Target
from reconciler.core.intent import Intent, Plan
from reconciler.store import sharing
from reconciler.store.columns import canonical
from reconciler.store.errors import Corrupt, Missing
from reconciler.store.statements import insert_all, inserting
from reconciler.store.tables import content
from stickers import digest
from stickers.names import Digest

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

CHUNK: Final = 500
ROOM: Final = 128 * 1024 * 1024  # characters of bodies that are kept decoded
IDLE: Final = 120.0  # seconds that one is kept which nobody asks for
_adapters: Final[dict[Any, TypeAdapter[Any]]] = {}


class Kind(StrEnum):
    """What a body is; a name that is stored, so it is never reused for another meaning."""

    DESIRED_STATE = "desired_state"
    PLACEMENT = "placement"
    TARGET = "target"
    RELEASE = "release"
    PLAN = "plan"
    FILE = "file"  # as it is, not a record


_TYPES: Final[Mapping[Kind, type[Any]]] = {
    Kind.DESIRED_STATE: DesiredState,
    Kind.PLACEMENT: Placement,
    Kind.TARGET: Target,
    Kind.RELEASE: Release,
    Kind.PLAN: Plan,
}

_SHARED: Final[Mapping[type[Any], Callable[[Any], Any]]] = {
    DesiredState: sharing.of_desired,
    Placement: sharing.of_placement,
    Target: sharing.of_target,
    Intent: sharing.of_intent,
}  # what is held for long, one for each target


def dump(type: type[T], value: T) -> str:
    """The value as canonical text."""
    plain = _adapter(type).dump_python(value, mode="json")
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def text(type: type[T], value: T, without: Mapping[str, Any] | None = None) -> str:
    """The value as JSON for what is only shown, in a tenth of the time; `without` are fields to leave out, and what
    no database can hold is replaced."""
    try:
        return _adapter(type).dump_json(value, exclude=without).decode()
    except ValueError:  # half of a surrogate pair in a text that a host sent
        return canonical(_pruned(digest.plain(value), without or {}))


def _pruned(plain: Any, without: Mapping[str, Any] | Set[str]) -> Any:
    if not isinstance(plain, dict):
        return plain
    inner = without if isinstance(without, Mapping) else dict.fromkeys(without)
    return {name: _pruned(item, inner.get(name) or {}) for name, item in plain.items() if inner.get(name, True)}


def read(type: type[T], body: str) -> T:
    """The value in the text, decoded once while it is remembered; `Corrupt` when it is not of that type."""
    key = (type, blake2b(body.encode(errors="surrogatepass"), digest_size=16).digest())
    found: T | None = _decoded.get(key)
    return _decoded.keep(key, _read(type, body), len(body)) if found is None else found


def keep(c: Connection, kind: Kind, values: Iterable[object], now: datetime) -> list[Digest]:
    """Keep the bodies of the values, those that are not kept yet; their digests in order."""
    bodies = [dump(_TYPES[kind], value) for value in values]
    digests = [digest.of_bytes(body.encode()) for body in bodies]
    rows = [
        {"digest": name, "kind": kind.value, "body": body, "kept_at": now}
        for name, body in dict(zip(digests, bodies, strict=True)).items()
    ]
    if rows:
        c.execute(_offered(c.dialect.name), rows)
    return digests


def keep_texts(c: Connection, texts: Iterable[str], now: datetime) -> list[Digest]:
    """Keep files as they are, those that are not kept yet; their digests in order, which are those of their bytes."""
    wanted = list(texts)
    digests = [digest.of_bytes(text.encode()) for text in wanted]
    rows = [
        {"digest": name, "kind": Kind.FILE.value, "body": text, "kept_at": now}
        for name, text in dict(zip(digests, wanted, strict=True)).items()
    ]
    insert_all(c, _offered(c.dialect.name), rows)
    return digests


def texts(c: Connection, names: Iterable[Digest]) -> Mapping[Digest, str]:
    """Files by digest, held against it; `Missing` names the first that is not kept."""
    wanted, found = list(dict.fromkeys(names)), dict[Digest, str]()
    for start in range(0, len(wanted), CHUNK):
        rows = c.execute(
            select(content.c.digest, content.c.body).where(content.c.digest.in_(wanted[start : start + CHUNK]))
        )
        found |= {Digest(name): _proven(name, body) for name, body in rows}
    if absent := [name for name in wanted if name not in found]:
        raise Missing(f"the {Kind.FILE} {absent[0]} is not kept")
    return found


@cache
def _offered(dialect: str) -> Insert:
    return inserting(dialect, content).on_conflict_do_nothing(index_elements=["digest"])


def load(c: Connection, kind: Kind, name: Digest) -> Any:
    return load_all(c, kind, [name])[name]


def load_all(c: Connection, kind: Kind, names: Iterable[Digest]) -> Mapping[Digest, Any]:
    """The values by digest; those remembered cost no statement. `Missing` names the first that is not kept."""
    wanted = dict.fromkeys(names)
    found = {name: value for name in wanted if (value := _decoded.get((kind, name))) is not None}
    missing = [name for name in wanted if name not in found]
    for start in range(0, len(missing), CHUNK):
        found |= _fetched(c, kind, missing[start : start + CHUNK])
    if absent := [name for name in missing if name not in found]:
        raise Missing(f"the {kind} {absent[0]} is not kept")
    return found


def _fetched(c: Connection, kind: Kind, names: list[Digest]) -> dict[Digest, Any]:
    rows = c.execute(
        select(content.c.digest, content.c.body).where(content.c.digest.in_(names), content.c.kind == kind)
    )
    return {Digest(name): _fresh(kind, name, body) for name, body in rows}


def _fresh(kind: Kind, name: str, body: str) -> Any:
    """Plans are large, and read twice at most."""
    value = _read(_TYPES[kind], _proven(name, body))
    return value if kind is Kind.PLAN else _decoded.keep((kind, name), value, len(body))


def _proven(name: str, body: str) -> str:
    if digest.of_bytes(body.encode()) != name:
        raise Corrupt(f"the body kept as {name} has another digest")
    return body


def _read(type: type[T], body: str) -> T:
    try:
        value: T = _adapter(type).validate_json(body)
        return _SHARED[type](value) if type in _SHARED else value
    except ValueError as error:
        raise Corrupt(f"not a {type.__name__}: {str(error)[:200]}") from None


def _adapter(type: Any) -> TypeAdapter[Any]:
    if type not in _adapters:
        from pydantic import TypeAdapter  # where a body is written or read; a client of the daemon does neither

        _adapters[type] = TypeAdapter(type)
    return _adapters[type]


class _Decoded:
    """Decoded bodies: those asked for of late, within a bound by the length of their text; and what somebody else still
    holds is found as long as that. A large plan, or the last fleet but one, must not be held for good."""

    def __init__(self, room: int, idle: float = IDLE) -> None:
        self._room, self._idle = room, idle
        self._kept: OrderedDict[object, _Kept] = OrderedDict()  # least recently asked for first
        self._alive: WeakValueDictionary[object, Any] = WeakValueDictionary()
        self._lock = threading.Lock()

    def get(self, key: object) -> Any:
        with self._lock:
            now = self._tidied()
            found = self._kept.get(key)
            if found is None:
                return self._alive.get(key)
            found.asked = now
            self._kept.move_to_end(key)
            return found.value

    def keep(self, key: object, value: T, size: int) -> T:
        with self._lock:
            now = self._tidied()
            if key not in self._kept:
                self._kept[key] = _Kept(value, size, now)
                self._room -= size
                if type(value) in _TYPES.values():
                    self._alive[key] = value
            while self._room < 0 and self._kept:
                self._drop_oldest()
        return value

    def _tidied(self) -> float:
        """The moment, when what nobody has asked for of late is gone."""
        now = time.monotonic()
        while self._kept and next(iter(self._kept.values())).asked < now - self._idle:
            self._drop_oldest()
        return now

    def _drop_oldest(self) -> None:
        _, oldest = self._kept.popitem(last=False)
        self._room += oldest.size


@dataclass(slots=True)
class _Kept:
    value: Any
    size: int
    asked: float


_decoded: Final = _Decoded(ROOM)
