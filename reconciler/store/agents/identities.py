"""Invitations, and the certificates that make an identity: each generation of it used once, and by nobody else."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, and_, delete, select, update

from reconciler.store.agents.changing import alone, current, raised, told
from reconciler.store.agents.reading import by_serial, certificates, targets_of
from reconciler.store.agents.records import (
    SPEAKING,
    Agent,
    Certificate,
    Invite,
    Issue,
    Issued,
    Keys,
    NameInUse,
    Refusal,
    Refused,
    Wanted,
)
from reconciler.store.agents.targets import give, remember
from reconciler.store.audit import HOLDFAST
from reconciler.store.records import AgentState
from reconciler.store.statements import insert
from reconciler.store.tables import agent as table
from reconciler.store.tables import certificate as certificate_table
from reconciler.store.tables import invite as invite_table
from stickers.names import AgentName, TargetId

GRACE: Final = timedelta(minutes=5)  # that a generation counts after the next one was first used

KEPT: Final = timedelta(days=7)  # that what has ended is kept, for whoever wonders


def invite(
    c: Connection, invite: Invite, targets: Iterable[TargetId], granted: Iterable[str], *, shared: bool = False
) -> Agent:
    """Keep the name for whoever has the token, and bind the targets to it. Of several invitations the last one counts.
    `AGENT_LOCKED` for a name that is locked, `TARGET_TAKEN` for a target that another agent serves alone."""
    name, now = invite.agent, invite.created_at
    alone(c)
    c.execute(insert(c, table).values(_new(invite)).on_conflict_do_nothing())
    before = current(c, name)
    if before.state is AgentState.LOCKED:
        raise NameInUse(f"agent {name} is locked ({before.reason}); `holdfast agent unlock {name}` comes first")
    state = before.state if before.state in SPEAKING else AgentState.INVITED
    kinds = sorted({*before.granted, *granted})
    values = {"state": state, "granted": kinds, "reason": "", "invited_at": now, "invited_by": invite.created_by}
    c.execute(update(table).where(table.c.name == name).values(values))
    withdraw(c, name, now)
    wanted = sorted(targets)
    for target in wanted:
        give(c, name, target, shared)
    row = {each: getattr(invite, each) for each in ("hash", "agent", "created_at", "created_by", "expires_at")}
    c.execute(insert(c, invite_table).values(row))
    said = {"targets": wanted, "shared": shared, "kinds": kinds, "expires_at": invite.expires_at}
    told(c, invite.created_by, "agent.invited", name, said, now)
    return current(c, name)


def _new(invite: Invite) -> dict[str, Any]:
    return {
        "name": invite.agent,
        "state": AgentState.INVITED,
        "granted": [],
        "reported": [],
        "invited_at": invite.created_at,
        "invited_by": invite.created_by,
        "revision": 0,
    }


def withdraw(c: Connection, name: AgentName, now: datetime) -> None:
    waiting = and_(invite_table.c.used_at.is_(None), invite_table.c.withdrawn_at.is_(None))
    c.execute(update(invite_table).where(invite_table.c.agent == name, waiting).values(withdrawn_at=now))


def join(c: Connection, hash: str, keys: Keys, issue: Issue, *, by: str, now: datetime) -> Issued | Refused:
    """Burn the invitation, and issue the first certificate of a new identity; what the name had before counts no more.

    The same keys with the same token are somebody whose answer was lost: they are given the certificate again. Others
    have a copy of the token, and nobody can say who was meant: the name is locked.
    """
    offered = select(invite_table).where(invite_table.c.hash == hash)
    if c.execute(offered).first() is None:
        return Refused(refusal=Refusal.UNKNOWN)
    alone(c)
    row = c.execute(offered).one()  # as it is, now that nobody else changes it
    if row.withdrawn_at is not None:
        return Refused(refusal=Refusal.UNKNOWN)
    name = AgentName(row.agent)
    agent = current(c, name)
    if row.used_at is not None:
        return _joined_again(c, agent, row.certificate, keys, by, now)
    if row.expires_at <= now:
        return Refused(refusal=Refusal.EXPIRED, agent=name)
    if agent.state in (AgentState.LOCKED, AgentState.REMOVED):
        return Refused(refusal=Refusal.LOCKED, agent=name)
    if _known(c, keys, name):
        return Refused(refusal=Refusal.KEY_USED, agent=name)
    revoke_all(c, name, now)
    made = _issued(c, agent, issue, now)
    c.execute(update(invite_table).where(invite_table.c.hash == hash).values(used_at=now, certificate=_hex(made)))
    if agent.signing != keys.signing:
        remember(c, name, targets_of(c, name))
    state = agent.state if agent.state in SPEAKING else AgentState.ACTIVE
    values = {"state": state, "signing": keys.signing, "sealing": keys.sealing, "joined_at": now, "reason": ""}
    c.execute(update(table).where(table.c.name == name).values(values))
    said = {"generation": made.generation, "serial": _hex(made), "key": made.key, "signing": keys.signing, "peer": by}
    told(c, f"agent {name}", "agent.joined", name, said, now)
    return Issued(certificate=made, targets=targets_of(c, name))


def _joined_again(c: Connection, agent: Agent, serial: str, keys: Keys, by: str, now: datetime) -> Issued | Refused:
    made = by_serial(c, serial)
    same = made is not None and (made.key, agent.signing, agent.sealing) == (keys.key, keys.signing, keys.sealing)
    if made is not None and same and made.generation == agent.generation and made.counts(now):
        if agent.state in SPEAKING:
            return Issued(certificate=made, targets=targets_of(c, agent.name), again=True)
        return Refused(refusal=Refusal.LOCKED, agent=agent.name)
    if same or agent.state in (AgentState.LOCKED, AgentState.REMOVED):
        return Refused(refusal=Refusal.USED, agent=agent.name)
    shut_out(c, agent.name, f"its join token was used a second time, from {by}", HOLDFAST, now, revoke=True)
    return Refused(refusal=Refusal.USED, agent=agent.name, locked=True)


def _known(c: Connection, keys: Keys, name: AgentName) -> bool:
    """Whether anybody has shown one of these keys before."""
    certified = select(certificate_table.c.serial).where(certificate_table.c.key == keys.key)
    another = select(table.c.name).where(table.c.signing == keys.signing, table.c.name != name)
    return c.execute(certified).first() is not None or c.execute(another).first() is not None


def renew(
    c: Connection, serial: int, shown_key: str, key: str, issue: Issue, *, by: str, now: datetime
) -> Issued | Refused:
    """The next generation, for a new key; `shown_key` is that of the certificate that was shown. Asked again with the
    same key the answer is the same; a second one with another key has a copy of the identity, and so has whoever comes
    with a generation that has ended."""
    shown = by_serial(c, format(serial, "x"))
    if shown is None or shown.key != shown_key:
        return Refused(refusal=Refusal.CERTIFICATE)
    alone(c)
    agent, shown = current(c, shown.agent), by_serial(c, format(serial, "x"))
    if shown is None:
        return Refused(refusal=Refusal.CERTIFICATE)
    if agent.state not in SPEAKING:
        return Refused(refusal=Refusal.LOCKED, agent=agent.name)
    if shown.revoked_at is not None or now >= shown.not_after:
        return Refused(refusal=Refusal.CERTIFICATE, agent=agent.name)
    if shown.generation < agent.generation:
        return _renewed_again(c, agent, shown, key, by, now)
    if _certified(c, key):
        return Refused(refusal=Refusal.KEY_USED, agent=agent.name)
    made = _issued(c, agent, issue, now)
    _sweep(c, agent.name, now)
    said = {"generation": made.generation, "serial": _hex(made), "key": made.key, "peer": by}
    told(c, f"agent {agent.name}", "agent.renewed", agent.name, said, now)
    return Issued(certificate=made, targets=targets_of(c, agent.name))


def _renewed_again(
    c: Connection, agent: Agent, shown: Certificate, key: str, by: str, now: datetime
) -> Issued | Refused:
    latest = certificates(c, agent.name)[0]
    if shown.generation == latest.generation - 1 and latest.key == key and shown.counts(now):
        return Issued(certificate=latest, targets=targets_of(c, agent.name), again=True)
    shut_out(c, agent.name, _copied(shown, by), HOLDFAST, now, revoke=True)
    return Refused(refusal=Refusal.COPIED, agent=agent.name, locked=True)


def used(c: Connection, serials: Iterable[int], now: datetime) -> None:
    """First uses: from each, the generations before it count for a while yet."""
    alone(c)
    for serial in sorted({format(each, "x") for each in serials}):
        first = update(certificate_table).where(certificate_table.c.serial == serial)
        first = first.where(certificate_table.c.used_at.is_(None)).values(used_at=now)
        row = c.execute(first.returning(certificate_table.c.agent, certificate_table.c.generation)).first()
        if row is None:
            continue
        older = and_(certificate_table.c.agent == row.agent, certificate_table.c.generation < row.generation)
        ended = update(certificate_table).where(older, certificate_table.c.ends_at.is_(None))
        c.execute(ended.values(ends_at=now + GRACE))
        raised(c, [AgentName(row.agent)])


def misused(c: Connection, serial: int, now: datetime, by: str = "") -> AgentName | None:
    """Lock the agent of whom an ended generation was shown, unless it is locked; its name if this did."""
    shown = by_serial(c, format(serial, "x"))
    if shown is None:
        return None
    alone(c)
    agent = current(c, shown.agent)
    if agent.state not in SPEAKING:
        return None
    shut_out(c, agent.name, _copied(shown, by), HOLDFAST, now, revoke=True)
    return agent.name


def _copied(shown: Certificate, by: str) -> str:
    origin = f", from {by}" if by else ""
    return f"generation {shown.generation} of its identity was used after it had ended{origin}: somebody has a copy"


def _issued(c: Connection, agent: Agent, issue: Issue, now: datetime) -> Certificate:
    made = issue(Wanted(agent=agent.name, generation=agent.generation + 1))
    row = {each: getattr(made, each) for each in Certificate.__slots__} | {"serial": _hex(made)}
    c.execute(insert(c, certificate_table).values(row))
    c.execute(update(table).where(table.c.name == agent.name).values(generation=made.generation))
    return made


def _certified(c: Connection, key: str) -> bool:
    query = select(certificate_table.c.serial).where(certificate_table.c.key == key)
    return c.execute(query).first() is not None


def revoke_all(c: Connection, name: AgentName, now: datetime) -> None:
    live = and_(certificate_table.c.agent == name, certificate_table.c.revoked_at.is_(None))
    c.execute(update(certificate_table).where(live).values(revoked_at=now))


def shut_out(c: Connection, name: AgentName, reason: str, actor: str, now: datetime, *, revoke: bool) -> None:
    if revoke:
        revoke_all(c, name, now)
    withdraw(c, name, now)
    c.execute(update(table).where(table.c.name == name).values(state=AgentState.LOCKED, reason=reason))
    told(c, actor, "agent.locked", name, {"reason": reason, "revoked": revoke}, now)


def _sweep(c: Connection, name: AgentName, now: datetime) -> None:
    """What ended long ago, of one agent: its renewals are the rhythm of it."""
    long_ago = now - KEPT
    c.execute(delete(invite_table).where(invite_table.c.agent == name, invite_table.c.expires_at < long_ago))
    named = select(invite_table.c.certificate).where(invite_table.c.certificate.is_not(None))
    ended = and_(certificate_table.c.agent == name, certificate_table.c.not_after < long_ago)
    c.execute(delete(certificate_table).where(ended, certificate_table.c.serial.not_in(named)))


def _hex(certificate: Certificate) -> str:
    return format(certificate.serial, "x")
