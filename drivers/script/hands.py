"""The hands of the script driver on one target, for the length of one action: each step is a command of somebody's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from desired_state.health import Health
from desired_state.model import Placement, Target
from drivers.contract import Action, Deploy, Ended, Errand, Progress, Remove, Report, Step, Tools
from drivers.errors import Conflict, InvalidAction, OutcomeUnknown, Refused
from drivers.process import render
from drivers.process.line import Acts, run
from drivers.process.sight import workload
from drivers.script.render import Document, document, secrets, told
from drivers.script.sight import TELLS_WITHIN, Raw, Sight, standing
from drivers.sequence import Started
from stickers import codec
from stickers.names import PlacementId
from stickers.observation import Health as Answer
from stickers.observation import HealthState, Standing, Workload, WorkloadState
from stickers.signature import Envelope
from stickers.sticker import Sticker


class Hands:
    """What is known while one action goes on: what was recorded before it, its secrets, and which command failed."""

    def __init__(self, action: Action, sight: Sight, line: Acts, report: Report) -> None:
        self.action, self.sight, self.line, self.report = action, sight, line, report
        self.tools: Tools = sight.tools
        self.connection = sight.connection(action.target)
        self._before: dict[PlacementId, list[Raw]] = {}
        self._values: dict[PlacementId, dict[str, str]] = {}
        self._failed: dict[str, int] = {}  # instance -> exit code

    @property
    def target(self) -> Target:
        return self.action.target

    # -- looking -----------------------------------------------------------------------------------------------------

    async def hold(self, id: PlacementId) -> None:
        await self.line("hold", self._where(id))

    async def look(self, id: PlacementId, adopts: str | None) -> Standing:
        if adopts is not None:
            raise InvalidAction("this driver cannot take over what it did not start")
        raw = await self._look(id)
        self._before[id] = raw["notes"] if raw["ended"] else raw["notes"][1:]
        return standing(id, raw)

    async def workload(self, id: PlacementId, instance: str, health: Health | None) -> Workload | None:
        found = (await self._look(id))["workload"]
        if instance in self._failed:
            return self._never_ran(instance, found)
        if found is None or instance not in (found["instance"], *found["instances"]):
            return None
        placement = self._placement(id)
        if placement is None or found["state"] != "running":
            return workload(found)
        return workload(found, await self.sight.health(self.target, placement))

    def _never_ran(self, instance: str, found: Raw | None) -> Workload:
        """A command that failed, in the words of a workload that ended."""
        return Workload(
            instance=instance,
            artifact=found["artifact"] if found else None,
            configuration=None,
            state=WorkloadState.STOPPED,
            health=Answer(state=HealthState.UNCHECKED),
            key=self.action.key,
            exit_code=self._failed[instance],
        )

    def _placement(self, id: PlacementId) -> Placement | None:
        """What is asked after: health as it is declared for what is being deployed or put back."""
        for change in self.action.changes:
            if change.id == id and not isinstance(change, Remove):
                return change.placement
        return None

    async def _look(self, id: PlacementId) -> dict[str, Any]:
        return await self.line.wait("standing", self._where(id), timeout=TELLS_WITHIN)

    # -- deploying ---------------------------------------------------------------------------------------------------

    async def prepare(self, deploy: Deploy) -> None:
        self._values[deploy.id] = await self._resolve(document(deploy.placement))

    async def start(self, deploy: Deploy) -> Started:
        raw = await self._look(deploy.id)
        found, wanted = raw["workload"], deploy.placement
        done = found is not None and (found["artifact"], found["configuration"]) == wanted.content
        if done and raw["ended"] and found["key"] == self.action.key and self._is_up(wanted, found):
            return Started(instance=found["instance"], beside=False)
        instance = await self._run(deploy.id, "deploy", document(wanted), self._values[deploy.id])
        return Started(instance=instance, beside=False)

    def _is_up(self, placement: Placement, found: Raw) -> bool:
        return bool((found["state"] != WorkloadState.STOPPED) is placement.running)

    async def switch(self, deploy: Deploy, instance: str) -> None:
        """Traffic is the deploy command's part."""

    async def put_back(self, deploy: Deploy, standing: Standing) -> str | None:
        failed = (await self._look(deploy.id))["notes"][0]["instance"]
        back = self._back(deploy)
        if back is None:
            await self.remove(deploy.id)
            return None
        instance = await self._run(deploy.id, "deploy", back, await self._resolve(back))
        await self.line("drop", self._where(deploy.id), instance=failed)
        return instance

    def _back(self, deploy: Deploy) -> Document | None:
        """Last good, else what was recorded of what stood, unless that is what failed."""
        if deploy.predecessor is not None:
            return document(deploy.predecessor)
        others = [note for note in self._before[deploy.id] if note["key"] != self.action.key]
        return others[0]["document"] if others else None

    async def settle(self, deploy: Deploy, instance: str) -> None:
        spare = list(deploy.predecessor.content) if deploy.predecessor else None
        await self.line("collect", self._where(deploy.id), keep=deploy.keep, spare=spare)

    # -- programs beside a deployment --------------------------------------------------------------------------------

    @property
    def lets_hooks(self) -> bool:
        return self.connection.hooks

    async def run(self, id: PlacementId, errand: Errand) -> Ended:
        return await run(self.line, self._where(id), errand)

    # -- restarting, removing, labelling -----------------------------------------------------------------------------

    async def restart(self, id: PlacementId, instance: str) -> str:
        raw = await self._look(id)
        found, placement = raw["workload"], self._placement(id)
        if found is None or placement is None:
            raise Conflict(f"{id}: nothing stands there to be restarted")
        if found["key"] == self.action.key and raw["ended"] and found["instance"] != instance:
            return str(found["instance"])
        if instance not in (found["instance"], *found["instances"]):
            raise Conflict(f"{id}: {found['instance']} stands there, not {instance}")
        wanted = document(placement)
        return await self._run(id, "restart", wanted, await self._resolve(wanted))

    async def remove(self, id: PlacementId) -> None:
        ended = await self._command(id, "remove", {"action": "remove", "key": self.action.key})
        if ended["exit_code"] != 0:
            raise Refused(f"{id}: {self._words('remove', ended)}")
        await self.line("clear", self._where(id))

    async def wear(self, id: PlacementId, sticker: Sticker, envelope: Envelope) -> None:
        await self.line("wear", self._where(id), content=codec.to_file(envelope).decode())

    async def bare(self, id: PlacementId) -> None:
        await self.line("bare", self._where(id))

    # -- commands ----------------------------------------------------------------------------------------------------

    async def _run(self, id: PlacementId, action: str, wanted: Document, values: Mapping[str, str]) -> str:
        """The instance that the command brought up. A command that failed is found out by proof, so that what stood
        before is put back."""
        instance = await self._instance(id, wanted)
        note = {
            "key": self.action.key,
            "instance": instance,
            "artifact": str(wanted["artifact"]).rpartition("@")[2],
            "configuration": _digest(wanted),
            "document": wanted,
        }
        ended = await self._command(id, action, told(action, self.action.key, id, wanted, values), note)
        if ended["exit_code"] != 0:
            self._say(id, self._words(action, ended))
            self._failed[instance] = 124 if ended["exit_code"] is None else ended["exit_code"]
            return instance
        found = (await self._look(id))["workload"]
        return str(found["instance"]) if found is not None else instance

    async def _instance(self, id: PlacementId, wanted: Document) -> str:
        """Another for each command, the same for one that is repeated under its key because nobody knows its end."""
        raw = await self._look(id)
        begun = raw["notes"][0] if raw["notes"] and not raw["ended"] else None
        if begun is not None and begun["key"] == self.action.key and begun["document"] == wanted:
            return str(begun["instance"])
        number = len(self._failed) + sum(note["key"] == self.action.key for note in raw["notes"])
        return hashlib.sha256(f"{self.action.key} {number}".encode()).hexdigest()[:16]

    async def _command(
        self, id: PlacementId, action: str, given: Mapping[str, Any], note: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        argv = {"deploy": self.connection.deploy, "remove": self.connection.remove, "restart": self.connection.restart}
        order = {
            "action": action,
            "argv": argv[action] or self.connection.deploy,
            "input": given,
            "inputs": self.connection.inputs,
            "within": min(self.connection.seconds, self.action.deadline.total_seconds()),
            "note": note,
        }
        token = (await self.line("order", self._where(id), order=order))["token"]
        ended = await self.line.wait("awaited", {}, token=token, timeout=order["within"])
        if ended["exit_code"] is None and note is None:
            raise OutcomeUnknown(f"{id}: {self._words(action, ended)}")
        return ended

    def _words(self, action: str, ended: Raw) -> str:
        said = f": {ended['said'][0][:200]}" if ended["said"] else ""
        return f"the {action} command {ended['why']}{said}"

    async def _resolve(self, wanted: Document) -> dict[str, str]:
        return {name: await self.tools.secret(reference) for name, reference in secrets(wanted)}

    def _say(self, id: PlacementId, message: str) -> None:
        self.report(Progress(id=id, step=Step.START, message=message))

    def _where(self, id: PlacementId) -> dict[str, Any]:
        place = render.place(id, self.tools.installation, self.connection.root)
        return {**self.sight.where(self.target), **place, "fence": self.action.fence}


def _digest(wanted: Document) -> str:
    from drivers.process.host import configuration_digest

    return configuration_digest(dict(wanted["configuration"]))
