"""What every source gives: a tree of files as one revision, and word that there may be another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from desired_state.findings import Finding


class SourceUnavailable(Exception):
    """The source cannot be read now, or what it says may not be taken. It says nothing of what is desired: what was
    accepted last stays in force. `reason` is one word in PascalCase, stable for programs; `revision` is what was
    refused, where that is known."""

    def __init__(self, message: str, *, reason: str = "SourceUnavailable", revision: str | None = None) -> None:
        super().__init__(message)
        self.reason, self.revision = reason, revision


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What was accepted of the source last. `allowed` is a revision that a person let in although it does not follow
    from that one."""

    revision: str | None = None
    allowed: str | None = None


NOTHING: Final = InForce()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """The files of one revision. `files` maps a relative path to its bytes; `revision` is the source's own identity of
    them; `findings` is what was wrong with files that could not be taken in. `content` tells one set of files from
    another where many revisions have the same; without it, the revision does. `signer` is whose signature was asked
    for and is valid."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    revision: str
    findings: tuple[Finding, ...] = ()
    content: str | None = None
    signer: str | None = None


class Source(Protocol):
    async def read(self, in_force: InForce = NOTHING) -> Tree:
        """The tree as it is now, from one moment. Raises `SourceUnavailable`, also where the source has a history and
        what it says now does not follow from what is in force."""
        ...

    def changes(self) -> AsyncIterator[None]:
        """Yields when the tree may have changed; the first time as soon as changes are seen. Never ends and raises
        nothing: what cannot be watched is looked at now and then."""
        ...
