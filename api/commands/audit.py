"""Commands about the audit log: read it, verify its chains, and export it with signed checkpoints.

A checkpoint says how far a chain reached and by which hash. Kept elsewhere, it is what tells when the end of a chain
was cut off, or a whole chain written anew.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from api.commands.given import Given
from api.house import House
from api.problem import Problem
from reconciler.store import audit, environments
from reconciler.store.audit import Entry, Fault, Head
from stickers import digest
from stickers.names import EnvironmentId
from stickers.signature import Envelope, SignatureError, Statement

Events = AsyncGenerator[dict[str, Any], None]

FORMAT: Final = "holdfast.checkpoint/v1"
BATCH: Final = 1_000  # entries read at a time


async def index(house: House, given: Given) -> Events:
    chain, before, limit = _chain(given), given.text_or_none("before"), given.count("limit", 20, 500)
    await _insist_on(house, chain)
    try:
        page = await house.store.read(lambda c: audit.page(c, chain, before=before, limit=limit))
    except ValueError:
        raise Problem("BAD_ARGUMENT", "before is no cursor; expected what the page before answered") from None
    yield {"result": {"entries": [_row(entry) for entry in page.items], "next": page.before}}


async def verify(house: House, given: Given) -> Events:
    """Every entry of the chains; the first that is not as it was written, of each. Then the checkpoints, if any."""
    checkpoints = [_checkpoint(house, text) for text in given.texts("checkpoints")]
    await _insist_on(house, _chain(given))
    wanted = await _chains(house, given)
    known = frozenset(wanted) | ({each.chain for each in checkpoints} if _chain(given) is None else frozenset())
    verified, faults = [], []
    for chain in sorted(known):
        found = await _verified(house, chain)
        if isinstance(found, Fault):
            faults.append(found)
        else:
            verified.append({"chain": chain, "entries": found.seq, "hash": found.hash})
    compared = [each for each in checkpoints if each.chain in known]
    for each in compared:
        if (fault := await _differs(house, each)) is not None:
            faults.append(fault)
    rows = [{"chain": each.chain, "seq": each.seq, "says": each.says} for each in faults]
    yield {"result": {"ok": not rows, "chains": verified, "faults": rows, "checkpoints": len(compared)}}


async def export(house: House, given: Given) -> Events:
    """Every entry, oldest first, and after those of each chain its checkpoint; with `brief` the checkpoints alone."""
    made = 0
    for chain in await _chains(house, given):
        reached = audit.beginning(chain)
        if given.flag("brief"):
            reached = await house.store.read(partial(audit.head, chain=chain))
        else:
            async for entry in _entries(house, chain):
                reached = entry.head
                yield {"event": {"entry": _row(entry)}}
        yield {"event": {"checkpoint": _sealed(house, reached)}}
        made += 1
    yield {"result": {"checkpoints": made}}


async def _insist_on(house: House, chain: str | None) -> None:
    """`NO_ENVIRONMENT` for one that there never was: it has no log, and an empty one would say that all is well."""
    if chain is None:
        return
    environment = EnvironmentId(chain)
    known = await house.store.read(lambda c: environments.load(c, environment) or audit.head(c, chain).seq)
    if not known:
        raise Problem("NO_ENVIRONMENT", f"there is no environment {environment}; `holdfast status` lists them")


async def _chains(house: House, given: Given) -> tuple[str, ...]:
    chain = _chain(given)
    return (chain,) if chain is not None else await house.store.read(audit.chains)


def _chain(given: Given) -> str | None:
    return given.environment_or_none()


async def _entries(house: House, chain: str) -> AsyncIterator[Entry]:
    reached = audit.beginning(chain)
    while entries := await house.store.read(partial(audit.following, after=reached, limit=BATCH)):
        for entry in entries:
            yield entry
        reached = entries[-1].head


async def _verified(house: House, chain: str) -> Head | Fault:
    reached = audit.beginning(chain)
    while entries := await house.store.read(partial(audit.following, after=reached, limit=BATCH)):
        found = audit.fault(entries, reached)
        if isinstance(found, Fault):
            return found
        reached = found
    return reached


# -- checkpoints ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checkpoint:
    """A chain as it was once signed to be."""

    chain: str
    seq: int
    hash: str
    at: str


async def _differs(house: House, said: _Checkpoint) -> Fault | None:
    """What is wrong with the chain, held against the checkpoint."""
    entry = await house.store.read(partial(audit.entry, chain=said.chain, seq=said.seq))
    if entry is None and said.seq > 0:
        last = await house.store.read(partial(audit.head, chain=said.chain))
        cut = f"the chain ends here, and on {said.at} it reached entry {said.seq}"
        return Fault(chain=said.chain, seq=last.seq + 1, says=cut)
    if entry is not None and entry.hash != said.hash:
        return Fault(chain=said.chain, seq=said.seq, says=f"it is not the one that was signed on {said.at}")
    return None


def _sealed(house: House, reached: Head) -> Envelope:
    record = {
        "format": FORMAT,
        "installation": house.installation,
        "chain": reached.chain,
        "seq": reached.seq,
        "hash": reached.hash,
        "at": house.now(),
    }
    try:
        return house.sign(Statement.CHECKPOINT, EnvironmentId(reached.chain), record)
    except SignatureError as error:
        raise Problem("KEYS_LIMITED", f"{error}; `holdfast keys rotate` makes one that may") from None


def _checkpoint(house: House, text: str) -> _Checkpoint:
    """What an envelope says, if this installation signed it."""
    try:
        payload = house.keyring.payload(Envelope(text), Statement.CHECKPOINT, _subject)
        said = json.loads(payload)
        if said["format"] != FORMAT or said["installation"] != house.installation:
            raise ValueError("of another installation or format")
        return _Checkpoint(chain=str(said["chain"]), seq=int(said["seq"]), hash=str(said["hash"]), at=str(said["at"]))
    except (SignatureError, ValueError, KeyError, TypeError) as error:
        raise Problem("BAD_CHECKPOINT", f"a checkpoint is not to be believed: {error}") from None


def _subject(payload: bytes) -> EnvironmentId:
    return EnvironmentId(str(json.loads(payload)["chain"]))


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "chain": entry.chain,
        "seq": entry.seq,
        "at": digest.instant(entry.at),
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "detail": json.loads(entry.detail),
        "prev": entry.prev,
        "hash": entry.hash,
    }
