"""A document as it was read: plain data that remembers where each part of it stood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from desired_state.findings import Finding, Flaw, Path, path_text

Position = tuple[int, int]  # line and column, from 1


class Map(dict[str, Any]):
    """A map that remembers where each key and each value stood: line and column of the key, then of the value."""

    __slots__ = ("at",)

    def __init__(self) -> None:
        super().__init__()
        self.at: dict[str, tuple[int, int, int, int]] = {}


class Seq(list[Any]):
    """A list that remembers where each item stood."""

    __slots__ = ("at",)

    def __init__(self) -> None:
        super().__init__()
        self.at: list[Position] = []


class Broken:
    """What stands where something was refused: a finding was made, and no other is made of it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "BROKEN"


BROKEN: Final = Broken()


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document of a file. `whole` is False when something in it was refused; what could be read is there then, to
    know which document it is."""

    file: str
    line: int
    column: int
    content: Map
    whole: bool = True

    def value(self, path: Path) -> Any:
        """What stands at the path; None where nothing does."""
        node: Any = self.content
        for step in path:
            node = _child(node, step)
        return node

    def position(self, path: Path, *, key: bool = False) -> Position:
        """Where the value at the path stands (or its key), or the deepest node on the way there."""
        node: Any = self.content
        found = (self.line, self.column)
        for index, step in enumerate(path):
            if isinstance(node, Map) and step in node.at:
                at = node.at[str(step)]
                found = at[:2] if key and index == len(path) - 1 else at[2:]
            elif isinstance(node, Seq) and isinstance(step, int) and step < len(node.at):
                found = node.at[step]
            else:
                break
            node = _child(node, step)
        return found

    def finding(self, flaw: Flaw) -> Finding:
        """The flaw, with where it stands."""
        line, column = self.position(flaw.path, key=flaw.key)
        return Finding(
            code=flaw.code,
            file=self.file,
            line=line,
            column=column,
            path=path_text(flaw.path),
            found=flaw.found,
            expected=flaw.expected,
            nearest=flaw.nearest,
        )

    def has(self, path: Path) -> bool:
        parent, step = self.value(path[:-1]), path[-1]
        return step in parent if isinstance(parent, Map) else isinstance(parent, Seq) and step in range(len(parent))


def _child(node: Any, step: str | int) -> Any:
    if isinstance(node, Map):
        return node.get(str(step))
    if isinstance(node, Seq) and isinstance(step, int) and step < len(node):
        return node[step]
    return None
