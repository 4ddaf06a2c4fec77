"""The hands of the process driver on one target, for the length of one action.

A workload binds its own port, so where a fixed one is declared the supervisor is told to stop what runs and to start
the new release in one order: it goes on with that whatever becomes of us, and no service stays down because we
crashed. Where no port is fixed, both run side by side until the predecessor is settled.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio

from desired_state.health import Health
from desired_state.model import Configuration, Placement
from drivers.contract import Action, Deploy, Ended, Errand, Progress, Report, Restart, Step, Tools
from drivers.errors import Busy, Conflict, DriverError, InvalidAction, OutcomeUnknown
from drivers.process import render
from drivers.process.connection import Connection
from drivers.process.line import Asks, Raw, SecretsMissing, run
from drivers.process.sight import Sight, workload
from drivers.sequence import Started
from stickers import codec
from stickers.names import PlacementId
from stickers.observation import Standing, Workload, WorkloadState
from stickers.signature import Envelope
from stickers.sticker import Sticker

if TYPE_CHECKING:
    from drivers.oci.registry import Access

REGISTRY: Final = "registry"
LISTENS_WITHIN: Final = 3.0  # seconds that a start waits for the port before proof takes over
LEAVES_WITHIN: Final = 60.0  # for a supervisor to end what it supervises, before it is killed with it


class Before(NamedTuple):
    """What is to serve again after a failed proof, and whether it is to run."""

    release: str
    running: bool


class Hands:
    """What is known while one action goes on: what was seen first, which release each deploy is about, and its
    secrets, resolved before anything is touched and handed over when they are needed."""

    def __init__(self, action: Action, connection: Connection, sight: Sight, line: Asks, report: Report) -> None:
        self.action, self.connection, self.sight, self.line, self.report = action, connection, sight, line, report
        self.tools: Tools = sight.tools
        self._seen: dict[PlacementId, Raw] = {}
        self._releases: dict[PlacementId, str] = {}
        self._secrets: dict[PlacementId, dict[str, str]] = {}

    # -- looking -----------------------------------------------------------------------------------------------------

    async def hold(self, id: PlacementId) -> None:
        await self.line("hold", self._where(id), job=str(self.action.job))

    async def look(self, id: PlacementId, adopts: str | None) -> Standing:
        if adopts is not None:
            raise InvalidAction("this driver cannot take over what it did not start")
        raw = await self._look(id, thorough=True)
        if raw["pending"]:
            raise Busy(f"an earlier order is still being carried out at {id}")
        self._seen[id] = raw
        return self.sight.standing(id, raw)

    async def workload(self, id: PlacementId, instance: str, health: Health | None) -> Workload | None:
        raw = await self._look(id, instance=instance, port=render.asked_port(health), address=self.connection.address)
        found = raw["workload"]
        if found is None or instance not in (found["instance"], *found["instances"]):
            return None
        if health is None or found["state"] != "running":
            return workload(found)
        question = self.sight.question(self.action.target, id, health, found)
        return workload(found, (await self.sight.healths([question]))[0])

    async def _look(self, id: PlacementId, **fields: Any) -> dict[str, Any]:
        return await self.line.see("standing", self._where(id), **fields)

    # -- deploying ---------------------------------------------------------------------------------------------------

    async def prepare(self, deploy: Deploy) -> None:
        """All that can fail without a stop is done here: secrets resolved, the release unpacked, verified and fit to be
        started, and a supervisor that listens."""
        self._secrets[deploy.id] = await self._resolve(deploy.placement.configuration)
        release = await self._find(deploy.placement) or await self._unpack(deploy.placement)
        await self.line("fits", self._where(deploy.id), release=release)
        if deploy.placement.running:
            await self._supervisor(deploy.id)
        self._releases[deploy.id] = release

    async def start(self, deploy: Deploy) -> Started:
        release, seen = self._releases[deploy.id], await self._look(deploy.id)
        if not deploy.placement.running:
            return await self._stand_still(deploy.id, release)
        ours = [(instance, key) for name, instance, key in seen["active"] if name == release]
        unfit = release in seen["unfit"]
        half = [instance for instance, key in ours if not unfit and (not deploy.anew or key == self.action.key)]
        others = [instance for name, instance, _ in seen["active"] if name != release]
        if half and not others:
            return Started(instance=half[0], beside=False)
        began = anyio.current_time()
        same = await self._supervisor(deploy.id)
        beside = same and bool(others) and not render.fixed(deploy.placement)
        if half and beside:
            return Started(instance=half[0], beside=True)
        if not same:
            await self._dismiss(deploy.id)
            await self._supervisor(deploy.id)
        instance = await self._run(deploy.id, release, replace=not beside, secrets=self._secrets[deploy.id])
        await self._await_port(deploy.placement, instance)
        if seen["active"] and not beside:
            gap = round(1000 * (anyio.current_time() - began))
            self._say(deploy.id, f"{instance} took over after {gap} ms without a listener")
        return Started(instance=instance, beside=beside)

    async def switch(self, deploy: Deploy, instance: str) -> None:
        await self.line("switch", self._where(deploy.id), release=self._releases[deploy.id])

    async def put_back(self, deploy: Deploy, standing: Standing) -> str | None:
        back, failed = await self._before(deploy), self._releases[deploy.id]
        if back is None:
            await self._stop(deploy.id)
            await self.line("unpoint", self._where(deploy.id))
            await self.line("drop", self._where(deploy.id), release=failed)
            return None
        if back.release == failed:
            return str((await self._look(deploy.id))["workload"]["instance"])
        instance = await self._serve_again(deploy, back)
        await self.line("drop", self._where(deploy.id), release=failed)
        return instance

    async def settle(self, deploy: Deploy, instance: str) -> None:
        seen = await self._look(deploy.id, instance=instance)
        if seen["workload"] is None:
            raise OutcomeUnknown(f"{instance} of {deploy.id} is gone")
        release = str(seen["workload"]["release"])
        strays = sorted({name for name, _, _ in seen["active"]} - {release})
        if strays:
            await self._stop(deploy.id, strays)
        await self.line("switch", self._where(deploy.id), release=release)
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
        found = (await self._look(id))["workload"]
        if found is None:
            raise Conflict(f"{id}: nothing stands there to be restarted")
        if found["key"] == self.action.key and found["state"] == "running" and found["instance"] != instance:
            return str(found["instance"])
        if instance not in (found["instance"], *found["instances"]):
            raise Conflict(f"{id}: {found['instance']} stands there, not {instance}")
        placement = self._restarted(id)
        same = (found["artifact"], found["configuration"]) == placement.content
        secrets = await self._resolve(placement.configuration) if same else {}
        if not await self._supervisor(id):
            await self._dismiss(id)
            await self._supervisor(id)
        return await self._run(id, found["release"], replace=True, secrets=secrets)

    def _restarted(self, id: PlacementId) -> Placement:
        for change in self.action.changes:
            if isinstance(change, Restart) and change.id == id:
                return change.placement
        raise InvalidAction(f"{id}: this action restarts nothing there")

    async def remove(self, id: PlacementId) -> None:
        await self._dismiss(id)
        await self.line("clear", self._where(id))

    async def wear(self, id: PlacementId, sticker: Sticker, envelope: Envelope) -> None:
        await self.line("wear", self._where(id), content=codec.to_file(envelope).decode())

    async def bare(self, id: PlacementId) -> None:
        await self.line("bare", self._where(id))

    # -- releases ----------------------------------------------------------------------------------------------------

    async def _find(self, placement: Placement) -> str | None:
        """The release with this content, if it is kept and as it was unpacked."""
        artifact, configuration = placement.content
        found = await self.line("find", self._where(placement.id), artifact=artifact, configuration=configuration)
        release: str | None = found["release"]
        return release

    async def _unpack(self, placement: Placement) -> str:
        """Bring the artifact beside what is there, as a release of its own; half of one does not stay."""
        where = self._where(placement.id)
        staged = await self.line("stage", where)
        try:
            inherited = await self._fetch(placement, where, staged)
            specification = render.specification(placement, self.tools.installation, inherited)
            sealed = await self.line("seal", where, staging=staged["staging"], specification=specification)
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(DriverError):
                await self.line("tidy", where)
            raise
        return str(sealed["release"])

    async def _fetch(self, placement: Placement, where: Raw, staged: Raw) -> tuple[str, ...]:
        """Unpack the artifact; answers the image's own command."""
        source = self.connection.artifacts
        access = await self._access(placement) if source == REGISTRY else None
        fetched = await self.line.fetch(placement.artifact, source, access, staged)
        if not (placement.configuration.command or fetched.config.argv):
            raise InvalidAction(f"{placement.id}: no command is declared, and the image has none of its own")
        await self.line.unpack(fetched, where, staged)
        return fetched.config.argv

    async def _access(self, placement: Placement) -> Access | None:
        from drivers.oci.credentials import Credentials
        from drivers.oci.registry import Access  # only where a registry is asked

        reference = placement.configuration.registry_credentials
        if reference is None:
            return None
        return Access(credentials=Credentials.parse(await self.tools.secret(reference)))

    async def _before(self, deploy: Deploy) -> Before | None:
        """What is to serve again: last good where it is kept, else what stood, unless that is what failed, begun by an
        interrupted try. None where there is nothing to go back to. Of one content there is one release, so where last
        good itself does not prove itself any more it is left as it is."""
        stood, good, failed = self._seen[deploy.id]["workload"], deploy.predecessor, self._releases[deploy.id]
        same = good is not None and good.content == deploy.placement.content
        kept = None if good is None or same else await self._find(good)
        if good is not None and kept is not None:
            return Before(kept, good.running)
        if stood is None:
            return None
        if stood["release"] != failed:
            return Before(str(stood["release"]), stood["state"] != WorkloadState.STOPPED)
        return None if stood["key"] == self.action.key and not same else Before(failed, running=True)

    # -- the supervisor ----------------------------------------------------------------------------------------------

    async def _supervisor(self, id: PlacementId) -> bool:
        """A supervisor listens; whether it runs the same file as we do."""
        found = await self.line("ensure", self._where(id), python=self.connection.python)
        return bool(found["same"])

    async def _dismiss(self, id: PlacementId) -> None:
        for force in (False, True):
            await self.line("dismiss", self._where(id), force=force)
            if (await self.line.wait("gone", self._where(id), timeout=LEAVES_WITHIN))["gone"]:
                return
        raise OutcomeUnknown(f"the supervisor of {id} does not end")

    async def _order(self, id: PlacementId, order: Mapping[str, Any]) -> dict[str, Any]:
        token = (await self.line("order", self._where(id), order=order))["token"]
        timeout = self.action.deadline.total_seconds()
        return await self.line.wait("awaited", {}, token=token, timeout=timeout)

    async def _run(self, id: PlacementId, release: str, *, replace: bool, secrets: Mapping[str, str]) -> str:
        order = {"do": "start", "release": release, "replace": replace, "key": self.action.key, "secrets": secrets}
        return str((await self._order(id, order))["instance"])

    async def _stop(self, id: PlacementId, releases: list[str] | None = None) -> None:
        if (await self._look(id))["active"]:
            await self._supervisor(id)  # what runs without one is ended by the next
            await self._order(id, {"do": "stop", "releases": releases})

    async def _stand_still(self, id: PlacementId, release: str) -> Started:
        """Declared stopped: made, and not started."""
        await self._stop(id)
        await self.line("switch", self._where(id), release=release)
        return Started(instance=str((await self._look(id))["workload"]["instance"]), beside=False)

    async def _serve_again(self, deploy: Deploy, back: Before) -> str:
        id, good = deploy.id, deploy.predecessor
        if not back.running:
            return (await self._stand_still(id, back.release)).instance
        active = (await self._look(id))["active"]
        runs = [instance for name, instance, _ in active if name == back.release]
        if runs:
            await self._stop(id, sorted({name for name, _, _ in active} - {back.release}))
            await self.line("switch", self._where(id), release=back.release)
            return str(runs[0])
        await self._supervisor(id)
        instance = await self._start_again(deploy, back.release)
        await self._await_port(good or deploy.placement, instance)
        return instance

    async def _start_again(self, deploy: Deploy, release: str) -> str:
        """With the secrets it ran with, which the supervisor holds; where it is gone, with those of today."""
        try:
            return await self._run(deploy.id, release, replace=True, secrets={})
        except SecretsMissing:
            if deploy.predecessor is None:
                raise
            secrets = await self._resolve(deploy.predecessor.configuration)
            return await self._run(deploy.id, release, replace=True, secrets=secrets)

    async def _await_port(self, placement: Placement, instance: str) -> None:
        """Wait until the new instance listens, so that proof need not ask in vain."""
        port = render.asked_port(placement.health)
        if port is None:
            return
        found = (await self._look(placement.id, instance=instance))["workload"]
        port = found["ports"].get(str(port), port) if found else port
        ask = {"instance": instance, "address": self.connection.address, "port": port}
        await self.line.wait("listens", {}, asks=[ask], within=LISTENS_WITHIN)

    # -- what it is told ---------------------------------------------------------------------------------------------

    async def _resolve(self, configuration: Configuration) -> dict[str, str]:
        return {name: await self.tools.secret(reference) for name, reference in render.secrets(configuration).items()}

    def _say(self, id: PlacementId, message: str) -> None:
        self.report(Progress(id=id, step=Step.START, message=message))

    def _where(self, id: PlacementId) -> dict[str, Any]:
        return {**render.place(id, self.tools.installation, self.connection.root), "fence": self.action.fence}
