"""How verdicts, states, times and names look to a person: one symbol, one colour and one word for each, the same on
every page and in the report for mail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from reconciler.core.drift import Verdict
from reconciler.core.machine import JobState, TaskState
from stickers.names import DEFAULT_PROJECT


class Tone(StrEnum):
    """What a colour says. Green is for what was seen and proven, and for nothing else."""

    GOOD = "good"
    MOVING = "moving"
    UNKNOWN = "unknown"
    WARN = "warn"
    BAD = "bad"
    QUIET = "quiet"


@dataclass(frozen=True, slots=True)
class Mark:
    symbol: str
    tone: Tone
    meaning: str


MARKS: Final[Mapping[Verdict, Mark]] = {
    Verdict.UNHEALTHY: Mark("!", Tone.BAD, "runs and does not serve"),
    Verdict.MISSING: Mark("∅", Tone.BAD, "declared, and nothing stands there"),
    Verdict.STOPPED: Mark("■", Tone.BAD, "stands there and does not run"),
    Verdict.LYING: Mark("≠", Tone.BAD, "the sticker says one thing, what runs is another"),
    Verdict.WRONG_ARTIFACT: Mark("✕", Tone.BAD, "runs another artifact than wanted"),
    Verdict.WRONG_CONFIGURATION: Mark("≈", Tone.WARN, "runs the right artifact with another configuration"),
    Verdict.BEHIND: Mark("↓", Tone.WARN, "runs an earlier release than wanted"),
    Verdict.AHEAD: Mark("↑", Tone.WARN, "runs a later release than wanted"),
    Verdict.UNLABELLED: Mark("◇", Tone.WARN, "runs as wanted, but no sticker that can be believed says so"),
    Verdict.FOREIGN: Mark("◆", Tone.WARN, "ours, and declared by nobody any more"),
    Verdict.UNKNOWN: Mark("?", Tone.UNKNOWN, "could not be looked at: neither good nor bad is known"),
    Verdict.IN_TRANSIT: Mark("→", Tone.MOVING, "a change is under way"),
    Verdict.IN_SYNC: Mark("✓", Tone.GOOD, "declared, labelled and running agree, and health is proven"),
    Verdict.UNMANAGED: Mark("·", Tone.QUIET, "not ours: left alone"),
}  # the gravest first
JOB_TONES: Final[Mapping[JobState, Tone]] = {
    JobState.PENDING: Tone.MOVING,
    JobState.PREPARING: Tone.MOVING,
    JobState.RUNNING: Tone.MOVING,
    JobState.PAUSED: Tone.WARN,
    JobState.COMPLETING: Tone.MOVING,
    JobState.ROLLING_BACK: Tone.WARN,
    JobState.COMPLETED: Tone.GOOD,
    JobState.ROLLED_BACK: Tone.BAD,
    JobState.SUPERSEDED: Tone.QUIET,
    JobState.CANCELLED: Tone.QUIET,
    JobState.FAILED: Tone.BAD,
}
TASK_TONES: Final[Mapping[TaskState, Tone]] = {
    TaskState.PENDING: Tone.QUIET,
    TaskState.QUEUED: Tone.QUIET,
    TaskState.DISPATCHED: Tone.MOVING,
    TaskState.RUNNING: Tone.MOVING,
    TaskState.VERIFYING: Tone.MOVING,
    TaskState.RETRYING: Tone.WARN,
    TaskState.LOST: Tone.UNKNOWN,
    TaskState.SUCCEEDED: Tone.GOOD,
    TaskState.SKIPPED: Tone.GOOD,
    TaskState.FAILED: Tone.BAD,
    TaskState.CANCELLED: Tone.QUIET,
}
SYMBOLS: Final[Mapping[Tone, str]] = {
    Tone.GOOD: "✓",
    Tone.MOVING: "→",
    Tone.UNKNOWN: "?",
    Tone.WARN: "▲",
    Tone.BAD: "✕",
    Tone.QUIET: "·",
}
UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def mark(verdict: str) -> Mark:
    return MARKS[Verdict(verdict)]


def job_tone(state: str) -> Tone:
    return JOB_TONES[JobState(state)]


def task_tone(state: str) -> Tone:
    return TASK_TONES[TaskState(state)]


def short(digest: str | None) -> str:
    """Enough of a digest to tell it from others."""
    return (digest or "").removeprefix("sha256:")[:12]


def bare(id: str) -> str:
    """An id without the default project, which nobody has to read."""
    return id.removeprefix(f"{DEFAULT_PROJECT}/")


def moment(at: datetime | None) -> str:
    return "" if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def machine(at: datetime) -> str:
    """For `<time datetime>`."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def span(length: timedelta | float) -> str:
    """`3 min`, `2 h`, one unit and no more."""
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    for unit, letter in UNITS:
        if abs(seconds) >= unit:
            return f"{int(abs(seconds) // unit)} {letter}"
    return "0 s" if seconds <= 0 else "<1 s"


def ago(at: datetime | None, now: datetime) -> str:
    """`3 min ago`, `in 3 min`; empty for none."""
    if at is None:
        return ""
    seconds = (now - at).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"{span(seconds)} ago" if seconds > 0 else f"in {span(seconds)}"
