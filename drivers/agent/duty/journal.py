"""What an agent must not forget, as files in its state directory, each whole or not there at all.

    lock                 who lives here: one agent, and no other
    tasks/               accepted and not yet answered: envelope and body; never a secret
    results/             answers that no server has acknowledged
    answered/            answers that one has, kept a while for whoever asks again
    orders/              how each target is to be looked at
    proven/              what was last authorised and proven, by target
    holds/               grants to hold that, by target
    fences.json          the highest fence of each target
    sequence.json        results are numbered below this
    welcome.json         what a server last said of us
    trust.json           which keys may authorise from now on, and until when
    aside/               entries that could not be read

A file is written beside its place, synced, renamed, and its directory synced. Where there is no room, `Full` is raised
and nothing has changed.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from desired_state.model import Placement, Target
from drivers.agent import protocol
from drivers.agent.duty.clock import Moment, Span
from drivers.agent.protocol import Answer, Code, Task, Verb, Welcome
from drivers.process import host as files
from stickers import digest
from stickers.names import ActionKey, Digest, EnvironmentId, JobId, TargetId
from stickers.signature import Envelope, SignatureError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FORMAT: Final = "holdfast.agent-journal/v1"
LARGEST: Final = 8 * 1024 * 1024  # bytes of an entry; a frame of either way stays far below, escaped twice
ANSWERED: Final = 256  # answers that are kept after they were acknowledged
ANSWERED_FOR: Final = 7 * 24 * 3600.0  # seconds
NUMBERS: Final = 1000  # of results, reserved by one write

T = TypeVar("T")
One = TypeVar("One")
_log: Final = logging.getLogger("holdfast.agent")


class Full(Exception):
    """No room, or none that can be written to; nothing was changed. The text names the path."""


class Taken(Exception):
    """Another agent lives in the directory."""


class State(StrEnum):
    ACCEPTED = "accepted"
    BEGUN = "begun"  # something may have been changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A task that will be answered. `due` is when it must have begun; `others` are later authorisations of the same
    key, to be answered with it."""

    envelope: Envelope
    body: str
    due: Moment
    state: State = State.ACCEPTED
    others: tuple[Envelope, ...] = ()

    @property
    def task(self) -> Task:
        return _task(self.envelope)

    @property
    def tasks(self) -> tuple[Task, ...]:
        return (self.task, *map(_task, self.others))


@lru_cache(maxsize=256)
def _task(envelope: Envelope) -> Task:
    """What was believed when it was accepted."""
    return protocol.unverified_task(envelope)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An answer, and which task it is to."""

    id: str
    key: ActionKey
    verb: Verb
    content: Digest  # of the task's body
    code: Code
    answer: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """As `Kept`, without what is large."""

    id: str
    key: ActionKey
    verb: Verb
    content: Digest
    code: Code
    acknowledged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """An order that stands, with the authorisation it came by."""

    envelope: Envelope
    body: str


@dataclass(frozen=True, kw_only=True)
class Proven:
    """What was last authorised and proven on a target, and for which job."""

    target: Target
    environment: EnvironmentId
    job: JobId
    revision: str
    placements: tuple[Placement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A hold: the task it was granted by, and how much of it is left."""

    id: str
    target: TargetId
    environment: EnvironmentId
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """A key of the signer beside those the join told; `until` None: it is the one in force."""

    public: str  # hex
    until: Span | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusts:
    """`pinned`: how long those are still believed that the join told; None: as long as nothing takes their place."""

    keys: tuple[Trusted, ...] = ()
    pinned: Span | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fences:
    highest: Mapping[TargetId, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Numbers:
    below: int = 1


class Journal:
    """The state directory, for this process alone until `close`."""

    def __init__(self, folder: Path, *, wall: Any = time.time) -> None:
        self.folder, self._wall = folder, wall
        self._writing = threading.RLock()  # who reads meanwhile sees what was there before, or after
        _make(folder)
        self._lock = _locked(folder / "lock")
        self._tasks = _Shelf(folder, "tasks", Entry)
        self._results = _Shelf(folder, "results", Kept)
        self._answered = _Shelf(folder, "answered", Kept)
        self._orders = _Shelf(folder, "orders", Standing)
        self._proven = _Shelf(folder, "proven", Proven)
        self._holds = _Shelf(folder, "holds", Grant)
        self._single = _Shelf(folder, ".", object)
        self._read()

    def _read(self) -> None:
        self._open: Mapping[str, Entry] = {entry.task.id: entry for _, entry in self._tasks.all()}
        self.known: Mapping[str, Known] = {kept.id: _known(kept, acknowledged=True) for _, kept in self._answered.all()}
        waiting = {kept.id: _known(kept, acknowledged=False) for _, kept in self._results.all()}
        self.known = {**self.known, **waiting}
        for entry in list(self._open.values()):
            if all(task.id in self.known for task in entry.tasks):  # answered, and then the power went
                self._forget_task(entry)
        self._fences = dict((self._one("fences", _Fences) or _Fences()).highest)
        self._number = self._below = (self._one("sequence", _Numbers) or _Numbers()).below
        self.orders: Mapping[TargetId, Standing] = {
            order_of.target: standing for order_of, standing in self._standing()
        }
        self.proven: Mapping[TargetId, Proven] = {one.target.id: one for _, one in self._proven.all()}
        self.holds: Mapping[TargetId, Grant] = {grant.target: grant for _, grant in self._holds.all()}

    def _standing(self) -> Iterator[tuple[Task, Standing]]:
        for _, standing in self._orders.all():
            yield protocol.unverified_task(standing.envelope), standing

    def close(self) -> None:
        os.close(self._lock)

    # -- tasks -------------------------------------------------------------------------------------------------------

    @property
    def unfinished(self) -> Mapping[str, Entry]:
        """By the id of the authorisation that came first, in the order in which they were accepted."""
        return self._open

    def accept(self, entry: Entry) -> None:
        """The fence first: from now on nothing below it is done on the target."""
        task = entry.task
        with self._writing:
            self.raise_fence(task.target, task.fence)
            self._tasks.put(task.id, entry)
            self._open = {**self._open, task.id: entry}

    def begin(self, id: str) -> Entry:
        return self._change(id, state=State.BEGUN)

    def attach(self, id: str, envelope: Envelope) -> Entry:
        """Another authorisation of the task that is under way."""
        task = protocol.unverified_task(envelope)
        with self._writing:
            self.raise_fence(task.target, task.fence)
            return self._change(id, others=(*self._open[id].others, envelope))

    def _change(self, id: str, **fields: Any) -> Entry:
        with self._writing:
            entry = replace(self._open[id], **fields)
            self._tasks.put(id, entry)
            self._open = {**self._open, id: entry}
            return entry

    def finish(self, id: str, answers: Sequence[Kept]) -> None:
        """The answers are kept before the task is forgotten."""
        with self._writing:
            for kept in answers:
                self.keep(kept)
            self._forget_task(self._open[id])

    def _forget_task(self, entry: Entry) -> None:
        self._tasks.take_away(entry.task.id)
        self._open = {id: one for id, one in self._open.items() if id != entry.task.id}

    # -- answers -----------------------------------------------------------------------------------------------------

    def keep(self, kept: Kept) -> None:
        """An answer, until somebody acknowledges it."""
        with self._writing:
            self._results.put(kept.id, kept)
            self.known = {**self.known, kept.id: _known(kept, acknowledged=False)}

    def answer(self, id: str) -> Answer | None:
        """The answer that was given; None when it cannot be read any more."""
        kept = self._results.get(id) or self._answered.get(id)
        return kept.answer if kept else None

    def unacknowledged(self) -> tuple[str, ...]:
        return tuple(known.id for known in self.known.values() if not known.acknowledged)

    def acknowledge(self, id: str) -> None:
        with self._writing:
            known = self.known.get(id)
            if known is None or known.acknowledged:
                return
            self._results.move(id, self._answered)
            self.known = {**self.known, id: replace(known, acknowledged=True)}
            self._collect()

    def _collect(self) -> None:
        """Let go of the oldest answers that were acknowledged."""
        found = self._answered.ages(self._wall())
        for name in [name for name, age in found if age > ANSWERED_FOR] + [name for name, _ in found[ANSWERED:]]:
            self._answered.take_away_file(name)
        left = {name for name, _ in self._answered.ages(self._wall())}
        self.known = {id: one for id, one in self.known.items() if not one.acknowledged or _name(id) in left}

    def number(self) -> int:
        """The next result's. They are reserved long before they are needed, so that a full disk keeps none back."""
        with self._writing:
            self._number += 1
            if self._number + NUMBERS // 2 >= self._below:
                try:
                    self._put_one("sequence", _Numbers(below=self._number + NUMBERS))
                    self._below = self._number + NUMBERS
                except Full as error:
                    _log.error("numbers of results cannot be reserved: %s", error)
            return self._number

    # -- fences, orders, what is proven ------------------------------------------------------------------------------

    def fence(self, target: TargetId) -> int:
        return self._fences.get(target, 0)

    def raise_fence(self, target: TargetId, fence: int) -> None:
        with self._writing:
            if fence > self.fence(target):
                highest = {**self._fences, target: fence}
                self._put_one("fences", _Fences(highest=highest))
                self._fences = highest

    def order(self, target: TargetId, standing: Standing) -> None:
        self._orders.put(target, standing)
        self.orders = {**self.orders, target: standing}

    def prove(self, proven: Proven) -> None:
        self._proven.put(proven.target.id, proven)
        self.proven = {**self.proven, proven.target.id: proven}

    def forget_proven(self, target: TargetId) -> None:
        self._proven.take_away(target)
        self.proven = {id: one for id, one in self.proven.items() if id != target}

    def hold(self, grant: Grant) -> None:
        self._holds.put(grant.target, grant)
        self.holds = {**self.holds, grant.target: grant}

    def let_go(self, target: TargetId) -> None:
        self._holds.take_away(target)
        self.holds = {id: grant for id, grant in self.holds.items() if id != target}

    # -- what was told -----------------------------------------------------------------------------------------------

    def welcome(self) -> Welcome | None:
        return self._one("welcome", Welcome)

    def welcomed(self, welcome: Welcome) -> None:
        self._put_one("welcome", welcome)

    def trusts(self) -> Trusts:
        return self._one("trust", Trusts) or Trusts()

    def trust(self, trusts: Trusts) -> None:
        self._put_one("trust", trusts)

    def _one(self, name: str, kind: type[One]) -> One | None:
        found: One | None = self._single.read(self.folder / f"{name}.json", kind)
        return found

    def _put_one(self, name: str, value: object) -> None:
        self._single.write(self.folder / f"{name}.json", value)


class _Shelf(Generic[T]):
    """Entries of one kind in a directory, each in a file that is named by the digest of its id."""

    def __init__(self, folder: Path, name: str, kind: type[T]) -> None:
        self._folder, self._kind, self._aside = folder / name, kind, folder / "aside"
        _make(self._folder)

    def put(self, id: str, value: T) -> None:
        self.write(self._path(id), value)

    def get(self, id: str) -> T | None:
        found: T | None = self.read(self._path(id), self._kind)
        return found

    def all(self) -> Iterator[tuple[str, T]]:
        """The oldest first; what cannot be read is set aside, and the rest goes on."""
        for name, _ in reversed(self.ages(time.time())):
            found = self.read(self._folder / name, self._kind)
            if found is not None:
                yield name, found

    def ages(self, now: float) -> list[tuple[str, float]]:
        """Names of files with their ages, the youngest first."""
        with os.scandir(self._folder) as found:
            entries = [one for one in found if one.name.endswith(".json") and not one.name.startswith(".")]
            ages = [(one.name, one.stat(follow_symlinks=False).st_mtime_ns) for one in entries]
        return [(name, now - at / 1e9) for name, at in sorted(ages, key=lambda one: (-one[1], one[0]))]

    def take_away(self, id: str) -> None:
        self.take_away_file(self._path(id).name)

    def take_away_file(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)
        files.sync_folder(str(self._folder))

    def move(self, id: str, shelf: _Shelf[T]) -> None:
        try:
            os.rename(self._path(id), shelf._path(id))
            files.sync_folder(str(shelf._folder))
            files.sync_folder(str(self._folder))
        except FileNotFoundError:
            return
        except OSError as error:
            raise Full(f"{shelf._folder}: {error.strerror}") from None

    def write(self, path: Path, value: object) -> None:
        text = json.dumps({"format": FORMAT, "entry": _plain(value)}, separators=(",", ":"), sort_keys=True)
        try:
            files.write_file(str(path), text.encode(), 0o600)
        except OSError as error:
            raise Full(f"{path.parent}: {error.strerror}") from None

    def read(self, path: Path, kind: type[Any]) -> Any:
        """None where nothing stands, or nothing that can be read: that is set aside, and said."""
        try:
            content, _ = files.read_file(str(path), LARGEST)
            body = json.loads(content)
            if body["format"] != FORMAT:
                raise ValueError(f"format {str(body['format'])[:40]!r}, this version reads {FORMAT}")
            found = _adapter(kind).validate_python(body["entry"])
            if kind is Entry:
                _ = found.tasks
            return found
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, RecursionError, OSError, SignatureError) as error:
            self._set_aside(path, f"{type(error).__name__}: {str(error)[:200]}")
            return None

    def _set_aside(self, path: Path, why: str) -> None:
        _make(self._aside)
        place = self._aside / f"{path.parent.name}-{path.name}"
        try:
            os.rename(path, place)
        except OSError as error:
            _log.error("the journal's entry %s cannot be read (%s), nor set aside: %s", path, why, error.strerror)
            return
        _log.error("the journal's entry %s cannot be read and is set aside as %s: %s", path, place, why)

    def _path(self, id: str) -> Path:
        return self._folder / _name(id)


def _name(id: str) -> str:
    return digest.of_bytes(id.encode()).removeprefix("sha256:")[:40] + ".json"


def _known(kept: Kept, *, acknowledged: bool) -> Known:
    return Known(
        id=kept.id,
        key=kept.key,
        verb=kept.verb,
        content=kept.content,
        code=kept.code,
        acknowledged=acknowledged,
    )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Full(f"{folder}: {error.strerror}") from None


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise Taken(f"process {holder or 'unknown'} is the agent that lives in {path.parent}") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


_adapters: Final[dict[Any, TypeAdapter[Any]]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _adapters:
        from pydantic import TypeAdapter

        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def _plain(value: object) -> Any:
    return _adapter(type(value)).dump_python(value, mode="json")
