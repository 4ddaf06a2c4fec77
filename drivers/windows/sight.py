"""Looking at Windows hosts: one request for all targets of a host, then the health checks, asked by the host itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from desired_state.health import CommandCheck
from drivers import probes
from drivers.contract import Tools
from drivers.errors import DriverError, Unreachable
from drivers.process.line import Raw
from drivers.process.render import folder
from drivers.process.sight import Question, Sight, not_ours
from drivers.windows import render
from drivers.windows.connection import Connection
from drivers.windows.eyes import ABSENT, Seen
from drivers.windows.line import Gaze
from stickers.names import PlacementId
from stickers.observation import Health, HealthState

PATIENCE: Final = 0.9  # of a check's time-out, after which the host itself gives up


class WindowsSight(Sight):
    """`connected` is the way to the host's own addresses, where there is one; else the helper asks for us."""

    def __init__(self, tools: Tools, gaze: Gaze, connected: probes.Connected | None = None) -> None:
        super().__init__(tools, gaze, connected, Connection)  # type: ignore[arg-type]  # a model with the same fields
        self.gaze = gaze

    async def _seen(self, asks: Sequence[Raw]) -> Sequence[Raw]:
        targets = [self._target(ask) for ask in asks]
        answer = await self.gaze.see("look", {}, targets=targets)
        taken = answer["taken"]
        found = zip(asks, answer["targets"], strict=True)
        return [raw if "unseen" in raw else self._told(ask, raw, taken) for ask, raw in found]

    def _target(self, ask: Raw) -> dict[str, Any]:
        services = render.prefix(ask["installation"], ask["target"])
        return {**{name: ask[name] for name in ("root", "installation", "target")}, "services": services}

    def _told(self, ask: Raw, raw: Raw, taken: Sequence[int]) -> Raw:
        found = []
        for place in raw["places"]:
            component, _, slot = place["folder"].partition(".")
            port = ask["ports"].get(place["folder"])
            found.append(Seen(place, taken).standing(component, slot or "live", port))
        return {"standings": found}

    async def look(self, id: PlacementId, root: str) -> Seen:
        """One placement."""
        where = render.target(id.target, self.tools.installation, root)
        answer = await self.gaze.see("look", {}, targets=[where])
        return seen_of(answer, folder(id))

    # -- health ------------------------------------------------------------------------------------------------------

    async def _answer(self, question: Question) -> Health:
        check = question.declared.check
        if isinstance(check, CommandCheck) or self._connected is not None:
            return await super()._answer(question)
        who = question.workload["listening"]["who"]
        if who != "ours":
            return not_ours(who, question.port)
        timeout = question.declared.timeout
        way = partial(self.gaze.connected, within=PATIENCE * timeout.total_seconds())
        return await probes.ask(check, question.address, question.port, timeout, way)

    async def _command(self, question: Question, check: CommandCheck) -> Health:
        """Run where the release lies, with the environment of the machine and not that of the service."""
        where, seconds = question.where, question.declared.timeout.total_seconds()
        place = _folder(where)
        release = question.workload["release"]
        tree = f"{where['root']}\\{place}\\releases\\{release}\\tree"
        command = {
            "program": render.program(tree, check.argv[0]),
            "arguments": render.quoted(check.argv[1:]),
            "environment": [],
            "stdin": "",
            "within": seconds,
        }
        try:
            asked = {"root": where["root"], "folder": place, "release": release, "command": command}
            answer = await self.gaze.wait("ask", asked, within=seconds)
        except DriverError as error:
            return Health(state=HealthState.UNKNOWN, detail=str(error))
        if answer["exit_code"] == 0:
            return Health(state=HealthState.HEALTHY, detail=str(check))
        return Health(state=HealthState.UNHEALTHY, detail=f"{check}: {answer['why']}")

    async def _listening(self, questions: Sequence[Question]) -> list[Raw]:
        """Who listens now, of one look at all that was asked."""
        targets = {question.where["target"]: self._target(question.where) for question in questions}
        try:
            answer = await self.gaze.see("look", {}, targets=list(targets.values()))
        except DriverError:
            return [{"who": "unknown", "inodes": []}] * len(questions)
        found = dict(zip(targets, answer["targets"], strict=True))
        return [_listener(question, found[question.where["target"]], answer["taken"]) for question in questions]


def _listener(question: Question, raw: Mapping[str, Any], taken: Sequence[int]) -> Raw:
    for place in raw.get("places", ()):
        seen = Seen(place, taken)
        workload = (
            seen.workload(question.workload["release"], question.port)
            if place["folder"] == _folder(question.where)
            else None
        )
        if workload is not None:
            listening: Raw = workload["listening"]
            return listening
    return {"who": "nobody", "inodes": []}


def _folder(where: Raw) -> str:
    return str(where["component"]) if where["slot"] == "live" else f"{where['component']}.{where['slot']}"


def seen_of(answer: Raw, name: str) -> Seen:
    """One placement of an answer about its target."""
    raw = answer["targets"][0]
    if "unseen" in raw:
        raise Unreachable(str(raw["unseen"]))
    place = next((place for place in raw["places"] if place["folder"] == name), ABSENT)
    return Seen(place, answer["taken"])
