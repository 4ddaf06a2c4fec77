"""What a job lacks before anything is changed there. Nothing here changes anything."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Final

from desired_state.health import CommandCheck
from desired_state.model import Placement
from drivers.contract import Diagnosis, Grade, Look
from drivers.errors import DriverError, Terminal
from drivers.nomad import look, render
from drivers.nomad.connection import Connection
from drivers.nomad.eyes import Eyes, outline, placed_words
from drivers.nomad.look import Scene
from drivers.nomad.render import Outline
from stickers.names import ActionKey, InstallationId

OLDEST: Final = (1, 4)  # has Variables
NOBODY: Final = ActionKey("0" * 64)

_BUILD: Final = re.compile(r"(\d+)\.(\d+)")


async def examine(
    eyes: Eyes, connection: Connection, one: Look, installation: InstallationId
) -> AsyncIterator[Diagnosis]:
    """Each thing the target needs, in the order in which it would be missed."""
    try:
        scene = await eyes.scene(connection.job)
    except DriverError as error:
        yield _lacks("job", error, "make Nomad reachable from here, or grant what is said to be missing")
        return
    yield _job(scene, connection, one, installation)
    yield await _version(eyes)
    try:
        there = await outline(eyes.cluster, connection)
        made = _rendered(there, scene, one, installation)
    except DriverError as error:
        yield _lacks("template", error, "correct the template, or the component")
        return
    yield Diagnosis(about="template", grade=Grade.OK, sentence=f"holds {', '.join(sorted(connection.places))}")
    for found in _unasked(there, one):
        yield found
    if made is not None:
        yield await _plan(eyes, made)
    yield await _stickers(eyes, connection, one, installation)


def _lacks(about: str, error: DriverError, remedy: str) -> Diagnosis:
    grade = Grade.MISSING if isinstance(error, Terminal) else Grade.UNKNOWN
    return Diagnosis(about=about, grade=grade, sentence=str(error), remedy=remedy)


def _job(scene: Scene, connection: Connection, one: Look, installation: InstallationId) -> Diagnosis:
    if look.is_strange(scene.job, installation, one.target.id):
        return Diagnosis(
            about="job",
            grade=Grade.MISSING,
            sentence=f"a job {connection.job} is there and holds nothing of {one.target.id}: it is not ours",
            remedy="give the target a job of its own, or stop and purge that one",
        )
    if scene.job is None:
        return Diagnosis(about="job", grade=Grade.OK, sentence=f"{connection.job} is not there yet, and will be made")
    return Diagnosis(about="job", grade=Grade.OK, sentence=f"{connection.job} is at version {scene.job['Version']}")


async def _version(eyes: Eyes) -> Diagnosis:
    try:
        build = await eyes.cluster.build()
    except DriverError as error:
        return Diagnosis(
            about="version",
            grade=Grade.UNKNOWN,
            sentence=str(error),
            remedy='grant agent { policy = "read" } to be told',
        )
    found = _BUILD.match(build)
    fine = found is not None and (int(found[1]), int(found[2])) >= OLDEST
    return Diagnosis(
        about="version",
        grade=Grade.OK if fine else Grade.MISSING,
        sentence=f"Nomad {build[:40]}",
        remedy=None if fine else "stickers are Variables, which came with Nomad 1.4",
    )


def _rendered(there: Outline, scene: Scene, one: Look, installation: InstallationId) -> render.Job | None:
    origin = render.Origin(installation=installation, target=one.target.id, key=NOBODY, fence=0)
    return render.with_components(there, one.placements, origin, scene.job) if one.placements else None


def _unasked(there: Outline, one: Look) -> Iterator[Diagnosis]:
    for placement in one.placements:
        port = _port(placement)
        if port is not None and port not in _ports(there, placement):
            yield Diagnosis(
                about="health",
                grade=Grade.MISSING,
                sentence=f"{placement.id}: port {port} is none that its group's network gives to a host",
                remedy=f"give the group of the template a network with a port whose `to` is {port}",
            )


def _port(placement: Placement) -> int | None:
    check = placement.health.check if placement.health is not None else None
    return None if check is None or isinstance(check, CommandCheck) else check.port


def _ports(there: Outline, placement: Placement) -> set[int]:
    name = there.place(placement.id).group
    group = next(one for one in there.template["TaskGroups"] if one["Name"] == name)
    networks = group.get("Networks") or ()
    given = [port for one in networks for kind in ("DynamicPorts", "ReservedPorts") for port in one.get(kind) or ()]
    return {int(port.get("To") or port.get("Value") or 0) for port in given}


async def _plan(eyes: Eyes, job: render.Job) -> Diagnosis:
    try:
        plan = await eyes.cluster.plan(job)
    except DriverError as error:
        return _lacks("permission to change", error, "grant what is said to be missing, or correct the template")
    for group, metric in sorted((plan.get("FailedTGAllocs") or {}).items()):
        return Diagnosis(
            about="room",
            grade=Grade.WARNING,
            sentence=f"Nomad would not place group {group} now: {placed_words(metric)}",
            remedy="make room, or correct what the template asks of nodes",
        )
    return Diagnosis(about="permission to change", grade=Grade.OK, sentence="Nomad takes the job, and has room for it")


async def _stickers(eyes: Eyes, connection: Connection, one: Look, installation: InstallationId) -> Diagnosis:
    ids = look.component_ids(Scene(job=None), installation, one.target.id, sorted(connection.places))
    try:
        for id in ids:
            await eyes.cluster.variable(look.path(installation, id))
    except DriverError as error:
        return _lacks("stickers", error, 'grant variables { path "holdfast/*" { capabilities = ["read", "write"] } }')
    return Diagnosis(
        about="stickers",
        grade=Grade.UNKNOWN,
        sentence="can be read; whether they can be written is not known before the first is",
        remedy='the policy needs variables { path "holdfast/*" { capabilities = ["read", "write", "destroy"] } }',
    )
