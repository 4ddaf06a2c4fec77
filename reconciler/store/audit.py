"""The audit log: who changed what, written in the transaction of the change, and chained so that nothing in it can be
changed, removed, inserted or moved without `fault` naming where.

Each environment has a chain, and the installation has one. An entry's hash covers the hash before it; the keys of the
table let no two entries follow the same one, and the database refuses UPDATE and DELETE. Nothing here is ever archived
or deleted. A chain cut at its end is whole in itself: only a checkpoint that was signed and kept elsewhere tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, bindparam, func, insert, select, tuple_

from reconciler.store import columns
from reconciler.store.records import Page
from reconciler.store.tables import audit as table
from stickers import digest
from stickers.names import Digest, EnvironmentId

INSTALLATION: Final = "installation"  # the chain of what is about no environment; those are named project/name
HOLDFAST: Final = "holdfast"  # the actor of what nobody asked for
PAGE: Final = 50
_LOCKS: Final = 0x61756469  # "audi": the space of the advisory locks, one per chain


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How far a chain reaches: its last entry's number and hash; before the first, zero and the chain's beginning."""

    chain: str
    seq: int
    hash: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One change. `detail` is canonical JSON, as it was hashed."""

    chain: str
    seq: int
    prev: Digest
    hash: Digest
    at: datetime
    actor: str
    action: str
    subject: str
    detail: str

    @property
    def head(self) -> Head:
        return Head(chain=self.chain, seq=self.seq, hash=self.hash)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The first entry of a chain that is not as it was written, and what is wrong there."""

    chain: str
    seq: int
    says: str


def append(
    c: Connection,
    *,
    environment: EnvironmentId | None,
    actor: str,
    action: str,
    subject: str,
    detail: Mapping[str, object],
    now: datetime,
) -> int:
    """One more entry, in the transaction of the change it speaks of; its number. `None` is the installation."""
    chain = environment or INSTALLATION
    _alone(c, chain)
    last = head(c, chain)
    said = {
        "actor": columns.sentence(actor),
        "action": action,
        "subject": columns.sentence(subject),
        "detail": columns.canonical(digest.plain(dict(detail))),
    }
    seq = last.seq + 1
    sealed = seal(chain, seq, last.hash, now, **said)
    c.execute(_APPEND, {"chain": chain, "seq": seq, "prev": last.hash, "hash": sealed, "at": now, **said})
    return seq


def seal(
    chain: str, seq: int, prev: Digest, at: datetime, *, actor: str, action: str, subject: str, detail: str
) -> Digest:
    """The hash of an entry: over all of it, and over the hash before it."""
    return digest.of([chain, seq, prev, at, actor, action, subject, detail])


def beginning(chain: str) -> Head:
    """What the first entry of a chain follows."""
    return Head(chain=chain, seq=0, hash=digest.of(["holdfast.audit/v1", chain]))


def head(c: Connection, chain: str) -> Head:
    row = c.execute(_HEAD, {"chain_is": chain}).first()
    return beginning(chain) if row is None else Head(chain=chain, seq=row.seq, hash=Digest(row.hash))


def chains(c: Connection) -> tuple[str, ...]:
    return tuple(c.execute(select(table.c.chain).distinct().order_by(table.c.chain)).scalars())


def entry(c: Connection, chain: str, seq: int) -> Entry | None:
    row = c.execute(select(table).where(table.c.chain == chain, table.c.seq == seq)).first()
    return None if row is None else _entry(row)


def following(c: Connection, after: Head, limit: int) -> tuple[Entry, ...]:
    """The next entries of a chain, oldest first."""
    query = select(table).where(table.c.chain == after.chain, table.c.seq > after.seq).order_by(table.c.seq)
    return tuple(_entry(row) for row in c.execute(query.limit(limit)))


def page(c: Connection, chain: str | None = None, *, before: str | None = None, limit: int = PAGE) -> Page[Entry]:
    """Newest first, of one chain or of all; `before` is what the page before answered."""
    order = (table.c.at, table.c.chain, table.c.seq) if chain is None else (table.c.seq,)
    query = select(table).order_by(*(column.desc() for column in order)).limit(limit + 1)
    if chain is not None:
        query = query.where(table.c.chain == chain)
    entries = [_entry(row) for row in c.execute(_after(query, chain, before))]
    more = len(entries) > limit
    return Page(items=tuple(entries[:limit]), before=_cursor(entries[limit - 1]) if more else None)


def fault(entries: Iterable[Entry], after: Head) -> Head | Fault:
    """The first entry that does not follow as it was written, or how far the chain reaches when all do."""
    for each in entries:
        if each.seq != after.seq + 1:
            missing = after.seq + 1
            return Fault(chain=each.chain, seq=missing, says=f"entry {missing} is not there, entry {each.seq} is")
        if each.hash != seal(
            each.chain, each.seq, each.prev, each.at,
            actor=each.actor, action=each.action, subject=each.subject, detail=each.detail,
        ):  # fmt: skip
            return Fault(chain=each.chain, seq=each.seq, says="its content is not what was written")
        if each.prev != after.hash:
            return Fault(chain=each.chain, seq=each.seq, says=f"it was not written after entry {after.seq} as it is")
        after = each.head
    return after


def _alone(c: Connection, chain: str) -> None:
    """Whoever appends to the chain next waits for the end of this transaction. The keys refuse a fork in any case; on
    SQLite there is only one writer."""
    if c.dialect.name == "postgresql":
        c.execute(_LOCK, {"chain_is": chain})


def _cursor(entry: Entry) -> str:
    return f"{entry.at.isoformat()} {entry.seq} {entry.chain}"


def _after(query: Select[Any], chain: str | None, before: str | None) -> Select[Any]:
    if before is None:
        return query
    moment, seq, of = before.split(" ", 2)
    if chain is not None:
        return query.where(table.c.seq < int(seq))
    return query.where(tuple_(table.c.at, table.c.chain, table.c.seq) < (datetime.fromisoformat(moment), of, int(seq)))


def _entry(row: Row[Any]) -> Entry:
    return Entry(
        chain=row.chain,
        seq=row.seq,
        prev=Digest(row.prev),
        hash=Digest(row.hash),
        at=row.at,
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        detail=row.detail,
    )


# -- statements that are built once: building one takes longer than carrying it out -----------------------------------

_APPEND: Final = insert(table)
_HEAD: Final = (
    select(table.c.seq, table.c.hash)
    .where(table.c.chain == bindparam("chain_is"))
    .order_by(table.c.seq.desc())
    .limit(1)
)
_LOCK: Final = select(func.pg_advisory_xact_lock(_LOCKS, func.hashtext(bindparam("chain_is"))))
