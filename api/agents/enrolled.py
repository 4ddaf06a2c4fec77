"""The roll from rows: kept in memory by serial number and by target, read again when it is told that something has
changed, and every few seconds in any case."""

from __future__ import annotations

import hashlib
import ssl
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

import anyio

from api.agents.roll import Contact, Member, State, Terms
from drivers.agent.duty.identity import RENEWS
from drivers.agent.protocol import Key
from reconciler.events import AgentLocked, Sink
from reconciler.store import agents
from reconciler.store.agents import SPEAKING, Agent, Bound, Certificate, Changed
from reconciler.store.errors import StoreError
from reconciler.store.records import AgentState
from reconciler.store.store import Store
from stickers.names import AgentName, KeyId, TargetId
from stickers.signature import PublicKey, Statement, key_id

POLL: Final = 3.0  # seconds between two looks that nobody asked for
GLANCE: Final = 0.2  # seconds at least between two looks
AT_ONCE: Final = 100  # first uses in one transaction
SPEAKS_OF: Final = (Statement.STICKER, Statement.EVIDENCE, Statement.RESULT)
OF_THE_PAST: Final = (Statement.EVIDENCE, Statement.RESULT)  # of targets that are somebody else's by now


@dataclass(slots=True, eq=False)
class _Held:
    """A certificate, and whom it names while it counts and afterwards."""

    certificate: Certificate
    member: Member
    superseded: Member


class Enrolled:
    """The agents of this installation. `place` is how this process is called in the rows, `url` the address at which
    agents reach it, and `elsewhere` those of the other replicas; `base` are the installation's own keys. `revised` is
    called when anything has changed, `believes` with the agents' keys when those have."""

    def __init__(
        self,
        store: Store,
        *,
        now: Callable[[], datetime],
        sink: Sink,
        place: str = "",
        url: str = "",
        base: Callable[[], Iterable[PublicKey]] = tuple,
    ) -> None:
        self._store, self._now, self._sink, self._place = store, now, sink, place
        self._url, self._base = url, base
        self.elsewhere: Callable[[], Sequence[str]] = tuple
        self.revised: Callable[[], None] = lambda: None
        self.believes: Callable[[Sequence[PublicKey]], None] = lambda keys: None
        self._revision = 0
        self._agents: dict[AgentName, Agent] = {}
        self._bound: dict[AgentName, tuple[Bound, ...]] = {}
        self._certified: dict[AgentName, tuple[int, ...]] = {}
        self._by_serial: dict[int, _Held] = {}
        self._by_target: dict[TargetId, tuple[Member, ...]] = {}
        self._sharing: dict[TargetId, dict[AgentName, Bound]] = {}
        self._retired: frozenset[str] = frozenset()
        self._keys: tuple[PublicKey, ...] = ()
        self._used: set[int] = set()  # shown for the first time, and not written down
        self._nudged, self._reading = anyio.Event(), anyio.Lock()

    # -- what is asked of it ------------------------------------------------------------------------------------------

    def by_serial(self, serial: int) -> Member | None:
        held = self._by_serial.get(serial)
        if held is None:
            self.nudge()  # another replica may have issued it just now
            return None
        certificate, member = held.certificate, held.member
        if not member.state.speaks:
            return member
        now = self._now()
        if certificate.revoked_at is not None or now >= certificate.not_after or certificate.issuer in self._retired:
            return None
        if certificate.ends_at is not None and now >= certificate.ends_at:
            return held.superseded
        if certificate.used_at is None:
            self._first_use(held, now)
        return member

    def serves(self, target: TargetId) -> tuple[Member, ...]:
        return self._by_target.get(target, ())

    def terms(self, member: Member) -> Terms:
        return Terms(servers=self.servers, keys=self._told_to(member), renew=self._is_old(member))

    async def heard(self, contacts: Mapping[AgentName, Contact], /) -> None:
        now = self._now()
        rows = [
            agents.Heard(
                agent=name,
                at=now - timedelta(seconds=each.age),
                version=each.version,
                reported=tuple(each.kinds),
                queue=each.queue,
                way=each.way,
                peer=each.peer,
                server=self._place,
            )
            for name, each in contacts.items()
        ]
        await self._store.write(lambda c: agents.heard(c, rows))

    async def misused(self, serial: int, /) -> None:
        now = self._now()
        name = await self._store.write(lambda c: agents.misused(c, serial, now))
        await self.refresh()
        if name is not None:
            self._sink(AgentLocked(agent=name, reason=self._agents[name].reason))

    @property
    def servers(self) -> tuple[str, ...]:
        """Where agents keep channels to: this process first."""
        return tuple(dict.fromkeys(url for url in (self._url, *self.elsewhere()) if url))

    @property
    def keys(self) -> tuple[PublicKey, ...]:
        """What the agents sign with, and of which targets each is believed."""
        return self._keys

    @property
    def retired(self) -> frozenset[str]:
        """Issuers whose certificates count no more."""
        return self._retired

    @property
    def revision(self) -> int:
        return self._revision

    # -- how it stays what the rows say -------------------------------------------------------------------------------

    def nudge(self) -> None:
        """Something has changed, or might have: look soon. Called on the loop's own thread."""
        self._nudged.set()

    async def run(self) -> None:
        """For ever. While the database does not answer, what is known goes on counting."""
        told = self.servers
        while True:
            with suppress(StoreError):
                await self._write_uses()
                await self.refresh()
            if told != self.servers:
                told = self.servers
                self.revised()
            await anyio.sleep(GLANCE)
            with anyio.move_on_after(POLL - GLANCE):
                await self._nudged.wait()
            self._nudged = anyio.Event()  # what comes from now on is looked for once more

    async def refresh(self) -> None:
        """What has changed is known when this returns."""
        async with self._reading:
            since, now = self._revision, self._now()
            changed = await self._store.read(lambda c: agents.changed(c, since, now))
            if changed.revision != since:
                self._take(changed)

    async def _write_uses(self) -> None:
        """Some at a time: whoever else writes waits for them."""
        used, now = frozenset(islice(self._used, AT_ONCE)), self._now()
        if used:
            await self._store.write(lambda c: agents.used(c, used, now))
            self._used -= used
        if self._used:
            self.nudge()

    def _first_use(self, held: _Held, now: datetime) -> None:
        """From now on the generations before it count for a while yet, here at once and elsewhere soon."""
        held.certificate = replace(held.certificate, used_at=now)
        self._used.add(held.certificate.serial)
        for serial in self._certified.get(held.certificate.agent, ()):
            older = self._by_serial[serial]
            if older.certificate.generation < held.certificate.generation and older.certificate.ends_at is None:
                older.certificate = replace(older.certificate, ends_at=now + agents.GRACE)
        self.nudge()

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _take(self, changed: Changed) -> None:
        bound: dict[AgentName, list[Bound]] = defaultdict(list)
        certified: dict[AgentName, list[Certificate]] = defaultdict(list)
        for each in changed.bound:
            bound[each.agent].append(each)
        for certificate in changed.certificates:
            certified[certificate.agent].append(certificate)
        touched: set[TargetId] = set()
        for agent in changed.agents:
            for each in self._bound.get(agent.name, ()):
                self._sharing[each.target].pop(agent.name)
                touched.add(each.target)
            for each in bound[agent.name]:
                self._sharing.setdefault(each.target, {})[agent.name] = each
                touched.add(each.target)
            self._agents[agent.name], self._bound[agent.name] = agent, tuple(bound[agent.name])
            self._certify(agent, certified[agent.name])
        self._retired, self._revision = changed.retired, changed.revision
        for target in touched:
            self._by_target[target] = self._serving(target)
        self._believe()
        self.revised()

    def _certify(self, agent: Agent, certificates: Sequence[Certificate]) -> None:
        before = {serial: self._by_serial.pop(serial) for serial in self._certified.get(agent.name, ())}
        for certificate in certificates:
            member = replace(
                _member(agent, self._bound[agent.name], certificate.generation), certificate=_print(certificate.pem)
            )
            known = before.get(certificate.serial)
            if known is not None and known.member == member:
                member = known.member  # the same object, while nothing about it changes
            if certificate.serial in self._used and known is not None:
                certificate = replace(certificate, used_at=known.certificate.used_at)
            if known is not None and certificate.ends_at is None:
                certificate = replace(certificate, ends_at=known.certificate.ends_at)
            superseded = replace(member, state=State.SUPERSEDED)
            self._by_serial[certificate.serial] = _Held(certificate, member, superseded)
        self._certified[agent.name] = tuple(each.serial for each in certificates)

    def _serving(self, target: TargetId) -> tuple[Member, ...]:
        """The holder first."""
        ordered = sorted(self._sharing[target].values(), key=lambda each: (not each.holder, each.agent))
        return tuple(self._latest(each.agent) for each in ordered)

    def _latest(self, name: AgentName) -> Member:
        agent = self._agents[name]
        for serial in self._certified.get(name, ()):
            held = self._by_serial[serial]
            if held.certificate.generation == agent.generation:
                return held.member
        return _member(agent, self._bound[name], agent.generation)

    # -- keys ---------------------------------------------------------------------------------------------------------

    def _believe(self) -> None:
        found: dict[KeyId, PublicKey] = {}
        for name, agent in sorted(self._agents.items()):
            for key in _keys(agent, self._bound[name]):
                found[key.id] = _both(found[key.id], key) if key.id in found else key
        keys = tuple(found.values())
        if keys != self._keys:
            self._keys = keys
            self.believes(keys)

    def _told_to(self, member: Member) -> tuple[Key, ...]:
        """The installation's keys, and those of the agents that share a target with it."""
        sharing = {other.agent for target in member.targets for other in self.serves(target)} - {member.agent}
        theirs = [
            key
            for name in sorted(sharing)
            for key in _keys(self._agents[name], self._bound[name])
            if any(subject.startswith(Statement.STICKER) for subject in key.subjects)
        ]
        return tuple(Key(public=key.public.hex(), subjects=key.subjects) for key in (*self._base(), *theirs))

    def _is_old(self, member: Member) -> bool:
        """By the clock here: that of the host may be any."""
        now = self._now()
        for serial in self._certified.get(member.agent, ()):
            certificate = self._by_serial[serial].certificate
            if certificate.generation == member.generation:
                return now >= certificate.issued_at + (certificate.not_after - certificate.issued_at) * RENEWS
        return False


def _print(pem: str) -> str:
    """What the certificate is told from any other by, whatever number that has."""
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    except ValueError:
        return "none"  # nothing has it: what cannot be read is nobody's


_STATES: Final[Mapping[AgentState, State]] = {
    AgentState.INVITED: State.INVITED,
    AgentState.ACTIVE: State.ACTIVE,
    AgentState.DRAINING: State.DRAINING,
    AgentState.LOCKED: State.LOCKED,
    AgentState.REMOVED: State.REMOVED,
}


def _member(agent: Agent, bound: Iterable[Bound], generation: int) -> Member:
    return Member(
        agent=agent.name,
        generation=generation,
        state=_STATES[agent.state],
        targets=frozenset(each.target for each in bound),
        kinds=frozenset(agent.granted),
        signing=bytes.fromhex(agent.signing or ""),
        sealing=agent.sealing or "",
    )


def _keys(agent: Agent, bound: Sequence[Bound]) -> list[PublicKey]:
    """What an agent signs with, believed about its own targets, in whichever environment they are; and what it signed
    with before, of targets that were its own, believed as evidence only. A locked one signs no more, and what it signed
    before is still what it was."""
    found = [_key(public, targets, OF_THE_PAST, retired=True) for public, targets in agent.former.items()]
    if agent.signing is not None and bound:
        targets = [each.target for each in bound]
        found.insert(0, _key(agent.signing, targets, SPEAKS_OF, retired=agent.state not in SPEAKING))
    return found


def _key(public: str, targets: Iterable[TargetId], of: Sequence[Statement], *, retired: bool) -> PublicKey:
    raw = bytes.fromhex(public)
    subjects = tuple(f"{statement}:{_anywhere(target)}" for target in targets for statement in of)
    return PublicKey(id=key_id(raw), public=raw, subjects=subjects, retired=retired)


def _both(one: PublicKey, other: PublicKey) -> PublicKey:
    """A host may have been an agent by two names, with one key."""
    subjects = tuple(dict.fromkeys((*one.subjects, *other.subjects)))
    return replace(one, subjects=subjects, retired=one.retired and other.retired)


def _anywhere(target: TargetId) -> str:
    project, _, name = target.partition("/")
    return f"{project}/*/{name}"
