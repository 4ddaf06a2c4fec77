"""Agents: who they are by which certificate, what they serve and may do, and the invitations they join by. Every change
writes its line into the audit log and raises the roll's revision, in the same transaction: whoever keeps the rows in
memory asks for one number, and reads again what has changed since.

What counts is decided here, one change after the other: of two that burn one invitation at the same time one is
issued a certificate. A refusal is an answer and not an error, since what it has locked has to be committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, case, delete, func, or_, select, union, update

from reconciler.core.machine import JOB_ACTIVE
from reconciler.store import audit, listening
from reconciler.store.audit import HOLDFAST
from reconciler.store.errors import Missing, StoreError
from reconciler.store.records import AgentState
from reconciler.store.statements import insert
from reconciler.store.tables import agent as table
from reconciler.store.tables import authority as authority_table
from reconciler.store.tables import bound as bound_table
from reconciler.store.tables import certificate as certificate_table
from reconciler.store.tables import invite as invite_table
from reconciler.store.tables import job, known_target, lease, roll, standing, task
from stickers.names import AgentName, EnvironmentId, TargetId

WORD: Final = "agents"  # told to every replica with each change
GRACE: Final = timedelta(minutes=5)  # that a generation counts after the next one was first used
KEPT: Final = timedelta(days=7)  # that what has ended is kept, for whoever wonders
SPEAKING: Final = (AgentState.ACTIVE, AgentState.DRAINING)


class NameInUse(StoreError):
    code = "AGENT_LOCKED"


class NoAgent(Missing):
    code = "NO_AGENT"


class TargetTaken(StoreError):
    code = "TARGET_TAKEN"


class Refusal(StrEnum):
    """Why somebody was issued no certificate."""

    UNKNOWN = "JOIN_REFUSED"
    EXPIRED = "TOKEN_EXPIRED"
    USED = "TOKEN_USED"
    LOCKED = "AGENT_LOCKED"
    KEY_USED = "KEY_USED"
    CERTIFICATE = "CERTIFICATE_REFUSED"
    COPIED = "IDENTITY_COPIED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """`granted` are the runtimes the operator grants, `reported` those it says it can work with. `former` says of which
    targets it spoke with which key and does no more: what it signed then is still evidence. `server` is the place of
    the process that heard it last, `way` how it was connected there."""

    name: AgentName
    state: AgentState
    generation: int
    signing: str | None
    sealing: str | None
    former: Mapping[str, tuple[TargetId, ...]]
    granted: tuple[str, ...]
    reason: str
    invited_at: datetime
    invited_by: str
    joined_at: datetime | None
    revision: int
    version: str
    reported: tuple[str, ...]
    heard_at: datetime | None
    queue: int
    way: str
    peer: str
    server: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A target that an agent serves. Of several that share one, one holds it."""

    agent: AgentName
    target: TargetId
    shared: bool
    holder: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """`key` is the digest of its public key. `used_at` is its first use; that of the next generation sets `ends_at`."""

    serial: int
    agent: AgentName
    generation: int
    key: str
    issuer: str
    pem: str
    issued_at: datetime
    not_after: datetime
    used_at: datetime | None = None
    ends_at: datetime | None = None
    revoked_at: datetime | None = None

    def counts(self, now: datetime) -> bool:
        return self.revoked_at is None and now < self.not_after and (self.ends_at is None or now < self.ends_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """`hash` is the digest of the token's secret."""

    hash: str
    agent: AgentName
    created_at: datetime
    created_by: str
    expires_at: datetime
    used_at: datetime | None = None
    certificate: int | None = None
    withdrawn_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate that issues others. A retired one is believed no more, whatever it signed."""

    id: str
    role: str
    pem: str
    made_at: datetime
    retired_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What somebody who joins shows: digest of the TLS key, raw public signing and sealing keys in hex."""

    key: str
    signing: str
    sealing: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A certificate that is to be issued."""

    agent: AgentName
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """`again`: the certificate was issued before, and the answer was lost."""

    certificate: Certificate
    targets: tuple[TargetId, ...]
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """`locked`: this very request has locked the agent."""

    refusal: Refusal
    agent: AgentName | None = None
    locked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What was last heard of an agent."""

    agent: AgentName
    at: datetime
    version: str
    reported: tuple[str, ...]
    queue: int
    way: str
    peer: str
    server: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """The agents that have changed since a revision, whole, with their certificates that have not expired."""

    revision: int
    agents: tuple[Agent, ...] = ()
    bound: tuple[Bound, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    retired: frozenset[str] = frozenset()  # issuers


Issue = Callable[[Wanted], Certificate]


# -- what there is ----------------------------------------------------------------------------------------------------


def all(c: Connection) -> tuple[Agent, ...]:
    return tuple(_agent(row) for row in c.execute(select(table).order_by(table.c.name)))


def by_name(c: Connection, name: AgentName) -> Agent | None:
    row = c.execute(select(table).where(table.c.name == name)).first()
    return None if row is None else _agent(row)


def bindings(c: Connection, name: AgentName | None = None) -> tuple[Bound, ...]:
    query = select(bound_table).order_by(bound_table.c.agent, bound_table.c.target)
    return tuple(_bound(row) for row in c.execute(query if name is None else query.where(bound_table.c.agent == name)))


def certificates(c: Connection, name: AgentName) -> tuple[Certificate, ...]:
    """Newest first; those that count no more are among them for a while."""
    query = select(certificate_table).where(certificate_table.c.agent == name)
    return tuple(_certificate(row) for row in c.execute(query.order_by(certificate_table.c.generation.desc())))


def open_invites(c: Connection, now: datetime) -> Mapping[AgentName, datetime]:
    """Until when somebody can join, by the name that is kept for them."""
    waiting = and_(invite_table.c.used_at.is_(None), invite_table.c.withdrawn_at.is_(None))
    query = select(invite_table.c.agent, invite_table.c.expires_at).where(waiting, invite_table.c.expires_at > now)
    return {AgentName(row.agent): row.expires_at for row in c.execute(query)}


def revision(c: Connection) -> int:
    found: int | None = c.execute(select(roll.c.revision)).scalar()
    return found or 0


def changed(c: Connection, since: int, now: datetime) -> Changed:
    """What the roll holds that is newer than the revision; `since` 0 is all of it."""
    newest = revision(c)
    if newest == since:
        return Changed(revision=since)
    of = select(table.c.name).where(table.c.revision > since)
    found = c.execute(select(table).where(table.c.revision > since))
    certified = select(certificate_table).where(certificate_table.c.agent.in_(of), certificate_table.c.not_after > now)
    gone = select(authority_table.c.id).where(authority_table.c.retired_at.is_not(None))
    return Changed(
        revision=newest,
        agents=tuple(_agent(row) for row in found),
        bound=tuple(_bound(row) for row in c.execute(select(bound_table).where(bound_table.c.agent.in_(of)))),
        certificates=tuple(_certificate(row) for row in c.execute(certified)),
        retired=frozenset(c.execute(gone).scalars()),
    )


def pulse(c: Connection, now: datetime, silences: Sequence[float]) -> str:
    """Changes when anything does that is shown of agents, but not with each sign of life: of these only whether they
    are silent for longer than so many seconds counts."""
    speaking = table.c.state.in_(SPEAKING)
    since = [func.count().filter(speaking, table.c.heard_at > now - timedelta(seconds=each)) for each in silences]
    told = func.coalesce(func.sum(table.c.queue), 0)
    row = c.execute(select(func.count(), told, func.max(table.c.version), *since)).one()
    return "-".join(str(each) for each in (revision(c), *row))


def present(c: Connection, now: datetime, *, degraded: float, offline: float) -> Mapping[str, int]:
    """How many are online, degraded (silent for so many seconds) and offline; of those that may not speak, how many
    stand how."""
    silent = table.c.heard_at
    presence = case(
        (table.c.state.not_in(SPEAKING), table.c.state),
        (silent >= now - timedelta(seconds=degraded), "online"),
        (silent >= now - timedelta(seconds=offline), "degraded"),
        else_="offline",
    )
    here = table.c.state != AgentState.REMOVED
    return {row[0]: row[1] for row in c.execute(select(presence, func.count()).where(here).group_by(presence))}


# -- invitations ------------------------------------------------------------------------------------------------------


def invite(
    c: Connection, invite: Invite, targets: Iterable[TargetId], granted: Iterable[str], *, shared: bool = False
) -> Agent:
    """Keep the name for whoever has the token, and bind the targets to it. Of several invitations the last one counts.
    `AGENT_LOCKED` for a name that is locked, `TARGET_TAKEN` for a target that another agent serves alone."""
    name, now = invite.agent, invite.created_at
    _alone(c)
    c.execute(insert(c, table).values(_new(invite)).on_conflict_do_nothing())
    before = _now(c, name)
    if before.state is AgentState.LOCKED:
        raise NameInUse(f"agent {name} is locked ({before.reason}); `holdfast agent unlock {name}` comes first")
    state = before.state if before.state in SPEAKING else AgentState.INVITED
    kinds = sorted({*before.granted, *granted})
    values = {"state": state, "granted": kinds, "reason": "", "invited_at": now, "invited_by": invite.created_by}
    c.execute(update(table).where(table.c.name == name).values(values))
    _withdraw(c, name, now)
    wanted = sorted(targets)
    for target in wanted:
        _bind(c, name, target, shared)
    row = {each: getattr(invite, each) for each in ("hash", "agent", "created_at", "created_by", "expires_at")}
    c.execute(insert(c, invite_table).values(row))
    said = {"targets": wanted, "shared": shared, "kinds": kinds, "expires_at": invite.expires_at}
    _told(c, invite.created_by, "agent.invited", name, said, now)
    return _now(c, name)


def join(c: Connection, hash: str, keys: Keys, issue: Issue, *, by: str, now: datetime) -> Issued | Refused:
    """Burn the invitation, and issue the first certificate of a new identity; what the name had before counts no more.

    The same keys with the same token are somebody whose answer was lost: they are given the certificate again. Others
    have a copy of the token, and nobody can say who was meant: the name is locked.
    """
    offered = select(invite_table).where(invite_table.c.hash == hash)
    if c.execute(offered).first() is None:
        return Refused(refusal=Refusal.UNKNOWN)
    _alone(c)
    row = c.execute(offered).one()  # as it is, now that nobody else changes it
    if row.withdrawn_at is not None:
        return Refused(refusal=Refusal.UNKNOWN)
    name = AgentName(row.agent)
    agent = _now(c, name)
    if row.used_at is not None:
        return _joined_again(c, agent, row.certificate, keys, by, now)
    if row.expires_at <= now:
        return Refused(refusal=Refusal.EXPIRED, agent=name)
    if agent.state in (AgentState.LOCKED, AgentState.REMOVED):
        return Refused(refusal=Refusal.LOCKED, agent=name)
    if _known(c, keys, name):
        return Refused(refusal=Refusal.KEY_USED, agent=name)
    _revoke(c, name, now)
    made = _issued(c, agent, issue, now)
    c.execute(update(invite_table).where(invite_table.c.hash == hash).values(used_at=now, certificate=_hex(made)))
    if agent.signing != keys.signing:
        _remember(c, name, _targets(c, name))
    state = agent.state if agent.state in SPEAKING else AgentState.ACTIVE
    values = {"state": state, "signing": keys.signing, "sealing": keys.sealing, "joined_at": now, "reason": ""}
    c.execute(update(table).where(table.c.name == name).values(values))
    said = {"generation": made.generation, "serial": _hex(made), "key": made.key, "signing": keys.signing, "peer": by}
    _told(c, f"agent {name}", "agent.joined", name, said, now)
    return Issued(certificate=made, targets=_targets(c, name))


def _joined_again(c: Connection, agent: Agent, serial: str, keys: Keys, by: str, now: datetime) -> Issued | Refused:
    made = _by_serial(c, serial)
    same = made is not None and (made.key, agent.signing, agent.sealing) == (keys.key, keys.signing, keys.sealing)
    if made is not None and same and made.generation == agent.generation and made.counts(now):
        if agent.state in SPEAKING:
            return Issued(certificate=made, targets=_targets(c, agent.name), again=True)
        return Refused(refusal=Refusal.LOCKED, agent=agent.name)
    if same or agent.state in (AgentState.LOCKED, AgentState.REMOVED):
        return Refused(refusal=Refusal.USED, agent=agent.name)
    _lock(c, agent.name, f"its join token was used a second time, from {by}", HOLDFAST, now, revoke=True)
    return Refused(refusal=Refusal.USED, agent=agent.name, locked=True)


def _withdraw(c: Connection, name: AgentName, now: datetime) -> None:
    waiting = and_(invite_table.c.used_at.is_(None), invite_table.c.withdrawn_at.is_(None))
    c.execute(update(invite_table).where(invite_table.c.agent == name, waiting).values(withdrawn_at=now))


def _known(c: Connection, keys: Keys, name: AgentName) -> bool:
    """Whether anybody has shown one of these keys before."""
    certified = select(certificate_table.c.serial).where(certificate_table.c.key == keys.key)
    another = select(table.c.name).where(table.c.signing == keys.signing, table.c.name != name)
    return c.execute(certified).first() is not None or c.execute(another).first() is not None


# -- certificates -----------------------------------------------------------------------------------------------------


def renew(
    c: Connection, serial: int, shown_key: str, key: str, issue: Issue, *, by: str, now: datetime
) -> Issued | Refused:
    """The next generation, for a new key; `shown_key` is that of the certificate that was shown. Asked again with the
    same key the answer is the same; a second one with another key has a copy of the identity, and so has whoever comes
    with a generation that has ended."""
    shown = _by_serial(c, format(serial, "x"))
    if shown is None or shown.key != shown_key:
        return Refused(refusal=Refusal.CERTIFICATE)
    _alone(c)
    agent, shown = _now(c, shown.agent), _by_serial(c, format(serial, "x"))
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
    _told(c, f"agent {agent.name}", "agent.renewed", agent.name, said, now)
    return Issued(certificate=made, targets=_targets(c, agent.name))


def _renewed_again(
    c: Connection, agent: Agent, shown: Certificate, key: str, by: str, now: datetime
) -> Issued | Refused:
    latest = certificates(c, agent.name)[0]
    if shown.generation == latest.generation - 1 and latest.key == key and shown.counts(now):
        return Issued(certificate=latest, targets=_targets(c, agent.name), again=True)
    _lock(c, agent.name, _copied(shown, by), HOLDFAST, now, revoke=True)
    return Refused(refusal=Refusal.COPIED, agent=agent.name, locked=True)


def used(c: Connection, serials: Iterable[int], now: datetime) -> None:
    """First uses: from each, the generations before it count for a while yet."""
    _alone(c)
    for serial in sorted({format(each, "x") for each in serials}):
        first = update(certificate_table).where(certificate_table.c.serial == serial)
        first = first.where(certificate_table.c.used_at.is_(None)).values(used_at=now)
        row = c.execute(first.returning(certificate_table.c.agent, certificate_table.c.generation)).first()
        if row is None:
            continue
        older = and_(certificate_table.c.agent == row.agent, certificate_table.c.generation < row.generation)
        ended = update(certificate_table).where(older, certificate_table.c.ends_at.is_(None))
        c.execute(ended.values(ends_at=now + GRACE))
        _raised(c, [AgentName(row.agent)])


def misused(c: Connection, serial: int, now: datetime, by: str = "") -> AgentName | None:
    """Lock the agent of whom an ended generation was shown, unless it is locked; its name if this did."""
    shown = _by_serial(c, format(serial, "x"))
    if shown is None:
        return None
    _alone(c)
    agent = _now(c, shown.agent)
    if agent.state not in SPEAKING:
        return None
    _lock(c, agent.name, _copied(shown, by), HOLDFAST, now, revoke=True)
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


def _revoke(c: Connection, name: AgentName, now: datetime) -> None:
    live = and_(certificate_table.c.agent == name, certificate_table.c.revoked_at.is_(None))
    c.execute(update(certificate_table).where(live).values(revoked_at=now))


def _sweep(c: Connection, name: AgentName, now: datetime) -> None:
    """What ended long ago, of one agent: its renewals are the rhythm of it."""
    long_ago = now - KEPT
    c.execute(delete(invite_table).where(invite_table.c.agent == name, invite_table.c.expires_at < long_ago))
    named = select(invite_table.c.certificate).where(invite_table.c.certificate.is_not(None))
    ended = and_(certificate_table.c.agent == name, certificate_table.c.not_after < long_ago)
    c.execute(delete(certificate_table).where(ended, certificate_table.c.serial.not_in(named)))


# -- what operators do ------------------------------------------------------------------------------------------------


def lock(c: Connection, name: AgentName, reason: str, actor: str, now: datetime) -> bool:
    """Whether it was not locked yet. Nothing is revoked: unlocked, it goes on as who it was."""
    agent = _insisted(c, name)
    if agent.state is AgentState.LOCKED:
        return False
    _lock(c, name, reason, actor, now, revoke=False)
    return True


def unlock(c: Connection, name: AgentName, actor: str, now: datetime) -> Agent:
    """It goes on as who it was; where no certificate of it counts any more, it has to be invited again."""
    agent = _insisted(c, name)
    if agent.state is not AgentState.LOCKED:
        return agent
    alive = any(each.counts(now) for each in certificates(c, name)) and agent.signing is not None
    state = AgentState.ACTIVE if alive else AgentState.INVITED
    c.execute(update(table).where(table.c.name == name).values(state=state, reason=""))
    _told(c, actor, "agent.unlocked", name, {"state": state.value}, now)
    return _now(c, name)


def drain(c: Connection, name: AgentName, on: bool, actor: str, now: datetime) -> Agent:
    """Nothing new is given to it from now on, or again."""
    agent, before = _insisted(c, name), AgentState.ACTIVE if on else AgentState.DRAINING
    wanted = AgentState.DRAINING if on else AgentState.ACTIVE
    if agent.state is wanted:
        return agent
    if agent.state is not before:
        raise NameInUse(f"agent {name} is {agent.state}; only one that is {before} can be made {wanted}")
    c.execute(update(table).where(table.c.name == name).values(state=wanted))
    _told(c, actor, "agent.draining" if on else "agent.resumed", name, {}, now)
    return _now(c, name)


def remove(c: Connection, name: AgentName, actor: str, now: datetime) -> bool:
    """Whether it was there. Its identity counts no more, its targets are free, its rights are gone, and its generations
    go on counting should the name be given again."""
    agent = _insisted(c, name)
    if agent.state is AgentState.REMOVED:
        return False
    targets = _targets(c, name)
    _revoke(c, name, now)
    _withdraw(c, name, now)
    for each in bindings(c, name):
        _unbind(c, each)
    empty: dict[str, Any] = {"state": AgentState.REMOVED, "signing": None, "sealing": None, "granted": [], "reason": ""}
    unheard: dict[str, Any] = {"joined_at": None, "heard_at": None, "version": "", "reported": [], "queue": 0}
    c.execute(update(table).where(table.c.name == name).values(empty | unheard | {"way": "", "peer": "", "server": ""}))
    _told(c, actor, "agent.removed", name, {"targets": list(targets)}, now)
    return True


def grant(c: Connection, name: AgentName, kinds: Sequence[str], given: bool, actor: str, now: datetime) -> Agent:
    """Runtimes that it may work with from now on, or may no more."""
    agent = _insisted(c, name)
    kept = {*agent.granted, *kinds} if given else {*agent.granted} - {*kinds}
    if kept == {*agent.granted}:
        return agent
    c.execute(update(table).where(table.c.name == name).values(granted=sorted(kept)))
    _told(c, actor, "agent.granted" if given else "agent.revoked", name, {"kinds": sorted(kinds)}, now)
    return _now(c, name)


def bind(c: Connection, name: AgentName, target: TargetId, shared: bool, actor: str, now: datetime) -> Agent:
    """One more target of an agent."""
    agent = _insisted(c, name)
    if agent.state is AgentState.REMOVED:
        raise Missing(f"agent {name} was removed; invite it again")
    if _bind(c, name, target, shared):
        _told(c, actor, "agent.bound", name, {"target": target, "shared": shared}, now)
    return _now(c, name)


def unbind(c: Connection, name: AgentName, target: TargetId, actor: str, now: datetime) -> bool:
    """Whether it served the target."""
    _insisted(c, name)
    found = next((each for each in bindings(c, name) if each.target == target), None)
    if found is None:
        return False
    _unbind(c, found)
    _told(c, actor, "agent.unbound", name, {"target": target}, now)
    return True


def hand_over(c: Connection, name: AgentName, target: TargetId, actor: str, now: datetime) -> None:
    """The agent holds the target that it shares with others, from a higher fence on. `Missing` if it does not."""
    _insisted(c, name)
    rows = c.execute(select(bound_table).where(bound_table.c.target == target)).all()
    if not any(row.agent == name for row in rows):
        raise Missing(f"agent {name} does not serve {target}")
    _hold(c, name, target)
    freed = fenced_off(c, [target])
    _told(c, actor, "agent.holds", name, {"target": target, "environments": freed}, now)
    _raised(c, [AgentName(row.agent) for row in rows])


def declare_dead(
    c: Connection, name: AgentName, actor: str, now: datetime
) -> tuple[Mapping[TargetId, AgentName | None], tuple[EnvironmentId, ...]]:
    """Somebody answers for it that the host runs nothing any more. It is locked, whoever shares a target with it holds
    that one now, and all that was started in the environments of its targets is fenced off. Who holds each target now,
    and those environments."""
    _insisted(c, name)
    _lock(c, name, "declared dead", actor, now, revoke=False)
    heirs: dict[TargetId, AgentName | None] = {}
    for each in bindings(c, name):
        heirs[each.target] = heir = _heir(c, each) if each.holder else None
        if heir is not None:
            _hold(c, heir, each.target)
    freed = fenced_off(c, list(heirs))
    said = {"targets": dict(heirs), "environments": list(freed)}
    _told(c, actor, "agent.declared_dead", name, said, now)
    _raised(c, [heir for heir in heirs.values() if heir is not None])
    return heirs, freed


def fenced_off(c: Connection, targets: Sequence[TargetId]) -> tuple[EnvironmentId, ...]:
    """The leases of the environments of these targets are held by nobody: whoever takes one next has a higher token,
    and what was begun under the former is refused from then on. An environment in which the target was never looked at
    has begun nothing there."""
    looked_at = select(standing.c.environment).where(standing.c.target.in_(targets))
    deployed_to = select(known_target.c.environment).where(known_target.c.target.in_(targets))
    of_jobs = (
        select(job.c.environment)
        .join(task, task.c.job == job.c.id)
        .where(job.c.state.in_(sorted(JOB_ACTIVE)), task.c.target.in_(targets))
    )
    found = sorted(set(c.execute(union(looked_at, deployed_to, of_jobs)).scalars()))
    c.execute(update(lease).where(lease.c.environment.in_(found)).values(holder=None, until=None))
    return tuple(EnvironmentId(each) for each in found)


def _heir(c: Connection, lost: Bound) -> AgentName | None:
    """Who shares the target, speaks, and was heard last."""
    sharing = and_(bound_table.c.agent == table.c.name, bound_table.c.target == lost.target, table.c.name != lost.agent)
    alive = and_(sharing, table.c.state == AgentState.ACTIVE)
    ordered = select(table.c.name).join(bound_table, alive).order_by(table.c.heard_at.desc(), table.c.name)
    found = [AgentName(row.name) for row in c.execute(ordered.where(table.c.heard_at.is_not(None)))]
    return found[0] if found else None


# -- targets ----------------------------------------------------------------------------------------------------------


def _bind(c: Connection, name: AgentName, target: TargetId, shared: bool) -> bool:
    """Whether that is new. The first of those that share a target holds it."""
    others = c.execute(select(bound_table).where(bound_table.c.target == target)).all()
    for row in others:
        if row.agent != name and not (shared and row.shared):
            hint = "" if row.shared else " alone; remove it, or make both `--shared`"
            raise TargetTaken(
                f"{target} is served by agent {row.agent}{hint or '; say --shared to serve it with that'}"
            )
    mine = next((row for row in others if row.agent == name), None)
    holder = not any(row.holder for row in others if row.agent != name)
    values = {"shared": int(shared), "holder": int(holder)}
    offered = insert(c, bound_table).values(agent=name, target=target, **values)
    c.execute(offered.on_conflict_do_update(index_elements=["agent", "target"], set_=values))
    return mine is None or bool(mine.shared) != shared


def _unbind(c: Connection, each: Bound) -> None:
    """Where others share the target, one of them holds it from now on."""
    _remember(c, each.agent, [each.target])
    mine = and_(bound_table.c.agent == each.agent, bound_table.c.target == each.target)
    heir = _heir(c, each) if each.holder else None
    c.execute(delete(bound_table).where(mine))
    if each.holder:
        fenced_off(c, [each.target])
    if heir is not None:
        _hold(c, heir, each.target)
        _raised(c, [heir])


def _remember(c: Connection, name: AgentName, targets: Sequence[TargetId]) -> None:
    """It speaks of these targets with the key it has no more from now on."""
    agent = _now(c, name)
    if agent.signing is None or not targets:
        return
    kept = {public: list(of) for public, of in agent.former.items()}
    kept[agent.signing] = sorted({*kept.get(agent.signing, ()), *targets})
    c.execute(update(table).where(table.c.name == name).values(former=kept))


def _hold(c: Connection, name: AgentName, target: TargetId) -> None:
    there = bound_table.c.target == target
    c.execute(update(bound_table).where(there, bound_table.c.agent != name).values(holder=0))
    c.execute(update(bound_table).where(there, bound_table.c.agent == name).values(holder=1))


def _targets(c: Connection, name: AgentName) -> tuple[TargetId, ...]:
    return tuple(each.target for each in bindings(c, name))


# -- contact ----------------------------------------------------------------------------------------------------------


def heard(c: Connection, contacts: Sequence[Heard]) -> None:
    """When they were last heard, unless another process has heard them since. Nobody's rights change by it."""
    rows = [
        {
            "heard_name": each.agent,
            "heard_at": each.at,
            "version": each.version,
            "reported": list(each.reported),
            "queue": each.queue,
            "way": each.way,
            "peer": each.peer,
            "server": each.server,
        }
        for each in sorted(contacts, key=lambda each: each.agent)
    ]
    if rows:
        c.execute(_HEARD, rows)


# -- authorities ------------------------------------------------------------------------------------------------------


def keep_authority(c: Connection, each: Authority, actor: str) -> bool:
    """Whether it is new here."""
    _alone(c)
    row = {name: getattr(each, name) for name in Authority.__slots__}
    offered = insert(c, authority_table).values(row).on_conflict_do_nothing().returning(authority_table.c.id)
    if c.execute(offered).first() is None:
        return False
    _said(c, actor, "authority.made", each.id, {"role": each.role}, each.made_at)
    return True


def retire_authority(c: Connection, id: str, actor: str, now: datetime) -> bool:
    """Whether it was trusted until now. What it issued counts no more, at once and everywhere."""
    _alone(c)
    live = and_(authority_table.c.id == id, authority_table.c.retired_at.is_(None))
    retired = update(authority_table).where(live).values(retired_at=now).returning(authority_table.c.id)
    if c.execute(retired).first() is None:
        return False
    _said(c, actor, "authority.retired", id, {}, now)
    return True


def authorities(c: Connection) -> tuple[Authority, ...]:
    """Oldest first; retired ones are among them."""
    ordered = select(authority_table).order_by(authority_table.c.made_at, authority_table.c.id)
    return tuple(Authority(**row._mapping) for row in c.execute(ordered))


def issued_by(c: Connection, issuer: str, now: datetime) -> int:
    """How many agents would be left without an identity if it were retired now."""
    latest = and_(certificate_table.c.agent == table.c.name, certificate_table.c.generation == table.c.generation)
    query = select(table.c.name).join(certificate_table, latest)
    counting = and_(certificate_table.c.issuer == issuer, certificate_table.c.not_after > now)
    return len(c.execute(query.where(counting, certificate_table.c.revoked_at.is_(None))).all())


# -- rows -------------------------------------------------------------------------------------------------------------


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


def _alone(c: Connection) -> None:
    """Whoever changes anything of agents next waits for the end of this transaction. Changes are rare, and many touch
    rows of several agents; on SQLite there is only one writer."""
    if c.dialect.name == "postgresql":
        c.execute(_LOCK)


def _insisted(c: Connection, name: AgentName) -> Agent:
    _alone(c)
    found = by_name(c, name)
    if found is None:
        raise NoAgent(f"there is no agent {name}; `holdfast agent list` shows them")
    return found


def _now(c: Connection, name: AgentName) -> Agent:
    found = by_name(c, name)
    assert found is not None
    return found


def _lock(c: Connection, name: AgentName, reason: str, actor: str, now: datetime, *, revoke: bool) -> None:
    if revoke:
        _revoke(c, name, now)
    _withdraw(c, name, now)
    c.execute(update(table).where(table.c.name == name).values(state=AgentState.LOCKED, reason=reason))
    _told(c, actor, "agent.locked", name, {"reason": reason, "revoked": revoke}, now)


def _by_serial(c: Connection, serial: str) -> Certificate | None:
    row = c.execute(select(certificate_table).where(certificate_table.c.serial == serial)).first()
    return None if row is None else _certificate(row)


def _told(c: Connection, actor: str, action: str, name: AgentName, detail: Mapping[str, object], now: datetime) -> None:
    _raised(c, [name])
    audit.append(c, environment=None, actor=actor, action=action, subject=name, detail=detail, now=now)


def _said(c: Connection, actor: str, action: str, id: str, detail: Mapping[str, object], now: datetime) -> None:
    _raised(c, [])
    audit.append(c, environment=None, actor=actor, action=action, subject=id, detail=detail, now=now)


def _raised(c: Connection, names: Sequence[AgentName]) -> None:
    """These have changed. Whoever sees a revision sees all that came before it, since one changes after the other."""
    counted = insert(c, roll).values(one=1, revision=1)
    risen = counted.on_conflict_do_update(index_elements=["one"], set_={"revision": roll.c.revision + 1})
    number = c.execute(risen.returning(roll.c.revision)).scalar_one()
    if names:
        c.execute(update(table).where(table.c.name.in_(names)).values(revision=number))
    if c.dialect.name == "postgresql":
        listening.tell(c, [WORD])


def _hex(certificate: Certificate) -> str:
    return format(certificate.serial, "x")


def _agent(row: Row[Any]) -> Agent:
    found = dict(row._mapping)
    return Agent(
        **found
        | {
            "state": AgentState(found["state"]),
            "former": {public: tuple(map(TargetId, targets)) for public, targets in found["former"].items()},
            "granted": tuple(found["granted"]),
            "reported": tuple(found["reported"]),
        }
    )


def _bound(row: Row[Any]) -> Bound:
    return Bound(
        agent=AgentName(row.agent), target=TargetId(row.target), shared=bool(row.shared), holder=bool(row.holder)
    )


def _certificate(row: Row[Any]) -> Certificate:
    return Certificate(**{**row._mapping, "serial": int(row.serial, 16)})


def _unheard() -> ColumnElement[bool]:
    return or_(table.c.heard_at.is_(None), table.c.heard_at <= bindparam("heard_at"))


_LOCK: Final = select(func.pg_advisory_xact_lock(0x61676E74, 0))  # "agnt"
_HEARD: Final = (
    update(table)
    .where(table.c.name == bindparam("heard_name"), table.c.state != AgentState.REMOVED, _unheard())
    .values({name: bindparam(name) for name in ("heard_at", "version", "reported", "queue", "way", "peer", "server")})
)
