"""Long polling: the same frames where no WebSocket passes, numbered both ways, so that none is lost, doubled or moved.

A poll says how far the other side's frames have come, and brings all of its own that are not known to have come. Its
answer does the same. Whatever got lost on the way is therefore in the next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from drivers.agent.protocol import Malformed

if TYPE_CHECKING:
    from pydantic import TypeAdapter

PATH: Final = "/agent/v1/poll"
LONGEST_WAIT: Final = 25.0  # seconds that a server keeps a poll it has nothing for
MOST_KEPT: Final = 4096  # frames that wait for the other side to say that they have come


T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """What the agent asks. `line` is random for each channel. `got` is the number of the last frame that came, `first`
    that of the first of `frames`, and `wait` the longest it will wait for an answer, in seconds."""

    line: str
    got: int
    first: int
    frames: tuple[str, ...] = ()
    wait: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Polled:
    """What the server answers, in the same words."""

    got: int
    first: int
    frames: tuple[str, ...] = ()


class Overrun(Exception):
    """The other side takes none of what waits for it."""


class Line:
    """One side of a channel made of polls: what it has sent and is not known to have come, and how far it has read."""

    __slots__ = ("_first", "_kept", "got")

    def __init__(self) -> None:
        self._kept: deque[str] = deque()
        self._first, self.got = 1, 0

    def put(self, text: str) -> None:
        if len(self._kept) >= MOST_KEPT:
            raise Overrun(f"{MOST_KEPT} frames wait and none is fetched")
        self._kept.append(text)

    def waiting(self, at_most: int) -> tuple[int, tuple[str, ...]]:
        """The number of the first frame that is not known to have come, and as many from there on as have that many
        characters together; one at least."""
        some: list[str] = []
        for text in self._kept:
            at_most -= len(text)
            if some and at_most < 0:
                break
            some.append(text)
        return self._first, tuple(some)

    def has_come(self, number: int) -> None:
        """The other side has everything up to this number. `Malformed` where it was never sent."""
        if number >= self._first + len(self._kept):
            raise Malformed(f"frame {number} is said to have come and was never sent")
        while self._first <= number:
            self._kept.popleft()
            self._first += 1

    def fresh(self, first: int, frames: Sequence[str]) -> Sequence[str]:
        """Of what has come, what has not come before. `Malformed` where one between is missing."""
        if first < 1 or first > self.got + 1:
            raise Malformed(f"the frames begin at {first}, and {self.got} have come before")
        new = frames[self.got + 1 - first :]
        self.got += len(new)
        return new

    def __bool__(self) -> bool:
        return bool(self._kept)


def written(message: Poll | Polled) -> bytes:
    return _adapter(type(message)).dump_json(message)


def read_poll(content: bytes) -> Poll:
    """`Malformed` when it is none."""
    try:
        return _adapter(Poll).validate_json(content)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"no poll: {str(error)[:200]}") from None


def read_polled(content: bytes) -> Polled:
    """`Malformed` when it is none."""
    try:
        return _adapter(Polled).validate_json(content)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"no answer to a poll: {str(error)[:200]}") from None


_adapters: Final[dict[type, Any]] = {}


def _adapter(kind: type[T]) -> TypeAdapter[T]:
    if kind not in _adapters:
        from pydantic import TypeAdapter  # where somebody polls

        _adapters[kind] = TypeAdapter(kind)
    found: TypeAdapter[T] = _adapters[kind]
    return found
