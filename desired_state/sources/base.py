"""What every source gives: a tree of files as one revision, and word that there may be another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from desired_state.findings import Finding


class SourceUnavailable(Exception):
    """The source cannot be read now. It says nothing of what is desired: what was accepted last stays in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """The files of one revision. `files` maps a relative path to its bytes; `revision` is the source's own identity of
    them; `findings` is what was wrong with files that could not be taken in."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    revision: str
    findings: tuple[Finding, ...] = ()


class Source(Protocol):
    async def read(self) -> Tree:
        """The tree as it is now, from one moment. Raises `SourceUnavailable`."""
        ...

    def changes(self) -> AsyncIterator[None]:
        """Yields when the tree may have changed; the first time as soon as changes are seen. Never ends and raises
        nothing: what cannot be watched is looked at now and then."""
        ...
