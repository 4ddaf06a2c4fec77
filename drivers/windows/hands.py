"""The hands of the windows driver on one target, for the length of one action.

Each release is a service of its own, beside the old one. Whoever takes over does so in one order to the host: the
journal is written, the others are stopped, the new service is started; the host goes on with that whatever becomes of
us. A release that is kept is a stopped service, and the way back is to start it.
"""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread

from desired_state.health import Health
from desired_state.model import Configuration, Placement, RestartPolicy
from drivers.contract import Action, Deploy, Tools
from drivers.errors import Conflict, InvalidAction, OutcomeUnknown, Refused
from drivers.oci import artifacts
from drivers.oci.unpack import unpack
from drivers.process.host import hash_file
from drivers.process.render import asked_port, folder, secrets, specification
from drivers.process.sight import workload
from drivers.sequence import Started
from drivers.windows import render
from drivers.windows.connection import Connection
from drivers.windows.eyes import Record, Seen
from drivers.windows.line import Grip, windows_of
from drivers.windows.sight import WindowsSight, seen_of
from stickers import codec
from stickers.names import PlacementId
from stickers.observation import Standing, Workload
from stickers.signature import Envelope
from stickers.sticker import Sticker

if TYPE_CHECKING:
    from drivers.oci.registry import Access

PIECE: Final = 1 << 20  # bytes of an archive that are sent at once
GRACE: Final = 10.0  # seconds for a service whose release does not say how long it may take to stop
STARTS_WITHIN: Final = 30.0  # seconds, the time that Windows itself gives a service


class Hands:
    """What is known while one action goes on: what was seen first, and the secrets of each deploy."""

    def __init__(self, action: Action, connection: Connection, sight: WindowsSight, grip: Grip) -> None:
        self.action, self.connection, self.sight, self.grip = action, connection, sight, grip
        self.tools: Tools = sight.tools
        self._first: dict[PlacementId, Seen] = {}
        self._secrets: dict[PlacementId, dict[str, str]] = {}

    # -- looking -----------------------------------------------------------------------------------------------------

    async def hold(self, id: PlacementId) -> None:
        await self.grip("hold", {**self._where(id), "fence": self.action.fence})

    async def look(self, id: PlacementId, adopts: str | None) -> Standing:
        if adopts is not None:
            raise InvalidAction("this driver cannot take over what it did not start")
        seen = self._first[id] = await self._look(id)
        return self.sight.standing(id, seen.standing(str(id.component), str(id.slot), None))

    async def workload(self, id: PlacementId, instance: str, health: Health | None) -> Workload | None:
        seen = await self._look(id)
        release = instance.partition("-")[0]
        found = seen.workload(release, asked_port(health))
        if found is None or found["instance"] != instance:
            return None
        if health is None or found["state"] != "running":
            return workload(found)
        question = self.sight.question(self.action.target, id, health, found)
        return workload(found, (await self.sight.healths([question]))[0])

    async def _look(self, id: PlacementId) -> Seen:
        """Through the helper that holds the placement, so that a cut is noticed."""
        where = render.target(id.target, self.tools.installation, self.connection.root)
        answer = await self.grip("look", {"targets": [where]}, within=self.grip.station.answers_within)
        return seen_of(answer, folder(id))

    # -- deploying ---------------------------------------------------------------------------------------------------

    async def prepare(self, deploy: Deploy) -> None:
        """All that can fail without a stop: secrets resolved, the command one that can be written, and the release
        unpacked and as it was."""
        placement, where = deploy.placement, self._where(deploy.id)
        self._secrets[deploy.id] = await self._resolve(placement.configuration)
        release = self._release(placement)
        there = release in self._first[deploy.id].releases
        if there and (await self.grip("intact", {**where, "release": release}))["intact"]:
            return
        if release in self._first[deploy.id].active:
            raise Refused(f"{deploy.id}: what runs is not as it was unpacked, and a running tree is not replaced")
        await self._bring(placement, release)

    async def start(self, deploy: Deploy) -> Started:
        seen, release = await self._look(deploy.id), self._release(deploy.placement)
        others = [name for name in seen.active if name != release]
        record, service = seen.record, seen.services.get(release)
        runs = service is not None and service["state"] == "Running"
        half = record.serves == release and not others and runs is deploy.placement.running
        if (
            half
            and service is not None
            and not seen.differences(release, service)
            and self._is_mine(record, release, anew=deploy.anew)
        ):
            return Started(instance=seen.instance(release), beside=False)
        stopped = [*others, release] if release in seen.active else others
        return await self._take_over(deploy.placement, release, seen, stopped, self._secrets[deploy.id])

    def _is_mine(self, record: Record, release: str, *, anew: bool) -> bool:
        return not anew or record.keys.get(release) == self.action.key

    async def _take_over(
        self, placement: Placement, release: str, seen: Seen, stopped: list[str], values: dict[str, str]
    ) -> Started:
        """The service made as it is declared, those others stopped, and it started, unless it is declared stopped."""
        if release in seen.active:
            await self._run(placement.id, seen, seen.record, stopped)
            stopped = []
        await self._install(placement, release, seen.record, values)
        seen.record.begin(release, self.action.key)
        failed = await self._run(placement.id, seen, seen.record, stopped, release if placement.running else None)
        return Started(instance=seen.instance(release), beside=False, failed=failed)

    async def switch(self, deploy: Deploy, instance: str) -> None:
        """Whoever binds the port has the traffic."""

    async def put_back(self, deploy: Deploy, standing: Standing) -> str | None:
        seen, failed = await self._look(deploy.id), self._release(deploy.placement)
        back = self._before(deploy, seen, failed)
        if back == failed:
            return seen.instance(failed)
        if back is None:
            await self._drop(deploy.id, seen, [failed])
            return None
        good = deploy.predecessor
        running = good.running if good is not None and self._release(good) == back else True
        stopped = [name for name in seen.active if name != back]
        if good is not None and self._release(good) == back and back not in seen.services:
            await self._install(good, back, seen.record, await self._resolve(good.configuration))
        seen.record.begin(back, self.action.key)
        trouble = await self._run(deploy.id, seen, seen.record, stopped, back if running else None)
        if trouble is not None:
            raise OutcomeUnknown(f"{deploy.id}: what stood before does not start again: {trouble}")
        await self._drop(deploy.id, seen, [failed])
        return seen.instance(back)

    def _before(self, deploy: Deploy, seen: Seen, failed: str) -> str | None:
        """What is to serve again: last good where it is kept, else what stood, unless that is what failed, begun by an
        interrupted try. None where there is nothing to go back to."""
        first, good = self._first[deploy.id], deploy.predecessor
        if good is not None and self._release(good) != failed and self._release(good) in seen.releases:
            return self._release(good)
        stood = first.record.serves
        if stood is None or stood not in first.services:
            return None
        if stood != failed:
            return stood
        same = good is not None and self._release(good) == failed
        return failed if same or first.record.keys.get(failed) != self.action.key else None

    async def settle(self, deploy: Deploy, instance: str) -> None:
        seen, serves = await self._look(deploy.id), instance.partition("-")[0]
        if serves not in seen.services:
            raise OutcomeUnknown(f"{instance} of {deploy.id} is gone")
        strays = [name for name in seen.active if name != serves]
        if strays:
            await self._run(deploy.id, seen, seen.record, strays)
        spared = {serves, *seen.kept[: deploy.keep]}
        if deploy.predecessor is not None:
            spared.add(self._release(deploy.predecessor))
        old = [name for name in seen.everything if name not in spared]
        if old:
            await self._drop(deploy.id, seen, old)

    # -- restarting, removing, labelling -----------------------------------------------------------------------------

    async def restart(self, id: PlacementId, instance: str) -> str:
        seen = await self._look(id)
        release = seen.record.serves
        if release is None or release not in seen.services:
            raise Conflict(f"{id}: nothing stands there to be restarted")
        now = seen.instance(release)
        runs = seen.services[release]["state"] == "Running"
        if seen.record.keys.get(release) == self.action.key and runs and now != instance:
            return now
        if now != instance:
            raise Conflict(f"{id}: {now} stands there, not {instance}")
        stopped = [release] if release in seen.active else []
        seen.record.begin(release, self.action.key)
        failed = await self._run(id, seen, seen.record, stopped, release)
        if failed is not None:
            raise Refused(f"{id}: {failed}")
        return seen.instance(release)

    async def remove(self, id: PlacementId) -> None:
        seen = await self._look(id)
        await self._drop(id, seen, seen.everything)
        await self.grip("write", {**self._where(id), "file": "record.json", "content": None})

    async def wear(self, id: PlacementId, sticker: Sticker, envelope: Envelope) -> None:
        content = codec.to_file(envelope).decode()
        await self.grip("write", {**self._where(id), "file": "sticker.json", "content": content})

    async def bare(self, id: PlacementId) -> None:
        await self.grip("write", {**self._where(id), "file": "sticker.json", "content": None})

    # -- services ----------------------------------------------------------------------------------------------------

    async def _install(self, placement: Placement, release: str, record: Record, values: dict[str, str]) -> None:
        declared = placement.configuration
        content = await self._specification(placement, release)
        order = {
            "service": self._service(placement.id, release),
            "display": f"{placement.id.component} ({placement.id.target})",
            "description": f"{placement.release} of {placement.id}, kept by Holdfast",
            "command": render.command_line(self._tree(placement.id, release), content["command"]),
            "account": render.account(content["configuration"]),
            "environment": render.environment(
                self.tools.installation, placement.id, self._directory(placement.id), declared, values
            ),
            "restarts": declared.restart is not RestartPolicy.NEVER,
        }
        answer = await self.grip("install", {**self._where(placement.id), **order})
        made = {"command": order["command"], "account": order["account"], "environment": answer["environment"]}
        record.installed[release] = made

    async def _specification(self, placement: Placement, release: str) -> Any:
        found = (await self._look(placement.id)).releases.get(release)
        if found is None:
            raise OutcomeUnknown(f"{placement.id}: release {release} is gone")
        return found

    async def _run(
        self, id: PlacementId, seen: Seen, record: Record, stopped: list[str], start: str | None = None
    ) -> str | None:
        """One order: the journal, then those stopped, then that one started. Answers why it does not start."""
        grace = max([self._grace(seen, name) for name in stopped], default=GRACE)
        order = {
            "record": record.text(),
            "stop": [self._service(id, name) for name in stopped],
            "start": None if start is None else self._service(id, start),
            "boots": start is not None and self._boots(seen, start),
            "grace": grace,
            "within": STARTS_WITHIN,
        }
        within = self.grip.station.answers_within + (grace + GRACE) * len(stopped) + STARTS_WITHIN
        answer = await self.grip("run", {**self._where(id), **order}, within=within)
        failed: str | None = answer["failed"]
        return None if failed is None else f"Windows does not start it: {failed}"

    def _grace(self, seen: Seen, release: str) -> float:
        said = seen.releases.get(release)
        return GRACE if said is None else float(said["configuration"]["stop_grace"]) / 1000

    def _boots(self, seen: Seen, release: str) -> bool:
        said = seen.releases.get(release)
        return said is None or said["configuration"].get("restart") != RestartPolicy.NEVER

    async def _drop(self, id: PlacementId, seen: Seen, releases: list[str]) -> None:
        services = [self._service(id, name) for name in releases if name in seen.services]
        grace = max([self._grace(seen, name) for name in releases], default=GRACE)
        order = {"services": services, "releases": releases, "grace": grace}
        within = self.grip.station.answers_within + (grace + GRACE) * len(services)
        await self.grip("drop", {**self._where(id), **order}, within=within)
        seen.record.forget(releases)
        await self.grip("write", {**self._where(id), "file": "record.json", "content": seen.record.text()})

    # -- bringing a release ------------------------------------------------------------------------------------------

    async def _bring(self, placement: Placement, release: str) -> None:
        """Unpacked and judged here, sent as what came of it, compared with its digest there."""
        bench = Path(tempfile.mkdtemp(prefix="holdfast-"))
        try:
            (bench / "layers").mkdir()
            fetched = await self._fetch(placement, bench / "layers")
            said = specification(placement, self.tools.installation, fetched.config.argv or ())
            if not said["command"]:
                raise InvalidAction(f"{placement.id}: no command is declared, and the artifact has none of its own")
            render.command_line(self._tree(placement.id, release), said["command"])
            archive = await anyio.to_thread.run_sync(_packed, fetched, bench)
            await self._send(placement, release, archive, said)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(shutil.rmtree, bench)

    async def _fetch(self, placement: Placement, into: Path) -> artifacts.Fetched:
        source = self.connection.artifacts
        access = await self._access(placement) if source == "registry" else None
        assert self.grip.wire is not None
        machine = windows_of(self.grip.wire.machine)
        return await artifacts.fetch(placement.artifact, source, into, access, machine)

    async def _access(self, placement: Placement) -> Access:
        from drivers.oci.credentials import Credentials
        from drivers.oci.registry import Access  # only where a registry is asked

        secret = placement.configuration.registry_credentials
        return Access(credentials=Credentials.parse(await self.tools.secret(secret)) if secret else None)

    async def _send(self, placement: Placement, release: str, archive: Path, said: dict[str, Any]) -> None:
        where = self._where(placement.id)
        with archive.open("rb") as file:
            offset = 0
            while piece := await anyio.to_thread.run_sync(file.read, PIECE):
                content = base64.b64encode(piece).decode()
                await self.grip("bring", {**where, "offset": offset, "content": content})
                offset += len(piece)
        digest = (await anyio.to_thread.run_sync(hash_file, str(archive))).partition(":")[2]
        order = {"release": release, "digest": digest, "specification": json.dumps(said)}
        await self.grip("unfold", {**where, **order})

    # -- names -------------------------------------------------------------------------------------------------------

    async def _resolve(self, configuration: Configuration) -> dict[str, str]:
        return {name: await self.tools.secret(reference) for name, reference in secrets(configuration).items()}

    def _release(self, placement: Placement) -> str:
        artifact, configuration = placement.content
        return render.release(artifact, configuration)

    def _service(self, id: PlacementId, release: str) -> str:
        return render.service(self.tools.installation, id, release)

    def _directory(self, id: PlacementId) -> str:
        return f"{self.connection.root}\\{folder(id)}"

    def _tree(self, id: PlacementId, release: str) -> str:
        return f"{self._directory(id)}\\releases\\{release}\\tree"

    def _where(self, id: PlacementId) -> dict[str, Any]:
        return render.place(id, self.tools.installation, self.connection.root)


def _packed(fetched: artifacts.Fetched, bench: Path) -> Path:
    """The tree as one archive. Windows has no links that a service could be given, so none are sent."""
    unpack(fetched.layers, bench / "tree")
    path = bench / "tree.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        seen: dict[str, str] = {}
        for one in sorted((bench / "tree").rglob("*")):
            name = one.relative_to(bench / "tree").as_posix()
            if one.is_symlink():
                raise Refused(f"{name[:80]!r} of {fetched.artifact} is a link, and Windows is sent none")
            if other := seen.get(name.lower()):
                raise Refused(f"{other[:80]!r} and {name[:80]!r} of {fetched.artifact} are one name to Windows")
            seen[name.lower()] = name
            if any(letter in name for letter in '\\:*?"<>|') or any(
                part.endswith((".", " ")) for part in name.split("/")
            ):
                raise Refused(f"{name[:80]!r} of {fetched.artifact} is no name of a file on Windows")
            if one.is_file():
                archive.write(one, name)
    return path
