"""The only arithmetic of trying again. No clock and no chance: time is handed in, jitter is derived from a seed.

Whoever waits for the same thing is given another seed, so that a thousand targets do not come back at once; the same
seed always waits equally long, so that a history can be replayed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from reconciler.core.drift import Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """The longest wait starts at `first`, grows by `factor` with each failure and never exceeds `limit`. After
    `attempts` tries there is no next one; None: there always is."""

    first: timedelta
    factor: int
    limit: timedelta
    attempts: int | None


TASKS: Final = Backoff(first=timedelta(seconds=1), factor=2, limit=timedelta(minutes=1), attempts=5)
TURNS: Final = Backoff(first=timedelta(seconds=1), factor=2, limit=timedelta(minutes=5), attempts=None)
GIVES_UP_AFTER: Final = 5  # heals in a row of what is right and does not serve
HEALS: Final = Backoff(first=timedelta(seconds=10), factor=3, limit=timedelta(minutes=10), attempts=None)
CIRCUIT: Final = Backoff(first=timedelta(seconds=30), factor=2, limit=timedelta(minutes=15), attempts=None)
CIRCUIT_OPENS_AT: Final = 3  # failures in a row
QUIET: Final = timedelta(minutes=10)  # of holding, after which the heals before are forgotten


def next_attempt(attempt: int, policy: Backoff, *, seed: str) -> timedelta | None:
    """How long to wait after the attempt of that number, counted from one, has failed; None: that was the last one.
    Full jitter: anything between nothing and the longest wait, evenly."""
    if policy.attempts is not None and attempt >= policy.attempts:
        return None
    return longest(attempt, policy) * _share(f"{seed}/{attempt}")


def longest(attempt: int, policy: Backoff) -> timedelta:
    """The longest wait after that attempt."""
    steps = min(max(attempt, 1) - 1, 64)  # far beyond any limit, and far below what a span can hold
    seconds = policy.first.total_seconds() * policy.factor**steps
    return timedelta(seconds=min(seconds, policy.limit.total_seconds()))


def circuit(failures: int, *, seed: str, policy: Backoff = CIRCUIT) -> timedelta | None:
    """How long a target is left alone after that many failures in a row; None: it is not."""
    if failures < CIRCUIT_OPENS_AT:
        return None
    return next_attempt(failures - CIRCUIT_OPENS_AT + 1, policy, seed=seed)


def heal_failed(memory: Memory, *, now: datetime, seed: str) -> Memory:
    """The memory after a heal that failed, or that did not hold."""
    attempts = memory.attempts + 1
    wait = next_attempt(attempts, HEALS, seed=seed) or timedelta()
    return replace(memory, attempts=attempts, not_before=now + wait)


def heal_done(memory: Memory, *, now: datetime, seed: str) -> Memory:
    """The memory after a heal that went well; whether it holds is seen later. One alone may mend an accident and holds
    up nothing; those that follow each other wait ever longer, until one has held."""
    wait = next_attempt(memory.attempts, HEALS, seed=seed) if memory.attempts else None
    return replace(memory, attempts=memory.attempts + 1, not_before=now + (wait or timedelta()))


def heal_held(memory: Memory, *, now: datetime) -> Memory:
    """The memory of a placement that is in sync: once it has been quiet for long enough the heals before are
    forgotten. The very same memory while there is nothing to forget."""
    if memory.attempts == 0 and memory.not_before is None:
        return memory
    if memory.not_before is not None and now < memory.not_before + QUIET:
        return memory
    return heal_forgotten(memory)


def heal_forgotten(memory: Memory) -> Memory:
    """The memory without its heals; the very same where there were none."""
    if memory.attempts == 0 and memory.not_before is None:
        return memory
    return replace(memory, attempts=0, not_before=None)


def _share(seed: str) -> float:
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7], "big") / (1 << 56)
