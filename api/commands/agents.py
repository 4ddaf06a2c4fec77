"""Commands about agents: invite them, see how they are, and take away what they may."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection

from api.agents.authority import OF_ISSUER, SOON, Issuer
from api.agents.parts import Agents
from api.commands.given import Given
from api.house import House
from api.people.principal import Verb
from api.problem import Problem
from drivers.agent.duty.identity import JoinToken
from drivers.agent.protocol import DEGRADED, OFFLINE
from reconciler import loop
from reconciler.store import agents, environments
from reconciler.store.agents import SPEAKING, Agent, Authority, Bound, Certificate, Invite
from reconciler.store.records import AgentState
from stickers import names
from stickers.names import AgentName, TargetId

Events = AsyncGenerator[dict[str, Any], None]

INVITED_FOR: Final = timedelta(minutes=15)
LONGEST_HOLD: Final = timedelta(days=30)
KINDS: Final = ("docker", "compose", "process", "systemd", "script")
UNITS: Final = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


# -- what there is ----------------------------------------------------------------------------------------------------


async def index(house: House, given: Given) -> Events:
    """Every agent that serves a target which whoever asks may see; all of them for whoever keeps agents."""
    seen = await _seen(house, given)
    found = await house.store.read(lambda c: _read(c, house.now()))
    rows = [row for row in found if seen is None or seen & set(row["targets"])]
    if seen is not None:
        rows = [row | {"targets": sorted(seen & set(row["targets"]))} for row in rows]
    yield {"result": {"agents": rows}}


async def show(house: House, given: Given) -> Events:
    """One agent, with its certificates."""
    name, seen = _name(given), await _seen(house, given)
    found = await house.store.read(lambda c: _read(c, house.now(), name))
    if not found or (seen is not None and not seen & set(found[0]["targets"])):
        raise _unknown(name)
    certificates = await house.store.read(lambda c: agents.certificates(c, name))
    yield {"result": found[0] | {"certificates": [_certificate(each, house.now()) for each in certificates]}}


async def counted(house: House, given: Given) -> Mapping[str, int]:
    """How many agents stand how, for `holdfast status`."""
    counts: dict[str, int] = {}
    async for event in index(house, given):
        for row in event["result"]["agents"]:
            if row["state"] != AgentState.REMOVED:
                counts[row["presence"]] = counts.get(row["presence"], 0) + 1
    return counts


async def _seen(house: House, given: Given) -> frozenset[TargetId] | None:
    """The targets that whoever asks may see; None is all of them."""
    if given.principal.may(Verb.AGENT_ADMIN) or given.principal.may(Verb.READ):
        return None

    def read(c: Connection) -> frozenset[TargetId]:
        ids = [row.id for row in environments.all(c) if given.sees(row.id)]
        desired = [found for id in ids if (found := environments.desired(c, id)) is not None]
        return frozenset(target.id for each in desired for target in each.targets)

    return await house.store.read(read)


def _read(c: Connection, now: datetime, name: AgentName | None = None) -> list[dict[str, Any]]:
    one = None if name is None else agents.by_name(c, name)
    rows = agents.all(c) if name is None else (() if one is None else (one,))
    bound: dict[AgentName, list[Bound]] = {}
    for each in agents.bindings(c, name):
        bound.setdefault(each.agent, []).append(each)
    invited = agents.open_invites(c, now)
    return [row_of(each, bound.get(each.name, ()), invited.get(each.name), now) for each in rows]


def row_of(agent: Agent, bound: Sequence[Bound], invited: datetime | None, now: datetime) -> dict[str, Any]:
    return {
        "name": agent.name,
        "state": agent.state.value,
        "presence": presence(agent, now),
        "reason": agent.reason,
        "generation": agent.generation,
        "version": agent.version,
        "reported": list(agent.reported),
        "granted": list(agent.granted),
        "targets": [each.target for each in bound],
        "shared": [each.target for each in bound if each.shared],
        "holds": [each.target for each in bound if each.holder],
        "heard_at": agent.heard_at,
        "queue": agent.queue,
        "way": agent.way,
        "peer": agent.peer,
        "server": agent.server,
        "joined_at": agent.joined_at,
        "invited_at": agent.invited_at,
        "invited_by": agent.invited_by,
        "invited_until": invited,
    }


def presence(agent: Agent, now: datetime) -> str:
    """`online`, `degraded` and `offline` are of those that may speak; of others it is how they stand."""
    if agent.state not in SPEAKING:
        return agent.state.value
    if agent.heard_at is None:
        return "offline"
    silent = (now - agent.heard_at).total_seconds()
    if silent > OFFLINE:
        return "offline"
    return "degraded" if silent > DEGRADED else "online"


def _certificate(each: Certificate, now: datetime) -> dict[str, Any]:
    return {
        "serial": format(each.serial, "x"),
        "generation": each.generation,
        "issuer": each.issuer,
        "key": each.key,
        "issued_at": each.issued_at,
        "not_after": each.not_after,
        "used_at": each.used_at,
        "ends_at": each.ends_at,
        "revoked_at": each.revoked_at,
        "counts": each.counts(now),
    }


# -- inviting ---------------------------------------------------------------------------------------------------------


async def invite(house: House, given: Given) -> Events:
    """A join token for one host, shown this once; the targets are the agent's from now on."""
    office, name, now = await _office(house, given), _new_name(given), house.now()
    targets, kinds = tuple(given.target(each) for each in given.texts("targets")), _kinds(given)
    token = JoinToken.made(office.authority.fingerprint, _pinned(office))
    row = Invite(hash=token.hash, agent=name, created_at=now, created_by=given.actor, expires_at=now + INVITED_FOR)
    shared = given.flag("shared")

    def written(c: Connection) -> tuple[Agent, tuple[Bound, ...]]:
        made, bound = agents.invite(c, row, targets, kinds, shared=shared), agents.bindings(c, name)
        if not bound:
            raise Problem("BAD_ARGUMENT", "an agent without a target could do nothing; name one")
        return made, bound

    made, bound = await _changed(house, written)
    url = office.url or "https://HOST:PORT"
    yield {
        "result": row_of(made, bound, row.expires_at, now)
        | {
            "token": str(token),
            "expires_at": row.expires_at,
            "url": office.url or None,
            "run": f"holdfast-agent join {url} --token-file -",
            "message": f"agent {name} can join until {row.expires_at:%H:%M:%S} UTC, once",
        }
    }


def _pinned(office: Agents) -> str:
    signers = office.signers()
    if not signers:
        raise Problem(
            "NO_SIGNER",
            "no signer is known here, and an agent does nothing that none has signed; `holdfast signer init` makes its "
            "keys, and HOLDFAST_SIGNER_KEY names the file with its public one",
        )
    return hashlib.sha256(bytes.fromhex(signers[0])).hexdigest()


async def _office(house: House, given: Given) -> Agents:
    """With an authority, which is made when it is first needed."""
    office = _agents(house)
    await settle_authority(house, office, given.actor)
    return office


async def settle_authority(house: House, office: Agents, actor: str) -> None:
    """The authority, made where there is none, and its certificates among the rows, by which every replica knows them.
    Where the rows know one and the files are not here, nothing is made: a second root would leave all agents behind."""
    known = await house.store.read(agents.authorities)
    if known and not office.authority.exists:
        raise Problem(
            "AUTHORITY_MISSING",
            f"{office.authority.directory} holds no authority, and agents trust one: bring its files from the replica "
            "or the backup that has them",
        )
    office.authority.make(house.now())
    listed = office.authority
    wanted = [_authority(listed.root, "root"), *(_authority(each, "issuer") for each in listed.issuers)]
    roots = [each.id for each in known if each.role == "root"]
    if roots and listed.root.id not in roots:
        raise Problem("AUTHORITY_FOREIGN", f"{listed.directory} holds another root than the one that agents trust")
    missing = [each for each in wanted if each.id not in {row.id for row in known}]
    for each in missing:
        await house.store.write(lambda c, each=each: agents.keep_authority(c, each, actor))  # type: ignore[misc]


def _authority(issuer: Issuer, role: str) -> Authority:
    return Authority(id=issuer.id, role=role, pem=issuer.pem, made_at=issuer.made, retired_at=issuer.retired)


# -- what operators do ------------------------------------------------------------------------------------------------


async def lock(house: House, given: Given) -> Events:
    name, reason = _name(given), given.text_or_none("reason") or f"locked by {given.actor}"
    done = await _changed(house, lambda c: agents.lock(c, name, reason, given.actor, house.now()))
    told = "is locked; nobody speaks with it" if done else "was locked already"
    yield await _moved(house, name, done, f"agent {name} {told}")


async def unlock(house: House, given: Given) -> Events:
    name = _name(given)
    agent = await _changed(house, lambda c: agents.unlock(c, name, given.actor, house.now()))
    told = "goes on" if agent.state in SPEAKING else f"has no identity that counts; `holdfast agent invite {name}`"
    yield await _moved(house, name, True, f"agent {name} is unlocked and {told}")


async def remove(house: House, given: Given) -> Events:
    name = _name(given)
    done = await _changed(house, lambda c: agents.remove(c, name, given.actor, house.now()))
    told = "is removed, and its targets are free" if done else "was removed already"
    yield await _moved(house, name, done, f"agent {name} {told}")


async def drain(house: House, given: Given) -> Events:
    name, on = _name(given), not given.flag("end")
    agent = await _changed(house, lambda c: agents.drain(c, name, on, given.actor, house.now()))
    told = "ends what it does and is given nothing new" if on else "is given work again"
    yield await _moved(house, name, agent.state in SPEAKING, f"agent {name} {told}")


async def grant(house: House, given: Given) -> Events:
    name, kinds = _name(given), _some_kinds(given)
    agent = await _changed(house, lambda c: agents.grant(c, name, kinds, True, given.actor, house.now()))
    yield await _moved(house, name, True, f"agent {name} may work with {', '.join(agent.granted)}")


async def revoke(house: House, given: Given) -> Events:
    name, kinds = _name(given), _some_kinds(given)
    agent = await _changed(house, lambda c: agents.grant(c, name, kinds, False, given.actor, house.now()))
    yield await _moved(house, name, True, f"agent {name} may work with {', '.join(agent.granted) or 'nothing'}")


async def bind(house: House, given: Given) -> Events:
    name, target, shared = _name(given), given.target(), given.flag("shared")
    await _changed(house, lambda c: agents.bind(c, name, target, shared, given.actor, house.now()))
    yield await _moved(house, name, True, f"agent {name} serves {target}{' with others' if shared else ''}")


async def unbind(house: House, given: Given) -> Events:
    name, target = _name(given), given.target()
    done = await _changed(house, lambda c: agents.unbind(c, name, target, given.actor, house.now()))
    yield await _moved(house, name, done, f"agent {name} {'does not serve' if done else 'never served'} {target}")


async def take(house: House, given: Given) -> Events:
    """Of those that share a target another one holds it."""
    name, target = _name(given), given.target()
    await _changed(house, lambda c: agents.hand_over(c, name, target, given.actor, house.now()))
    yield await _moved(house, name, True, f"agent {name} holds {target}; what others began there is fenced off")


async def declare_dead(house: House, given: Given) -> Events:
    """Whoever says so answers for it: nothing runs on that host any more."""
    name = _name(given)
    heirs, freed = await _changed(house, lambda c: agents.declare_dead(c, name, given.actor, house.now()))
    for environment in freed:
        house.reconciler.request(loop.reconcile(environment))
    told = f"agent {name} is locked, and what it began is fenced off"
    taken = ", ".join(f"{target} is held by {heir}" for target, heir in heirs.items() if heir is not None)
    yield await _moved(house, name, True, f"{told}{'; ' + taken if taken else ''}", environments=list(freed))


async def hold(house: House, given: Given) -> Events:
    """While no server can be reached, the agent of the target keeps it as it was last proven, for so long."""
    target, span = given.target(), _span(given.text("for"))
    agent = await _agents(house).hold(target, span)
    told = f"holds {target} for {given.text('for')} without a server" if span else f"holds {target} no more"
    said = {"target": target, "agent": agent, "seconds": int(span.total_seconds())}
    yield {"result": said | {"message": f"agent {agent} {told}"}}


# -- the authority ----------------------------------------------------------------------------------------------------


async def authority(house: House, given: Given) -> Events:
    office = await _office(house, given)
    listed, now = office.authority, house.now()
    left = {each.id: await _left(house, each.id) for each in listed.trusted}
    root = {"id": listed.root.id, "not_after": listed.root.not_after, "fingerprint": listed.fingerprint}
    yield {
        "result": {
            "directory": str(listed.directory),
            "root": root | {"key_here": listed.has_root_key},
            "issuers": [
                {
                    "id": each.id,
                    "made_at": each.made,
                    "not_after": each.not_after,
                    "retired_at": each.retired,
                    "issues": each.id == listed.issuing.id,
                    "agents": left.get(each.id, 0),
                }
                for each in listed.issuers
            ],
            "due": listed.issuing.not_after - now < SOON,
        }
    }


async def rotate(house: House, given: Given) -> Events:
    office = await _office(house, given)
    before = office.authority.issuing
    made = office.authority.rotate(house.now())
    await house.store.write(lambda c: agents.keep_authority(c, _authority(made, "issuer"), given.actor))
    await office.roll.refresh()
    message = (
        f"issuer {made.id} issues from now on, for {OF_ISSUER.days} days; agents come over as they renew. Once "
        f"`holdfast authority show` counts none for the former one: `holdfast authority retire {before.id}`"
    )
    yield {"result": {"id": made.id, "before": before.id, "not_after": made.not_after, "message": message}}


async def retire(house: House, given: Given) -> Events:
    office, id = await _office(house, given), given.text("id")
    left = await _left(house, id)
    if left and not given.flag("force"):
        raise Problem(
            "AUTHORITY_IN_USE",
            f"{left} agents have a certificate of {id}, and would have to be invited again; those that are offline "
            "renew when they come back. --force retires it all the same",
        )
    gone = office.authority.retire(id, house.now())
    await house.store.write(lambda c: agents.retire_authority(c, gone.id, given.actor, house.now()))
    await office.roll.refresh()
    yield {"result": {"id": gone.id, "agents": left, "message": f"issuer {gone.id} counts no more, at once"}}


async def _left(house: House, issuer: str) -> int:
    return await house.store.read(lambda c: agents.issued_by(c, issuer, house.now()))


# -- what is given ----------------------------------------------------------------------------------------------------


def _agents(house: House) -> Agents:
    if house.agents is None:
        raise Problem("NO_AGENTS", "agents are kept by a daemon; `holdfast serve` or `holdfast run` starts it")
    return house.agents


async def _changed(house: House, written: Any) -> Any:
    """What the change answers, once everybody here goes by it."""
    done = await house.store.write(written)
    if house.agents is not None:
        await house.agents.roll.refresh()
    return done


async def _moved(house: House, name: AgentName, changed: bool, message: str, **more: Any) -> dict[str, Any]:
    found = await house.store.read(lambda c: _read(c, house.now(), name))
    if not found:
        raise _unknown(name)
    return {"result": found[0] | {"changed": changed, "message": message} | more}


def _unknown(name: str) -> Problem:
    return Problem("NO_AGENT", f"there is no agent {name[:64]}; `holdfast agent list` shows them")


def _name(given: Given) -> AgentName:
    try:
        return AgentName(names.name(given.text("name"), "name of an agent"))
    except names.InvalidName:
        raise _unknown(given.text("name")) from None


def _new_name(given: Given) -> AgentName:
    try:
        return AgentName(names.name(given.text("name"), "name of an agent"))
    except names.InvalidName as error:
        raise Problem("BAD_ARGUMENT", str(error)) from None


def _kinds(given: Given) -> tuple[str, ...]:
    for kind in given.texts("kinds"):
        if kind not in KINDS:
            raise Problem("BAD_ARGUMENT", f"{kind[:40]!r} is nothing an agent works with; known are {', '.join(KINDS)}")
    return given.texts("kinds")


def _some_kinds(given: Given) -> tuple[str, ...]:
    if not given.texts("kinds"):
        raise Problem("BAD_ARGUMENT", f"no kind is named; known are {', '.join(KINDS)}")
    return _kinds(given)


def _span(text: str) -> timedelta:
    """`30m`, `12h`, `7d`; 0 takes it back."""
    number, unit = text[:-1], UNITS.get(text[-1:])
    if text == "0":
        return timedelta()
    if unit is None or not number.isascii() or not number.isdigit() or len(number) > 6:
        raise Problem("BAD_ARGUMENT", f"{text[:40]!r} is no span; expected 30m, 12h or 7d, or 0 to end it")
    span = int(number) * unit
    if not timedelta() < span <= LONGEST_HOLD:
        raise Problem("BAD_ARGUMENT", f"a target is held for at most {LONGEST_HOLD.days} days, not {text}")
    return span
