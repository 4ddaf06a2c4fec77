"""Looking at plain hosts: one request for all targets, then the health checks, then who really answered them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import anyio
from pydantic import ValidationError

from desired_state.health import CommandCheck
from desired_state.health import Health as Declared
from desired_state.model import Target
from drivers import probes
from drivers.contract import Look, Tools
from drivers.errors import DriverError, InvalidAction
from drivers.process import render
from drivers.process.connection import Connection
from drivers.process.line import Raw, Sees
from stickers import codec
from stickers.names import ActionKey, ComponentName, Digest, PlacementId, SlotName, TargetId
from stickers.observation import Health, HealthState, Observation, Standing, Workload, WorkloadState, Worn

TOGETHER: Final = 64  # health checks on their way at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One instance whose health is to be asked."""

    where: Raw
    address: str
    declared: Declared
    workload: Raw

    @property
    def port(self) -> int:
        return int(self.workload["listening"]["port"])

    @property
    def socket(self) -> dict[str, Any]:
        return {"instance": self.workload["instance"], "address": self.address, "port": self.port}


Connections = dict[TargetId, tuple[Raw, Connection]]  # each as its document said it, and as it was read


class Sight:
    """Sees targets, and remembers what it has parsed."""

    def __init__(
        self,
        tools: Tools,
        line: Sees,
        connected: probes.Connected | None = None,
        model: type[Connection] = Connection,
        connections: Connections | None = None,
    ) -> None:
        self.tools, self.line, self._connected, self._model = tools, line, connected, model
        self._connections = {} if connections is None else connections
        self._worn: dict[PlacementId, tuple[Raw, Worn]] = {}
        self._standings: dict[PlacementId, tuple[Raw, Standing]] = {}

    def connection(self, target: Target) -> Connection:
        known = self._connections.get(target.id)
        if known is not None and known[0] == target.connection:
            return known[1]
        try:
            connection = self._model.model_validate(dict(target.connection))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            path = ".".join(str(step) for step in first["loc"])
            raise InvalidAction(f"connection of {target.id}: {path}: {first['msg']}") from None
        self._connections[target.id] = (dict(target.connection), connection)
        return connection

    # -- all targets at once -----------------------------------------------------------------------------------------

    async def observe(self, looks: Sequence[Look]) -> Mapping[TargetId, Observation]:
        at = self.tools.now()
        unseen, asks = self._asks(looks)
        try:
            answers = await self._seen(list(asks.values())) if asks else []
        except DriverError as error:
            answers = [{"unseen": str(error)} for _ in asks]
        raws = dict(zip(asks, answers, strict=True))
        healths = await self._all_healths([look for look in looks if look.target.id in raws], raws)
        found = {}
        for look in looks:
            id = look.target.id
            raw = raws.get(id, {"unseen": unseen.get(id)})
            standings = tuple(self._standing(id, standing, healths) for standing in raw.get("standings", ()))
            ordered = tuple(sorted(standings, key=lambda standing: (standing.component, standing.slot)))
            found[id] = Observation(target=id, at=at, standings=ordered, unseen=raw.get("unseen"))
        return found

    async def _seen(self, asks: Sequence[Raw]) -> Sequence[Raw]:
        found: Sequence[Raw] = (await self.line.see("look", {}, targets=asks))["targets"]
        return found

    def _asks(self, looks: Sequence[Look]) -> tuple[dict[TargetId, str], dict[TargetId, dict[str, Any]]]:
        unseen: dict[TargetId, str] = {}
        asks: dict[TargetId, dict[str, Any]] = {}
        for look in looks:
            try:
                asks[look.target.id] = self._ask(look)
            except InvalidAction as error:
                unseen[look.target.id] = str(error)
        return unseen, asks

    def _ask(self, look: Look) -> dict[str, Any]:
        connection = self.connection(look.target)
        ports = {render.folder(placement.id): render.asked_port(placement.health) for placement in look.placements}
        return {
            "root": connection.root,
            "installation": str(self.tools.installation),
            "target": str(look.target.id),
            "address": connection.address,
            "ports": {folder: port for folder, port in ports.items() if port is not None},
        }

    async def _all_healths(self, looks: Sequence[Look], raws: Mapping[TargetId, Raw]) -> dict[PlacementId, Health]:
        questions: dict[PlacementId, Question] = {}
        for look in looks:
            running = {
                (standing["component"], standing["slot"]): standing["workload"]
                for standing in raws[look.target.id].get("standings", ())
                if standing["workload"] and standing["workload"]["state"] == "running"
            }
            for placement in look.placements:
                workload = running.get((placement.id.component, placement.id.slot))
                if workload is not None and placement.health is not None:
                    questions[placement.id] = self.question(look.target, placement.id, placement.health, workload)
        return dict(zip(questions, await self.healths(list(questions.values())), strict=True))

    # -- health ------------------------------------------------------------------------------------------------------

    def question(self, target: Target, id: PlacementId, declared: Declared, workload: Raw) -> Question:
        connection = self.connection(target)
        where = render.place(id, self.tools.installation, connection.root)
        return Question(where=where, address=connection.address, declared=declared, workload=workload)

    async def healths(self, questions: Sequence[Question]) -> list[Health]:
        """Ask each once. An answer over a port counts only if the same sockets of the workload's own group listened
        there before and after it."""
        if not questions:
            return []
        answers: list[Health] = [_UNASKED] * len(questions)
        limiter = anyio.CapacityLimiter(TOGETHER)

        async def ask(index: int) -> None:
            async with limiter:
                answers[index] = await self._answer(questions[index])

        async with anyio.create_task_group() as group:
            for index in range(len(questions)):
                group.start_soon(ask, index)
        await self._confirm(questions, answers)
        now = self.tools.now()
        return [replace(answer, checked_at=now) for answer in answers]

    async def _answer(self, question: Question) -> Health:
        check = question.declared.check
        if isinstance(check, CommandCheck):
            return await self._command(question, check)
        who = question.workload["listening"]["who"]
        if who != "ours":
            return not_ours(who, question.port)
        timeout = question.declared.timeout
        return await probes.ask(check, question.address, question.port, timeout, self._connected)

    async def _command(self, question: Question, check: CommandCheck) -> Health:
        seconds = question.declared.timeout.total_seconds()
        instance = question.workload["instance"]
        order = {"do": "check", "instance": instance, "argv": list(check.argv), "timeout": seconds}
        try:
            answer = await self.line.wait("ask", question.where, order=order, timeout=seconds + 5)
        except DriverError as error:
            return Health(state=HealthState.UNKNOWN, detail=str(error))
        code = answer["exit_code"]
        if code == 0:
            return Health(state=HealthState.HEALTHY, detail=str(check))
        ended = f"no answer within {seconds:g} s" if code is None else f"exit code {code}"
        return Health(state=HealthState.UNHEALTHY, detail=f"{check}: {ended}")

    async def _confirm(self, questions: Sequence[Question], answers: list[Health]) -> None:
        asked = [
            index
            for index, question in enumerate(questions)
            if answers[index].state is HealthState.HEALTHY and not isinstance(question.declared.check, CommandCheck)
        ]
        if not asked:
            return
        for index, now in zip(asked, await self._listening([questions[index] for index in asked]), strict=True):
            before = questions[index].workload["listening"]
            if now["who"] != "ours" or now["inodes"] != before["inodes"]:
                answers[index] = not_ours(now["who"], questions[index].port)

    async def _listening(self, questions: Sequence[Question]) -> list[Raw]:
        try:
            answer = await self.line.see("listens", {}, asks=[question.socket for question in questions])
        except DriverError:
            return [{"who": "unknown", "inodes": []}] * len(questions)
        found: list[Raw] = answer["found"]
        return found

    # -- the host's words to ours ------------------------------------------------------------------------------------

    def _standing(self, target: TargetId, raw: Raw, healths: Mapping[PlacementId, Health]) -> Standing:
        id = PlacementId(target, ComponentName(raw["component"]), SlotName(raw["slot"]))
        known = self._standings.get(id)
        if known is None or known[0] != raw:
            known = self._standings[id] = (raw, self.standing(id, raw))
        standing = known[1]
        if standing.workload is None or id not in healths:
            return standing
        return replace(standing, workload=replace(standing.workload, health=healths[id]))

    def standing(self, id: PlacementId, raw: Raw) -> Standing:
        return Standing(
            component=id.component,
            slot=id.slot,
            worn=self._sticker(id, raw["sticker"]),
            workload=workload(raw["workload"]) if raw["workload"] else None,
            kept=tuple((Digest(artifact), Digest(configuration)) for artifact, configuration in raw["kept"]),
            debris=tuple(raw["debris"]),
            fence=raw["fence"],
        )

    def _sticker(self, id: PlacementId, raw: Raw | None) -> Worn | None:
        if raw is None:
            self._worn.pop(id, None)
            return None
        known = self._worn.get(id)
        if known is None or known[0] != raw:
            known = self._worn[id] = (raw, worn(raw))
        return known[1]


def worn(raw: Raw) -> Worn:
    """The sticker's file as it was found."""
    if "problem" in raw:
        return Worn(envelope=None, problem=raw["problem"])
    try:
        return Worn(envelope=codec.from_file(raw["text"].encode()))
    except codec.Unreadable as error:
        return Worn(envelope=None, problem=str(error))


def workload(raw: Raw, health: Health | None = None) -> Workload:
    started = raw["started_ms"]
    return Workload(
        instance=raw["instance"],
        artifact=raw["artifact"],
        configuration=raw["configuration"],
        state=WorkloadState(raw["state"]),
        health=health or _unchecked(raw),
        key=None if raw["key"] is None else ActionKey(raw["key"]),
        started_at=None if started is None else datetime.fromtimestamp(started / 1000, UTC),
        restarts=raw["restarts"],
        exit_code=raw["exit_code"],
        differences=tuple(raw["differences"]),
    )


def _unchecked(raw: Raw) -> Health:
    """Without a check only the runtime's own word is known, and it may be bad enough."""
    if raw["state"] == "restarting":
        return Health(state=HealthState.UNHEALTHY, detail=f"exited with code {raw['exit_code']}, to be started again")
    return _UNASKED


def not_ours(who: str, port: int) -> Health:
    if who == "unknown":
        return Health(state=HealthState.UNKNOWN, detail=f"who listens on port {port} cannot be told without its rights")
    if who == "nobody":
        return Health(state=HealthState.UNHEALTHY, detail=f"nothing listens on port {port}")
    return Health(state=HealthState.UNHEALTHY, detail=f"port {port} is not held by the workload's own processes")


_UNASKED: Final = Health(state=HealthState.UNCHECKED)
