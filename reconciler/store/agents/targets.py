"""Which agent serves which target, and from which fence on another does."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, delete, select, union, update

from reconciler.core.machine import JOB_ACTIVE
from reconciler.store.agents.changing import current, raised
from reconciler.store.agents.records import Bound, TargetTaken
from reconciler.store.records import AgentState
from reconciler.store.statements import insert
from reconciler.store.tables import agent as table
from reconciler.store.tables import bound as bound_table
from reconciler.store.tables import job, known_target, lease, standing, task
from stickers.names import AgentName, EnvironmentId, TargetId


def give(c: Connection, name: AgentName, target: TargetId, shared: bool) -> bool:
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


def take_away(c: Connection, each: Bound) -> None:
    """Where others share the target, one of them holds it from now on."""
    remember(c, each.agent, [each.target])
    mine = and_(bound_table.c.agent == each.agent, bound_table.c.target == each.target)
    heir = heir_of(c, each) if each.holder else None
    c.execute(delete(bound_table).where(mine))
    if each.holder:
        fenced_off(c, [each.target])
    if heir is not None:
        hand_to(c, heir, each.target)
        raised(c, [heir])


def remember(c: Connection, name: AgentName, targets: Sequence[TargetId]) -> None:
    """It speaks of these targets with the key it has no more from now on."""
    agent = current(c, name)
    if agent.signing is None or not targets:
        return
    kept = {public: list(of) for public, of in agent.former.items()}
    kept[agent.signing] = sorted({*kept.get(agent.signing, ()), *targets})
    c.execute(update(table).where(table.c.name == name).values(former=kept))


def heir_of(c: Connection, lost: Bound) -> AgentName | None:
    """Who shares the target, speaks, and was heard last."""
    sharing = and_(bound_table.c.agent == table.c.name, bound_table.c.target == lost.target, table.c.name != lost.agent)
    alive = and_(sharing, table.c.state == AgentState.ACTIVE)
    ordered = select(table.c.name).join(bound_table, alive).order_by(table.c.heard_at.desc(), table.c.name)
    found = [AgentName(row.name) for row in c.execute(ordered.where(table.c.heard_at.is_not(None)))]
    return found[0] if found else None


def hand_to(c: Connection, name: AgentName, target: TargetId) -> None:
    there = bound_table.c.target == target
    c.execute(update(bound_table).where(there, bound_table.c.agent != name).values(holder=0))
    c.execute(update(bound_table).where(there, bound_table.c.agent == name).values(holder=1))


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
