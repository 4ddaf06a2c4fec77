"""Taking over what the documents say. A read that failed, was empty or has findings changes nothing: the last accepted
desire stays in force, and the environments' conditions say why."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from desired_state.resolve import Resolved
from desired_state.sources.base import Source, SourceUnavailable, Tree
from reconciler import events
from reconciler.core.conditions import SourceFault
from reconciler.failpoints import reached
from reconciler.means import Means
from reconciler.store import environments, releases
from reconciler.store.errors import ReleaseDiffers
from stickers.names import EnvironmentId

SHOWN: Final = 3  # findings named in a sentence

Load = Callable[[Tree], Awaitable[Resolved]]  # what a tree means; seconds of computation for a large one


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a read changed: environments whose desire has a new meaning, and those that nobody declares any more."""

    changed: tuple[EnvironmentId, ...] = ()
    undeclared: tuple[EnvironmentId, ...] = ()


async def accept(means: Means, source: Source, load: Load) -> Taken:
    """Read the source once and take over what it says, all of it or nothing."""
    try:
        tree = await source.read()
    except SourceUnavailable as error:
        return _kept(means, SourceFault(reason="SourceUnavailable", message=str(error)))
    if tree.revision == means.documents.accepted:
        means.documents.fault = None
        return Taken()
    resolved = await load(tree)
    if fault := _fault(resolved):
        return _kept(means, fault)
    return await _take(means, resolved)


def _fault(resolved: Resolved) -> SourceFault | None:
    if resolved.findings:
        shown = "; ".join(str(finding) for finding in resolved.findings[:SHOWN])
        more = f"; and {len(resolved.findings) - SHOWN} more" if len(resolved.findings) > SHOWN else ""
        return SourceFault(reason="DocumentsInvalid", message=f"{len(resolved.findings)} findings: {shown}{more}")
    if not resolved.environments:
        return SourceFault(reason="SourceEmpty", message="the documents declare no environment")
    return None


async def _take(means: Means, resolved: Resolved) -> Taken:
    now = means.tools.now()
    reached("before_accept")
    try:
        taken = await means.store.write(lambda c: _written(c, resolved, now))
    except ReleaseDiffers as error:
        return _kept(means, SourceFault(reason="ReleaseChanged", message=str(error)))
    reached("after_accept")
    means.documents.accepted, means.documents.fault = resolved.revision, None
    if taken.changed or taken.undeclared:
        means.tell(events.SourceRead(revision=resolved.revision, changed=taken.changed, undeclared=taken.undeclared))
    return taken


def _written(c: Connection, resolved: Resolved, now: datetime) -> Taken:
    for release in resolved.releases:
        releases.keep(c, release, now)
    accepted = {id: environments.accept(c, desired, now=now) for id, desired in resolved.environments.items()}
    gone = [row.id for row in environments.all(c) if row.id not in resolved.environments and row.undeclared_at is None]
    environments.mark_undeclared(c, gone, now)
    return Taken(changed=tuple(id for id, each in accepted.items() if each.changed), undeclared=tuple(gone))


def _kept(means: Means, fault: SourceFault) -> Taken:
    """Nothing changes but what is said of the source."""
    if means.documents.fault != fault:
        means.documents.fault = fault
        means.tell(events.SourceRefused(reason=fault.reason, message=fault.message))
    return Taken()
