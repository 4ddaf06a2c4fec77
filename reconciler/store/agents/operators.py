"""What operators do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update

from reconciler.store.agents.changing import current, insisted, raised, told
from reconciler.store.agents.identities import revoke_all, shut_out, withdraw
from reconciler.store.agents.reading import bindings, certificates, targets_of
from reconciler.store.agents.records import Agent, NameInUse
from reconciler.store.agents.targets import fenced_off, give, hand_to, heir_of, take_away
from reconciler.store.errors import Missing
from reconciler.store.records import AgentState
from reconciler.store.tables import agent as table
from reconciler.store.tables import bound as bound_table
from stickers.names import AgentName, EnvironmentId, TargetId


def lock(c: Connection, name: AgentName, reason: str, actor: str, now: datetime) -> bool:
    """Whether it was not locked yet. Nothing is revoked: unlocked, it goes on as who it was."""
    agent = insisted(c, name)
    if agent.state is AgentState.LOCKED:
        return False
    shut_out(c, name, reason, actor, now, revoke=False)
    return True


def unlock(c: Connection, name: AgentName, actor: str, now: datetime) -> Agent:
    """It goes on as who it was; where no certificate of it counts any more, it has to be invited again."""
    agent = insisted(c, name)
    if agent.state is not AgentState.LOCKED:
        return agent
    alive = any(each.counts(now) for each in certificates(c, name)) and agent.signing is not None
    state = AgentState.ACTIVE if alive else AgentState.INVITED
    c.execute(update(table).where(table.c.name == name).values(state=state, reason=""))
    told(c, actor, "agent.unlocked", name, {"state": state.value}, now)
    return current(c, name)


def drain(c: Connection, name: AgentName, on: bool, actor: str, now: datetime) -> Agent:
    """Nothing new is given to it from now on, or again."""
    agent, before = insisted(c, name), AgentState.ACTIVE if on else AgentState.DRAINING
    wanted = AgentState.DRAINING if on else AgentState.ACTIVE
    if agent.state is wanted:
        return agent
    if agent.state is not before:
        raise NameInUse(f"agent {name} is {agent.state}; only one that is {before} can be made {wanted}")
    c.execute(update(table).where(table.c.name == name).values(state=wanted))
    told(c, actor, "agent.draining" if on else "agent.resumed", name, {}, now)
    return current(c, name)


def remove(c: Connection, name: AgentName, actor: str, now: datetime) -> bool:
    """Whether it was there. Its identity counts no more, its targets are free, its rights are gone, and its generations
    go on counting should the name be given again."""
    agent = insisted(c, name)
    if agent.state is AgentState.REMOVED:
        return False
    targets = targets_of(c, name)
    revoke_all(c, name, now)
    withdraw(c, name, now)
    for each in bindings(c, name):
        take_away(c, each)
    empty: dict[str, Any] = {"state": AgentState.REMOVED, "signing": None, "sealing": None, "granted": [], "reason": ""}
    unheard: dict[str, Any] = {"joined_at": None, "heard_at": None, "version": "", "reported": [], "queue": 0}
    c.execute(update(table).where(table.c.name == name).values(empty | unheard | {"way": "", "peer": "", "server": ""}))
    told(c, actor, "agent.removed", name, {"targets": list(targets)}, now)
    return True


def grant(c: Connection, name: AgentName, kinds: Sequence[str], given: bool, actor: str, now: datetime) -> Agent:
    """Runtimes that it may work with from now on, or may no more."""
    agent = insisted(c, name)
    kept = {*agent.granted, *kinds} if given else {*agent.granted} - {*kinds}
    if kept == {*agent.granted}:
        return agent
    c.execute(update(table).where(table.c.name == name).values(granted=sorted(kept)))
    told(c, actor, "agent.granted" if given else "agent.revoked", name, {"kinds": sorted(kinds)}, now)
    return current(c, name)


def bind(c: Connection, name: AgentName, target: TargetId, shared: bool, actor: str, now: datetime) -> Agent:
    """One more target of an agent."""
    agent = insisted(c, name)
    if agent.state is AgentState.REMOVED:
        raise Missing(f"agent {name} was removed; invite it again")
    if give(c, name, target, shared):
        told(c, actor, "agent.bound", name, {"target": target, "shared": shared}, now)
    return current(c, name)


def unbind(c: Connection, name: AgentName, target: TargetId, actor: str, now: datetime) -> bool:
    """Whether it served the target."""
    insisted(c, name)
    found = next((each for each in bindings(c, name) if each.target == target), None)
    if found is None:
        return False
    take_away(c, found)
    told(c, actor, "agent.unbound", name, {"target": target}, now)
    return True


def hand_over(c: Connection, name: AgentName, target: TargetId, actor: str, now: datetime) -> None:
    """The agent holds the target that it shares with others, from a higher fence on. `Missing` if it does not."""
    insisted(c, name)
    rows = c.execute(select(bound_table).where(bound_table.c.target == target)).all()
    if not any(row.agent == name for row in rows):
        raise Missing(f"agent {name} does not serve {target}")
    hand_to(c, name, target)
    freed = fenced_off(c, [target])
    told(c, actor, "agent.holds", name, {"target": target, "environments": freed}, now)
    raised(c, [AgentName(row.agent) for row in rows])


def declare_dead(
    c: Connection, name: AgentName, actor: str, now: datetime
) -> tuple[Mapping[TargetId, AgentName | None], tuple[EnvironmentId, ...]]:
    """Somebody answers for it that the host runs nothing any more. It is locked, whoever shares a target with it holds
    that one now, and all that was started in the environments of its targets is fenced off. Who holds each target now,
    and those environments."""
    insisted(c, name)
    shut_out(c, name, "declared dead", actor, now, revoke=False)
    heirs: dict[TargetId, AgentName | None] = {}
    for each in bindings(c, name):
        heirs[each.target] = heir = heir_of(c, each) if each.holder else None
        if heir is not None:
            hand_to(c, heir, each.target)
    freed = fenced_off(c, list(heirs))
    said = {"targets": dict(heirs), "environments": list(freed)}
    told(c, actor, "agent.declared_dead", name, said, now)
    raised(c, [heir for heir in heirs.values() if heir is not None])
    return heirs, freed
