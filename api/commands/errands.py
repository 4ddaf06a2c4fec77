"""What people ask of an agent beside deployments: a command or files by the names that its host has given them, a look,
another version of itself, and belief in the signer's next key."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection

from api.commands.given import Given
from api.house import House
from api.problem import Problem
from drivers.agent.protocol import Errand, Lines, Malformed, Trust, Upgrade, Upload, UploadedFile, Verb, from_plain
from drivers.contract import Ended
from drivers.errors import DriverError
from reconciler.store import agents, audit
from reconciler.store.agents import SPEAKING
from stickers import names
from stickers.names import AgentName, Artifact, TargetId
from stickers.observation import Workload

if TYPE_CHECKING:
    from api.agents.station import Station

Events = AsyncGenerator[dict[str, Any], None]

OVERLAP: Final = 24 * 3600  # seconds in which the signer's former key is still believed


async def run(house: House, given: Given) -> Events:
    """A command that the target's host names. It is run once, whatever is lost meanwhile."""
    target, name, station = given.target(), _named(given), _station(house)
    await _audited(house, given, "agent.run", target, {"name": name, "arguments": len(given.texts("arguments"))})
    errand = Errand(name=name, arguments=given.texts("arguments"))
    ended = await station.ask(target, Verb.EXECUTE_COMMAND, errand, Ended)
    said = house.redactor.clean(ended.said)
    yield {"result": {"target": target, "name": name, "exit_code": ended.exit_code, "why": ended.why, "said": said}}


async def upload(house: House, given: Given) -> Events:
    """Files for a directory that the target's host names; all of them, or none."""
    target, name, station = given.target(), _named(given), _station(house)
    files = _files(given)
    said = {"name": name, "files": {file.path: file.digest for file in files}}
    await _audited(house, given, "agent.upload", target, said)
    lines = await station.ask(target, Verb.UPLOAD_FILES, Upload(name=name, files=files), Lines)
    yield {"result": {"target": target, "name": name, "files": list(lines.lines)}}


async def inspect(house: House, given: Given) -> Events:
    """A target as its agent sees it now. Nothing is recorded: what is decided is decided by the turns' own looks."""
    target, station = given.target(), _station(house)
    found = await station.inspect(target)
    seen = [_workload(one.component, one.workload) for one in found.standings if one.workload is not None]
    yield {"result": {"target": target, "unseen": found.unseen, "seen": seen}}


def _workload(component: str, workload: Workload) -> dict[str, str]:
    return {
        "component": component,
        "state": workload.state.value,
        "health": workload.health.state.value,
        "detail": workload.health.detail,
        "artifact": workload.artifact or "",
        "instance": workload.instance,
    }


async def upgrade(house: House, given: Given) -> Events:
    """The agent by another version of itself. Answered when that has reported; `REFUSED` when it was undone."""
    name, version, station = AgentName(given.text("name")), given.text("version"), _station(house)
    try:
        artifact = Artifact.parse(given.text("artifact"))
    except names.InvalidName as error:
        raise Problem("BAD_ARGUMENT", f"artifact: {error}") from None
    target = (await house.store.read(lambda c: _serving(c, name))).get(name)
    if target is None:
        raise Problem("NO_AGENT", f"there is no agent {name[:80]} that may speak and holds a target")
    await _audited(house, given, "agent.upgrade", name, {"artifact": str(artifact), "version": version})
    said = Upgrade(artifact=str(artifact), version=version)
    reported = await station.ask(target, Verb.UPGRADE, said, str)
    told = {"agent": name, "artifact": str(artifact), "version": reported}
    yield {"result": told | {"message": f"agent {name} is version {reported} now"}}


async def trust(house: House, given: Given) -> Events:
    """Have every agent believe the key that the signer's rotation has made, vouched for by the one before."""
    station, office = _station(house), house.agents
    keys = office.signers() if office is not None else ()
    if len(keys) < 2:
        raise Problem("NOT_ROTATING", "the signer has no key that is to follow; `holdfast signer rotate` makes one")
    rows = await house.store.read(_serving)
    await _audited(house, given, "agent.trust", keys[1], {"agents": len(rows)})
    told: dict[AgentName, str | None] = {}
    for agent, target in rows.items():
        try:
            await station.ask(target, Verb.TRUST, Trust(public=keys[1], overlap=OVERLAP), object)
            told[agent] = None
        except (DriverError, Problem) as error:
            told[agent] = house.redactor.clean(str(error))
    yield {"result": {"public": keys[1], "agents": [{"name": name, "problem": why} for name, why in told.items()]}}


def _serving(c: Connection, name: AgentName | None = None) -> dict[AgentName, TargetId]:
    """Every agent that may speak, or that one, with one of the targets that it holds."""
    one = None if name is None else agents.by_name(c, name)
    rows = agents.all(c) if name is None else (() if one is None else (one,))
    speaking = {agent.name for agent in rows if agent.state in SPEAKING}
    return {each.agent: each.target for each in agents.bindings(c, name) if each.holder and each.agent in speaking}


def _station(house: House) -> Station:
    if house.station is None:
        raise Problem("NO_AGENTS", "this process listens for no agents: HOLDFAST_AGENTS_LISTEN")
    return house.station


def _named(given: Given) -> str:
    try:
        return names.name(given.text("name"), "name that a host gives")
    except names.InvalidName as error:
        raise Problem("BAD_ARGUMENT", str(error)) from None


def _files(given: Given) -> tuple[UploadedFile, ...]:
    try:
        found = from_plain(tuple[UploadedFile, ...], list(given.map("files").values()))
    except Malformed as error:
        raise Problem("BAD_ARGUMENT", f"files: {error}") from None
    if not found:
        raise Problem("BAD_ARGUMENT", "files: nothing to upload")
    return found


async def _audited(house: House, given: Given, action: str, subject: str, detail: Mapping[str, object]) -> None:
    """Before it is asked: whatever becomes of it, somebody wanted it."""
    await house.store.write(
        lambda c: audit.append(
            c,
            environment=None,
            actor=given.actor,
            action=action,
            subject=subject,
            detail=detail,
            now=house.now(),
        )
    )
