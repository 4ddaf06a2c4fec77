"""Taking over what the sources say. A read that failed, was empty or has findings changes nothing: the last accepted
desire stays in force, and the environments' conditions say why. One source's fault is no other's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from desired_state.resolve import Resolved
from desired_state.sources.base import InForce, SourceUnavailable, Tree
from reconciler import events
from reconciler.core.conditions import SourceFault
from reconciler.failpoints import reached
from reconciler.means import Means
from reconciler.sources import Reading
from reconciler.store import environments, releases, sources
from reconciler.store.errors import ReleaseDiffers, Stale
from reconciler.store.records import EnvironmentRow
from reconciler.store.sources import SourceRow
from stickers.names import EnvironmentId

SHOWN: Final = 3  # findings named in a sentence
NOTED: Final = timedelta(minutes=5)  # between two times that an uneventful read is written down

Load = Callable[[Tree], Awaitable[Resolved]]  # what a tree means; seconds of computation for a large one


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a read changed: environments whose desire has a new meaning, and those that nobody declares any more."""

    changed: tuple[EnvironmentId, ...] = ()
    undeclared: tuple[EnvironmentId, ...] = ()


class OwnedTwice(Exception):
    """Two sources declare the same environment, or the same target. The one that had it keeps it."""


async def accept(means: Means, name: str, load: Load) -> Taken:
    """Read the source once and take over what it says, all of it or nothing."""
    reading = means.sources[name]
    before = await means.store.read(lambda c: sources.load(c, name))
    try:
        tree = await reading.followed.source.read(InForce(revision=before.revision, allowed=before.allowed))
    except SourceUnavailable as error:
        return await _kept(means, reading, before, SourceFault(reason=error.reason, message=str(error)), error.revision)
    if _content(tree) == reading.content:
        return await _same(means, reading, before, tree)
    resolved = await load(tree)
    if fault := _fault(resolved, begins=reading.followed.begins_empty and before.revision is None):
        return await _kept(means, reading, before, fault, tree.revision)
    return await _take(means, reading, before, tree, resolved)


async def hear(means: Means) -> None:
    """Of sources that this process has not read itself: what whoever reads them has written down."""
    unread = [reading for reading in means.sources.values() if reading.content is None and not reading.refusals]
    if not unread:
        return
    rows = {row.name: row for row in await means.store.read(sources.all)}
    for name, reading in means.sources.items():
        if reading in unread and (row := rows.get(name)) is not None:
            reading.revision, reading.signer, reading.read_at = row.revision, row.signer, row.read_at
            reading.fault = SourceFault(reason=row.fault, message=row.fault_message or "") if row.fault else None


def _content(tree: Tree) -> str:
    return tree.content or tree.revision


def _fault(resolved: Resolved, *, begins: bool) -> SourceFault | None:
    if resolved.findings:
        shown = "; ".join(str(finding) for finding in resolved.findings[:SHOWN])
        more = f"; and {len(resolved.findings) - SHOWN} more" if len(resolved.findings) > SHOWN else ""
        return SourceFault(reason="DocumentsInvalid", message=f"{len(resolved.findings)} findings: {shown}{more}")
    if not resolved.environments and not (begins and resolved.empty):
        return SourceFault(reason="SourceEmpty", message="the documents declare no environment")
    return None


async def _same(means: Means, reading: Reading, before: SourceRow, tree: Tree) -> Taken:
    """What is in force already; its name may be another, since commits elsewhere give it new ones."""
    now = means.tools.now()
    if tree.revision != before.revision:
        try:
            await means.store.write(lambda c: sources.advance(c, before, tree.revision, signer=tree.signer, now=now))
        except Stale:
            return Taken()
        reading.written_at = now
    elif before.fault is not None or reading.written_at is None or now - reading.written_at > NOTED:
        await means.store.write(lambda c: sources.sound(c, before.name, now))
        reading.written_at = now
    _sound(reading, tree, now)
    return Taken()


async def _take(means: Means, reading: Reading, before: SourceRow, tree: Tree, resolved: Resolved) -> Taken:
    now = means.tools.now()
    reached("before_accept")
    try:
        taken = await means.store.write(lambda c: _written(c, before, tree, resolved, set(means.sources), now))
    except ReleaseDiffers as error:
        fault = SourceFault(reason="ReleaseChanged", message=str(error))
        return await _kept(means, reading, before, fault, tree.revision)
    except OwnedTwice as error:
        fault = SourceFault(reason="OwnedTwice", message=str(error))
        return await _kept(means, reading, before, fault, tree.revision)
    except Stale:
        return Taken()  # somebody else accepted another revision meanwhile; the next read begins from that
    reached("after_accept")
    reading.written_at = now
    _sound(reading, tree, now)
    if taken.changed or taken.undeclared:
        means.tell(
            events.SourceRead(
                source=before.name, revision=tree.revision, changed=taken.changed, undeclared=taken.undeclared
            )
        )
    return taken


def _sound(reading: Reading, tree: Tree, now: datetime) -> None:
    reading.content, reading.revision, reading.signer = _content(tree), tree.revision, tree.signer
    reading.fault, reading.read_at, reading.alarmed, reading.refusals = None, now, False, 0


def _written(
    c: Connection, before: SourceRow, tree: Tree, resolved: Resolved, configured: set[str], now: datetime
) -> Taken:
    rows = environments.all(c)
    _insist_on_owner(c, before.name, resolved, [row for row in rows if _elsewhere(row, before.name, configured)])
    for release in resolved.releases:
        releases.keep(c, release, now)
    accepted = {
        id: environments.accept(c, desired, now=now, source=before.name)
        for id, desired in resolved.environments.items()
    }
    gone = [row.id for row in rows if row.id not in resolved.environments and _is_gone(row, before.name, configured)]
    environments.mark_undeclared(c, gone, now)
    sources.advance(c, before, tree.revision, signer=tree.signer, now=now)
    return Taken(changed=tuple(id for id, each in accepted.items() if each.changed), undeclared=tuple(gone))


def _elsewhere(row: EnvironmentRow, name: str, configured: set[str]) -> bool:
    return row.source != name and row.source in configured and row.undeclared_at is None


def _is_gone(row: EnvironmentRow, name: str, configured: set[str]) -> bool:
    """It was this source's, or that of one that is followed no more."""
    return row.undeclared_at is None and (row.source == name or row.source not in configured)


def _insist_on_owner(c: Connection, name: str, resolved: Resolved, others: list[EnvironmentRow]) -> None:
    for row in others:
        if row.id in resolved.environments:
            raise OwnedTwice(
                f"environment {row.id} is declared by {name} and by {row.source}, which owns it; take it out of one"
            )
    ours = {target.id for desired in resolved.environments.values() for target in desired.targets}
    for row, target in _targets(c, others):
        if target in ours:
            raise OwnedTwice(
                f"target {target} is declared by {name} and, in environment {row.id}, by {row.source}, which owns it"
            )


def _targets(c: Connection, rows: list[EnvironmentRow]) -> Iterator[tuple[EnvironmentRow, str]]:
    for row in rows:
        desired = environments.desired(c, row.id)
        if desired is not None:
            yield from ((row, target.id) for target in desired.targets)


async def _kept(means: Means, reading: Reading, before: SourceRow, fault: SourceFault, revision: str | None) -> Taken:
    """Nothing changes but what is said of the source."""
    now = means.tools.now()
    reading.refusals += 1
    if (before.fault, before.fault_message, before.fault_revision) != (fault.reason, fault.message, revision):
        await means.store.write(lambda c: sources.refused(c, before.name, fault.reason, fault.message, revision, now))
    if reading.fault != fault:
        reading.fault = fault
        means.tell(events.SourceRefused(source=before.name, reason=fault.reason, message=fault.message))
    _alarm(means, before, reading, now)
    return Taken()


def _alarm(means: Means, before: SourceRow, reading: Reading, now: datetime) -> None:
    """Once, when nothing could be taken for longer than may be; a restart does not begin the count anew."""
    reading.read_at = reading.read_at or before.read_at
    if reading.is_stale(now) and not reading.alarmed:
        reading.alarmed = True
        means.tell(events.SourceStale(source=before.name, age=reading.age(now).total_seconds()))
