"""Commands that look: status, drift, plan, why, evidence. None of them changes anything."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from sqlalchemy import Connection

from api.commands import agents, lookup
from api.commands.given import Given
from api.commands.jobs import summary
from api.house import House
from api.problem import Problem
from desired_state.model import DesiredState
from reconciler.core.drift import Known, is_held
from reconciler.core.plan import Cause, Content, Grant, Plan
from reconciler.store import environments, history, jobs, memories, overview
from reconciler.store import evidence as evidence_rows
from reconciler.store.records import DecisionInterval, EnvironmentRow, EvidenceRow, StandingInterval
from stickers import digest, names
from stickers.names import EnvironmentId, EvidenceId
from stickers.signature import SignatureError

Events = AsyncGenerator[dict[str, Any], None]


async def status(house: House, given: Given) -> Events:
    """Every environment in a line, or one with its placements."""
    wanted = given.environment_or_none()
    pairs = [await lookup.environment(house, wanted)] if wanted else await lookup.every_environment(house, given)
    counts = await house.store.read(lambda c: history.counts_now(c, wanted))
    rows = [await _environment(house, row, desired, counts.get(row.id, {})) for row, desired in pairs]
    if wanted:
        standings = await house.store.read(lambda c: history.standing_now(c, wanted))
        rows[0] |= {"placements": [standing_row(standing) for standing in standings]}
    source = {"problem": house.reconciler.source_problem}
    standing = {} if wanted else {"agents": await agents.counted(house, given)}
    yield {"result": {"installation": house.installation, "environments": rows, "source": source, **standing}}


async def _environment(
    house: House, row: EnvironmentRow, desired: DesiredState, verdicts: dict[str, int]
) -> dict[str, Any]:
    decision = await house.store.read(lambda c: history.last_decision(c, row.id))
    job = await house.store.read(lambda c: jobs.active(c, row.id))
    known = await house.store.read(lambda c: memories.known(c, row.id, house.now()))
    suspension = known.suspended or desired.environment.suspend
    return {
        "id": row.id,
        "release": row.release,
        "revision": row.revision,
        "generation": row.generation,
        "accepted_at": row.accepted_at,
        "undeclared_at": row.undeclared_at,
        "last_attempted": row.last_attempted,
        "last_applied": row.last_applied,
        "targets": len(desired.targets),
        "verdicts": verdicts,
        "conditions": [digest.plain(condition) for condition in row.conditions],
        "suspended": digest.plain(suspension) if suspension else None,
        "job": summary(job) if job else None,
        "looked_at": decision.until if decision else None,
    }


def standing_row(standing: StandingInterval) -> dict[str, Any]:
    """One placement as everybody sees it."""
    worn, declared = standing.content["sticker"], standing.content["declared"]
    return {
        "number": standing.number,
        "environment": standing.environment,
        "target": standing.id.target,
        "component": standing.id.component,
        "slot": standing.id.slot,
        "verdict": standing.verdict,
        "trust": standing.trust,
        "rule": standing.rule,
        "reason": standing.reason,
        "release": worn["claim"]["release"] if worn else (declared or {}).get("release"),
        "since": standing.since,
        "until": standing.until,
        "differences": standing.content["differences"],
    }


async def drift(house: House, given: Given) -> Events:
    """Every placement that is not in sync, with what blocks it."""
    wanted = given.environment_or_none()
    if wanted is not None:
        await lookup.environment(house, wanted)
        ids = [wanted]
    else:
        ids = [row.id for row in await house.store.read(environments.all) if given.sees(row.id)]
    yield {"result": {"placements": await house.store.read(lambda c: _drifted(c, ids))}}


def _drifted(c: Connection, ids: list[EnvironmentId]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for id, drifted in overview.drifted(c, ids).items():
        blocks = _blocks(history.last_decision(c, id))
        rows += [standing_row(each) | {"blocked": blocks.get(str(each.id))} for each in drifted]
    return rows


def _blocks(decision: DecisionInterval | None) -> dict[str, str]:
    """placement -> what blocks it, by the last decision."""
    if decision is None:
        return {}
    return {item["placement"]: f"{item['reason']} ({item['remedy']})" for item in decision.content.get("blocked", ())}


async def plan(house: House, given: Given) -> Events:
    id = given.environment()
    _, desired = await lookup.environment(house, id)
    known = await house.store.read(lambda c: memories.known(c, id, house.now()))
    grant = Grant(advance=True, heal=True, removal=given.text_or_none("confirm_removal"))
    plan = await house.reconciler.plan(id, grant)
    yield {"result": planned(plan) | {"notes": list(_notes(desired, known))}}


def _notes(desired: DesiredState, known: Known) -> Iterator[str]:
    """What a reader of a plan must know beside it."""
    if suspension := known.suspended or desired.environment.suspend:
        yield f"{desired.environment.id} is suspended ({suspension.reason}): only `holdfast sync` acts"
    if is_held(desired, known):
        yield f"{desired.release.name} is refused here: every placement is held at its last good"


def planned(plan: Plan) -> dict[str, Any]:
    """A plan as plain data: waves of changes, what is blocked, and the hash that `sync` takes."""
    return {
        "environment": plan.environment,
        "kind": plan.kind,
        "desired": plan.desired_digest,
        "hash": plan.hash,
        "removal_hash": plan.removal,
        "waves": [[_change(cause) for intent in wave.intents for cause in intent.causes] for wave in plan.waves],
        "blocked": [
            {
                "placement": str(each.id),
                "code": each.code,
                "reason": f"{each.reason}; {each.remedy}" if each.remedy else each.reason,
                "until": each.until,
                "verdict": each.verdict,
            }
            for each in plan.blocked
        ],
    }


def _change(cause: Cause) -> dict[str, Any]:
    return {
        "target": cause.id.target,
        "component": cause.id.component,
        "change": cause.kind,
        "verdict": cause.verdict,
        "heal": cause.heal,
        "found": digest.plain(cause.found),
        "wanted": digest.plain(cause.wanted),
        "summary": f"{cause.kind} {_side(cause.found)} -> {_side(cause.wanted)}, {cause.reason or cause.rule}",
        "differences": list(cause.differences),
    }


def _side(content: Content | None) -> str:
    if content is None:
        return "nothing"
    name = content.release or "unknown release"
    return f"{name} ({digest.short(content.artifact)})" if content.artifact else name


async def why(house: House, given: Given) -> Events:
    """Everything known about a target: declared, worn, running, the rule that fired, and what happens next."""
    row, target = await lookup.target(house, given.target(), given)
    _, desired = await lookup.environment(house, row.id)
    standings = await house.store.read(lambda c: history.why(c, target.id))
    decision = await house.store.read(lambda c: history.last_decision(c, row.id))
    known = await house.store.read(lambda c: memories.known(c, row.id, house.now()))
    suspension = known.suspended or desired.environment.suspend
    yield {
        "result": {
            "target": target.id,
            "driver": target.driver,
            "environment": row.id,
            "suspended": digest.plain(suspension) if suspension else None,
            "placements": [_why(standing, decision, known, desired) for standing in standings],
        }
    }


def _why(
    standing: StandingInterval, decision: DecisionInterval | None, known: Known, desired: DesiredState
) -> dict[str, Any]:
    content = standing.content
    worn, seen = content["sticker"], content["standing"] or {}
    workload, memory = seen.get("workload"), known.memories.get(standing.id)
    declared = next((each for each in desired.placements if each.id == standing.id), None)
    return standing_row(standing) | {
        "declared": _declared(content["declared"]),
        "wanted": _declared(content["wanted"]),
        "sticker": _worn(worn, standing),
        "running": _running(workload),
        "instance": workload["instance"] if workload else None,
        "last_good": memory.last_good.release if memory and memory.last_good else None,
        "refused": known.refused.get(declared.trial) if declared else None,
        "blocked": _blocks(decision).get(str(standing.id)),
        "evidence": worn["evidence"] if worn else None,
        "decided": _decided(decision),
        "next_look": decision.again_at if decision else None,
    }


def _declared(side: dict[str, Any] | None) -> str | None:
    if side is None:
        return None
    stopped = "" if side["running"] else ", declared stopped"
    content = f"{digest.short(side['artifact'])}, configuration {digest.short(side['configuration'])}"
    return f"{side['release']} ({content}){stopped}"


def _worn(worn: dict[str, Any] | None, standing: StandingInterval) -> str:
    if worn is None:
        return f"{standing.trust}"
    what = f"{worn['claim']['release']} ({digest.short(worn['claim']['artifact'])})"
    return f"{what}, {worn['phase']}, sequence {worn['sequence']}, {standing.trust}"


def _running(workload: dict[str, Any] | None) -> str:
    if workload is None:
        return "nothing"
    artifact = digest.short(workload["artifact"]) if workload["artifact"] else "an unknown artifact"
    health = workload["health"]
    said = f": {health['detail']}" if health["detail"] else ""
    return f"{artifact} as {workload['instance'][:24]}, {workload['state']}, {health['state']}{said}"


def _decided(decision: DecisionInterval | None) -> str | None:
    if decision is None:
        return None
    return f"{decision.rule} ({decision.count} turns since {decision.since.isoformat(timespec='seconds')})"


def _subject(row: EvidenceRow) -> str:
    """An agent is believed of its own targets alone."""
    return f"{row.environment}/{names.split_id(row.target)[1]}"


async def evidence(house: House, given: Given) -> Events:
    """A kept statement with its content, and whether its signature holds today."""
    try:
        id = EvidenceId(names.digest(given.text("id")))
    except names.InvalidName as error:
        raise Problem("BAD_ARGUMENT", str(error)) from None
    row = await house.store.read(lambda c: evidence_rows.load(c, id))
    if row is None or not given.sees(row.environment):
        raise Problem(
            "NO_EVIDENCE", f"no statement {id} is kept; ids are shown by `holdfast why` and `holdfast job show`"
        )
    try:
        content, signature = house.keyring.payload(row.envelope, row.kind, lambda _: _subject(row)), "valid"
    except SignatureError as error:
        content, signature = b"null", str(error)
    yield {
        "result": {
            "id": row.id,
            "kind": row.kind,
            "environment": row.environment,
            "target": row.target,
            "component": row.component,
            "at": row.at,
            "signature": signature,
            "statement": json.loads(content),
        }
    }
