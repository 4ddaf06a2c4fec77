"""Hooks as declared: a program of the user's own, before a deployment's first change or after its proof.

They run where the daemon runs, or on the target's own host, at least once for each deployment that changes something.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from desired_state.secrets import SecretRef


class OnFailure(StrEnum):
    """What a failing hook after the proof leads to."""

    ROLLBACK = "rollback"
    WARN = "warn"


class Where(StrEnum):
    DAEMON = "daemon"  # the management host
    TARGET = "target"  # the host of the target, as whoever Holdfast is there


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """The argv exits 0 within the deadline. Never a shell line; of the environment it gets what is declared, PATH, and
    what it is about."""

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str | SecretRef], ...] = ()  # sorted by name
    deadline: timedelta = timedelta(seconds=60)
    on_failure: OnFailure = OnFailure.ROLLBACK
    where: Where = Where.DAEMON

    def __str__(self) -> str:
        return " ".join(self.argv)[:60]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """`pre_deploy` runs when the bytes are there and nothing has changed yet: failing, it stops the deployment.
    `post_deploy` runs when the new version serves and is proven, before its sticker says so."""

    pre_deploy: Hook | None = None
    post_deploy: Hook | None = None
