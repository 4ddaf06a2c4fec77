"""What there is to tell of one environment, from what the store says of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from api.notices.declared import After, Kind
from reconciler.core.drift import Verdict
from reconciler.core.machine import JobState
from reconciler.store.notices import DISTRUSTED, Locked, Notice, Off
from stickers.names import EnvironmentId

ENDED: Final = {JobState.FAILED: Kind.FAILED, JobState.ROLLED_BACK: Kind.ROLLED_BACK}


def notices(
    environment: EnvironmentId,
    off: Sequence[Off],
    ended: tuple[str, JobState, str, datetime] | None,
    locked: Sequence[Locked],
    after: After,
    now: datetime,
) -> tuple[Notice, ...]:
    """One for each kind of trouble, however many placements are in it; one for the last job, where it did not go well;
    and one for each agent that is locked. What has not lasted long enough yet is left out."""

    def notice(kind: Kind, message: str, subject: str = "") -> Notice:
        return Notice(environment=environment, kind=kind.value, subject=subject, message=message)

    found: list[Notice] = []
    unknown = [one for one in off if one.verdict is Verdict.UNKNOWN and now - one.since >= after.unknown]
    drifted = [
        one for one in off if one.verdict not in (Verdict.UNKNOWN, Verdict.IN_SYNC) and now - one.since >= after.drift
    ]
    distrusted = [one for one in off if one.trust in DISTRUSTED]
    if drifted:
        found.append(notice(Kind.DRIFT, f"{_counted(drifted)}; the longest since {_moment(drifted)}"))
    if unknown:
        found.append(notice(Kind.UNKNOWN, f"{_counted(unknown)}; the longest since {_moment(unknown)}"))
    if distrusted:
        trusts = ", ".join(sorted({one.trust.value for one in distrusted}))
        count = sum(one.count for one in distrusted)
        found.append(notice(Kind.DISTRUST, f"{count} stickers are {trusts}, such as at {distrusted[0].example}"))
    if ended is not None and ended[1] in ENDED:
        found.append(notice(ENDED[ended[1]], ended[2] or f"the job ended {ended[1].value}", ended[0]))
    found += [notice(Kind.LOCKED, f"agent {one.agent} is locked: {one.reason}", one.agent) for one in locked]
    return tuple(found)


def _counted(off: Sequence[Off]) -> str:
    by_verdict: dict[str, int] = {}
    for one in off:
        by_verdict[one.verdict.value] = by_verdict.get(one.verdict.value, 0) + one.count
    said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(by_verdict.items()))
    return f"{said}, such as {off[0].example}"


def _moment(off: Sequence[Off]) -> str:
    return f"{min(one.since for one in off):%Y-%m-%d %H:%M:%S} UTC"
