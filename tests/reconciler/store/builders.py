"""What the store's tests keep: a small world on top of the core's builders, and the steps that lead to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from desired_state.model import DesiredState, Placement
from drivers.contract import Deploy, Stamp
from reconciler.core.judge import Drift, Verdict
from reconciler.core.known import Trust
from reconciler.core.plan import Intent, JobKind, Plan, Wave
from reconciler.store import agents, environments, evidence, jobs, leases, people
from reconciler.store.records import EvidenceRow, Good, Job, Lease, NewJob
from reconciler.store.store import Store
from stickers.names import AgentName, EnvironmentId, EvidenceId
from stickers.signature import Envelope, Statement
from tests.reconciler.core.builders import NOW, PROD, fleet, standing, sticker, workload

TTL: Final = timedelta(seconds=30)
LATER: Final = NOW + timedelta(minutes=1)


def plan_of(desired: DesiredState, kind: JobKind = JobKind.DEPLOY) -> Plan:
    """One wave that deploys every placement, one task each."""
    intents = tuple(
        Intent(
            target=each.id.target,
            changes=(Deploy(placement=each, replaces=None, stamp=Stamp(sequence=1, previous=None)),),
        )
        for each in desired.placements
    )
    waves = (Wave(intents=intents),) if intents else ()
    return Plan(
        environment=desired.environment.id,
        desired_digest=desired.digest,
        kind=kind,
        waves=waves,
        blocked=(),
        hash="f" * 12,
    )


def new_job(desired: DesiredState, **changes: object) -> NewJob:
    made = NewJob(
        environment=desired.environment.id,
        kind=JobKind.DEPLOY,
        generation=1,
        plan=plan_of(desired),
        requested_by="holdfast",
        reason="the declared release is not what runs",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def held(c: Connection, environment: EnvironmentId = PROD, holder: str = "one") -> Lease:
    lease = leases.acquire(c, environment, holder, now=NOW, ttl=TTL)
    assert lease is not None
    return lease


async def settled(store: Store, desired: DesiredState | None = None) -> Lease:
    """An accepted environment, and the lease to write for it."""
    accepted = desired or fleet(2)

    def both(c: Connection) -> Lease:
        environments.accept(c, accepted, now=NOW)
        return held(c, accepted.environment.id)

    return await store.write(both)


async def working(store: Store, lease: Lease, desired: DesiredState | None = None) -> Job:
    """A job of the settled environment, just created."""
    return await store.write(lambda c: jobs.create(c, new_job(desired or fleet(2)), lease, NOW))


def proof(of: Placement, name: str = "e") -> EvidenceRow:
    return EvidenceRow(
        id=EvidenceId(f"sha256:{name}-{of.id}"),
        kind=Statement.EVIDENCE,
        environment=of.environment,
        target=of.id.target,
        component=of.id.component,
        envelope=Envelope('{"payload":"e30="}'),
        at=NOW,
    )


def keep_good(c: Connection, desired: DesiredState, sequence: int = 2) -> Sequence[Good]:
    """The evidence of every placement, kept; and what it proves."""
    evidence.keep(c, [proof(each) for each in desired.placements])
    return [
        Good(placement=each, target=desired.target_of[each.id.target], evidence=proof(each).id, sequence=sequence)
        for each in desired.placements
    ]


def token(id: str = "t1", **changes: object) -> people.Token:
    made = people.Token(
        id=id,
        name="ci",
        hash="0" * 64,
        person=None,
        scopes=(people.Granted("read", "*"),),
        created_at=NOW,
        created_by="joe",
        expires_at=NOW + timedelta(days=90),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def judged(of: Placement, verdict: Verdict = Verdict.IN_SYNC, **changes: object) -> Drift:
    """The placement as it is judged when it stands as declared."""
    made = Drift(
        id=of.id,
        verdict=verdict,
        trust=Trust.VALID,
        wanted=of,
        declared=of,
        standing=standing(of.id, workload(of)),
        sticker=sticker(of),
        rule="as declared",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def invited(name: str) -> agents.Invite:
    """An invitation of an agent, for a quarter of an hour."""
    ends = NOW + timedelta(minutes=15)
    return agents.Invite(
        hash=f"token of {name}", agent=AgentName(name), created_at=NOW, created_by="joe", expires_at=ends
    )


def certified(wanted: agents.Wanted, key: str, at: datetime = NOW) -> agents.Certificate:
    """What an authority would issue for that key."""
    return agents.Certificate(
        serial=int.from_bytes(f"{wanted.agent}{key}".encode()),
        agent=wanted.agent,
        generation=wanted.generation,
        key=key,
        issuer="a1",
        pem=f"certificate of {wanted.agent} {wanted.generation}",
        issued_at=at,
        not_after=at + timedelta(hours=24),
    )
