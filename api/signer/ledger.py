"""Everything that was signed or refused, in a chain: each line names the hash of the one before it.

The ledger is the signer's memory too: the sequence of what was signed and the highest fence of each target are what its
lines say. It is kept in files of so many lines; each opens with what the former ones have come to, so that no start
reads them all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from api.signer import appended
from stickers.names import TargetId

LINES: Final = 50_000  # of one file
NOTHING: Final = "0" * 64  # what the first line of all follows


@dataclass(slots=True)
class State:
    """What the lines have come to. `head` is the hash of the last."""

    sequence: int = 0
    fences: dict[TargetId, int] = field(default_factory=dict)
    head: str = NOTHING


class Broken(Exception):
    """A line that does not follow from the one before it; the text says which."""


class Ledger:
    """The files below a directory, which belongs to one process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = _files(directory)
        self._number = int(files[-1].stem) if files else 0
        self.state, self._lines = State(), 0
        if files:
            self._lines = _follow(files[-1], self.state)
        if not self._lines:
            self._open()

    def signed(self, fence: tuple[TargetId, int] | None, said: Mapping[str, Any]) -> int:
        """Keep that a task is signed, on the disk when this returns; its sequence number. `fence` is that of a target
        that is changed."""
        sequence = self.state.sequence + 1
        self._append({**said, "outcome": "signed", "sequence": sequence}, settled=True)
        self.state.sequence = sequence
        if fence is not None:
            self.state.fences[fence[0]] = max(fence[1], self.state.fences.get(fence[0], 0))
        return sequence

    def refused(self, said: Mapping[str, Any]) -> None:
        self._append({**said, "outcome": "refused"}, settled=False)

    def _append(self, said: Mapping[str, Any], *, settled: bool) -> None:
        if self._lines >= LINES:
            self._number += 1
            self._open()
        line = _written({**said, "previous": self.state.head})
        appended.append(self._path, line, settled=settled)
        self.state.head = _hash(line)
        self._lines += 1

    def _open(self) -> None:
        said = {"outcome": "opened", "sequence": self.state.sequence, "fences": dict(self.state.fences)}
        line = _written({**said, "previous": self.state.head})
        self._number = max(1, self._number)
        appended.append(self._path, line)
        self.state.head, self._lines = _hash(line), 1

    @property
    def _path(self) -> Path:
        return self._directory / f"{self._number:08d}.jsonl"


def lines(directory: Path) -> Iterator[Mapping[str, Any]]:
    """Every line, oldest first."""
    for file in _files(directory):
        for line in file.read_text().splitlines():
            yield json.loads(line)


def verified(directory: Path) -> tuple[int, State]:
    """How many lines there are, and what they have come to. Raises `Broken`."""
    state, count = State(), 0
    for file in _files(directory):
        count += _follow(file, state, whole=True)
    return count, state


def _follow(file: Path, state: State, *, whole: bool = False) -> int:
    """Take the file's lines. `whole`: its first follows from the former file's last; else it is believed."""
    found = appended.whole_lines(file) if not whole else file.read_text().splitlines()
    for number, line in enumerate(found, 1):
        try:
            said = json.loads(line)
            opens = said["outcome"] == "opened"
            _take(said, state, believed=opens and not whole)
        except (ValueError, KeyError, TypeError) as error:
            raise Broken(f"{file.name}:{number}: {error}") from None
        state.head = _hash(line)
    return len(found)


def _take(said: Mapping[str, Any], state: State, *, believed: bool) -> None:
    if believed:
        state.sequence, state.fences = said["sequence"], {TargetId(id): fence for id, fence in said["fences"].items()}
        return
    if said["previous"] != state.head:
        raise ValueError("it does not follow from the line before it")
    if said["outcome"] == "opened" and (said["sequence"], said["fences"]) != (state.sequence, state.fences):
        raise ValueError("it opens with what the lines before it do not come to")
    if said["outcome"] == "signed":
        if said["sequence"] != state.sequence + 1:
            raise ValueError(f"sequence {said['sequence']} after {state.sequence}")
        state.sequence = said["sequence"]
        if said["fenced"]:
            target = TargetId(said["target"])
            state.fences[target] = max(said["fence"], state.fences.get(target, 0))


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.jsonl") if path.stem.isdigit())


def _written(said: Mapping[str, Any]) -> str:
    return json.dumps(said, sort_keys=True, separators=(",", ":"))


def _hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()
