"""What measured numbers mean for a target: disk, clock, Python. Pure; whoever measures is a driver."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from drivers.contract import Diagnosis, Grade

MEBI: Final = 1 << 20
GIBI: Final = 1 << 30
LEAST_FREE: Final = 256 * MEBI  # below, no release can be brought
LITTLE_FREE: Final = 2 * GIBI
LITTLE_SHARE: Final = 0.05  # of the disk, or of its inodes
OLDEST_PYTHON: Final = (3, 8)
FAR_OFF: Final = timedelta(seconds=5)  # times of stickers and evidence mislead beyond it


def ok(about: str, sentence: str) -> Diagnosis:
    return Diagnosis(about=about, grade=Grade.OK, sentence=sentence)


def warning(about: str, sentence: str, remedy: str | None = None) -> Diagnosis:
    return Diagnosis(about=about, grade=Grade.WARNING, sentence=sentence, remedy=remedy)


def missing(about: str, sentence: str, remedy: str | None = None) -> Diagnosis:
    return Diagnosis(about=about, grade=Grade.MISSING, sentence=sentence, remedy=remedy)


def unknown(about: str, sentence: str, remedy: str | None = None) -> Diagnosis:
    return Diagnosis(about=about, grade=Grade.UNKNOWN, sentence=sentence, remedy=remedy)


def disk(where: str, *, free: int, size: int, inodes_free: int = 0, inodes: int = 0) -> Diagnosis:
    """Of the file system that holds `where`, in bytes; `inodes` 0: it does not count them."""
    said = f"{_size(free)} of {_size(size)} are free at {where}"
    if free < LEAST_FREE:
        return missing("disk", said, f"make room: below {_size(LEAST_FREE)} no release can be brought")
    if inodes and inodes_free < inodes * LITTLE_SHARE:
        return warning("disk", f"{said}, and {inodes_free} of {inodes} inodes", "remove small files: inodes run out")
    if free < LITTLE_FREE and free < size * LITTLE_SHARE * 4:
        return warning("disk", said, "make room, or declare a smaller `keep`")
    return ok("disk", said)


def clock(told: datetime, before: datetime, after: datetime) -> Diagnosis:
    """The target's time, told at some moment between two of ours."""
    off = max(before - told, told - after, timedelta(0))
    seconds = off.total_seconds()
    if off <= FAR_OFF:
        return ok("clock", "it agrees with ours" if seconds < 1 else f"it is {seconds:.0f} s from ours")
    side = "behind" if told < before else "ahead of"
    return warning(
        "clock",
        f"it is {seconds:.0f} s {side} ours; times in stickers and histories mislead",
        "keep the time of both hosts with NTP (`timedatectl set-ntp true`)",
    )


def python(where: str, version: Sequence[int]) -> Diagnosis:
    said = f"Python {'.'.join(str(part) for part in version[:3])} at {where}"
    if tuple(version[:2]) < OLDEST_PYTHON:
        oldest = ".".join(str(part) for part in OLDEST_PYTHON)
        return missing("python", f"{said} is too old", f"install Python {oldest} or newer, and name it in `python`")
    return ok("python", said)


def _size(count: int) -> str:
    return f"{count / GIBI:.1f} GiB" if count >= GIBI else f"{count / MEBI:.0f} MiB"
