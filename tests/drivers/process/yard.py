"""One plain host with everything around it: images of the tiny application, a signer, and actions upon it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from desired_state.health import Health, HttpCheck
from desired_state.model import Configuration, Placement, Port, Target
from desired_state.secrets import SecretRef
from drivers.contract import (
    Action,
    Change,
    Deploy,
    Footing,
    Look,
    Outcome,
    Progress,
    Remove,
    Restart,
    Stamp,
    Tools,
    claim_of,
)
from drivers.errors import Refused, Retryable
from drivers.process import host
from drivers.process.driver import ProcessDriver
from stickers import codec
from stickers.names import (
    ActionKey,
    ComponentName,
    InstallationId,
    PlacementId,
    environment_id,
    job_id,
    release_name,
    target_id,
)
from stickers.observation import Standing, Workload, WorkloadState, Worn
from stickers.signature import Envelope, Keyring, PublicKey, SignatureError, Signer, key_id
from stickers.sticker import Sticker
from tests.drivers.process.far import free_port
from tests.harness import apps
from tests.harness.apps import Character

ENVIRONMENT = environment_id("default", "staging")
INSTALLATION = InstallationId("inst-1")


def signer() -> tuple[Signer, Keyring]:
    """The same one everywhere, so that several processes of a test believe each other."""
    private = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
    public = private.public_key().public_bytes_raw()
    key = PublicKey(id=key_id(public), public=public, subjects=("sticker:default/*",))
    return Signer(private, key), Keyring([key])


class Yard:
    """A target, its driver and the actions that were sent to it. `said` is what they reported."""

    def __init__(self, root: Path, images: Path, *, port: int | None = None) -> None:
        self.root, self.images = root, images
        self.secrets: dict[str, str] = {}
        self.signer, self.keyring = signer()
        self.tools = Tools(
            installation=INSTALLATION,
            sign=self.signer.sign,
            read=self.read,
            now=lambda: datetime.now(UTC),
            secret=self._secret,
        )
        self.driver = ProcessDriver(self.tools)
        self.port = port or free_port()
        self.target = self.target_at(root, "web-1")
        self.said: list[Progress] = []
        self._keys = itertools.count(1)

    def target_at(self, root: Path, name: str, **connection: Any) -> Target:
        plain = {"root": str(root), "artifacts": f"oci:{self.images}", "python": sys.executable}
        return Target(
            id=target_id("default", name), environment=ENVIRONMENT, driver="process", connection={**plain, **connection}
        )

    def read(self, envelope: Envelope) -> Sticker | None:
        try:
            return codec.verified(envelope, self.keyring)
        except (SignatureError, codec.Unreadable):
            return None

    async def _secret(self, reference: SecretRef) -> str:
        if reference.reference not in self.secrets:
            raise Refused(f"{reference.reference} cannot be resolved")
        return self.secrets[reference.reference]

    # -- what is declared --------------------------------------------------------------------------------------------

    @property
    def id(self) -> PlacementId:
        return PlacementId(self.target.id, ComponentName("web"))

    @property
    def place(self) -> Path:
        return self.root.resolve() / INSTALLATION / "web"

    def placement(self, version: str, character: Character = Character.GOOD, **declared: Any) -> Placement:
        """The application on its fixed port; `floating` leaves the port to the host."""
        floating = declared.pop("floating", False)
        health = declared.pop("health", self.health(8080 if floating else self.port))
        running = declared.pop("running", True)
        ports = (Port(container=8080),) if floating else (Port(container=self.port, host=self.port),)
        variables = () if floating else (("PORT", str(self.port)),)
        plain = {"ports": ports, "environment": variables, "stop_grace": timedelta(seconds=1)}
        return Placement(
            id=self.id,
            environment=ENVIRONMENT,
            release=release_name(f"shop@{version}"),
            artifact=apps.pack(self.images, version, character),
            configuration=Configuration(**{**plain, **declared}),
            health=health,
            running=running,
        )

    def health(self, port: int, **rules: Any) -> Health:
        plain = {
            "interval": timedelta(milliseconds=50),
            "timeout": timedelta(seconds=2),
            "deadline": timedelta(seconds=3),
        }
        return Health(check=HttpCheck(port=port, path="/health"), successes=2, **{**plain, **rules})

    # -- what is done ------------------------------------------------------------------------------------------------

    def action(self, *changes: Change, key: str | None = None, fence: int = 1, deadline: float = 30) -> Action:
        return Action(
            key=ActionKey(key or f"{next(self._keys):064x}"),
            fence=fence,
            environment=ENVIRONMENT,
            job=job_id(ENVIRONMENT, 1),
            revision="revision-1",
            target=self.target,
            changes=changes,
            deadline=timedelta(seconds=deadline),
        )

    async def send(self, *changes: Change, **action: Any) -> Outcome:
        receipt = await self.driver.apply(self.action(*changes, **action), report=self.said.append)
        return receipt.outcomes[0]

    async def change(self, placement: Placement, predecessor: Placement | None = None, **fields: Any) -> Deploy:
        """A deploy that was planned against what stands there now."""
        standing = await self.standing()
        return Deploy(
            placement=placement,
            replaces=footing(standing),
            stamp=self.stamp(standing),
            predecessor=predecessor,
            **fields,
        )

    async def persist(self, change: Change, **action: Any) -> Outcome:
        """As a reconciler would: again under the same key, while what keeps it from being done is retryable."""
        key = action.pop("key", None) or f"{next(self._keys):064x}"
        for _ in range(200):
            try:
                return await self.send(change, key=key, **action)
            except Retryable:
                await anyio.sleep(0.05)
        raise AssertionError("still not done")

    async def deploy(self, placement: Placement, predecessor: Placement | None = None, **action: Any) -> Outcome:
        return await self.send(await self.change(placement, predecessor), **action)

    async def restarting(self, placement: Placement) -> Restart:
        standing = await self.standing()
        replaces = footing(standing)
        assert replaces is not None
        return Restart(placement=placement, replaces=replaces, stamp=self.stamp(standing))

    async def restart(self, placement: Placement, **action: Any) -> Outcome:
        return await self.send(await self.restarting(placement), **action)

    async def removal(self, placement: Placement) -> Remove:
        standing = await self.standing()
        claim = claim_of(placement, INSTALLATION)
        return Remove(id=placement.id, claim=claim, replaces=footing(standing), stamp=self.stamp(standing))

    async def remove(self, placement: Placement, **action: Any) -> Outcome:
        return await self.send(await self.removal(placement), **action)

    def stamp(self, standing: Standing | None) -> Stamp:
        worn = self.sticker(standing)
        return Stamp(sequence=worn.sequence + 1 if worn else 1, previous=worn.digest if worn else None)

    # -- what is seen ------------------------------------------------------------------------------------------------

    async def standing(self, *placements: Placement) -> Standing | None:
        found = (await self.driver.observe([Look(target=self.target, placements=placements)]))[self.target.id]
        assert found.unseen is None, found.unseen
        return found.standing(self.id.component, self.id.slot)

    async def workload(self, *placements: Placement) -> Workload:
        standing = await self.standing(*placements)
        assert standing is not None
        assert standing.workload is not None
        return standing.workload

    def sticker(self, standing: Standing | None) -> Sticker | None:
        worn: Worn | None = standing.worn if standing else None
        return self.read(Envelope(worn.envelope)) if worn and worn.envelope else None

    async def worn(self) -> Sticker:
        found = self.sticker(await self.standing())
        assert found is not None
        return found

    def serves(self) -> str:
        """What the application says it is."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5) as answer:
            return str(answer.read().decode().split()[1])

    def alive(self) -> list[str]:
        """The instances that really run, by what the kernel says of the leaders of all process groups."""
        found = [
            process.instance
            for process in host.processes()
            if process.lives
            and process.pid == process.group
            and (host.mark_of(process.pid) or "").startswith(f"{self.place}#")
        ]
        return sorted(found)

    async def until(self, condition: Callable[[Workload], bool], *placements: Placement) -> Workload:
        """Looks until it is so: what was done by hand takes a moment."""
        for _ in range(1000):
            workload = await self.workload(*placements)
            if condition(workload):
                return workload
            await anyio.sleep(0.01)
        raise AssertionError(f"what was waited for did not come; last seen: {workload}")

    # -- by hand -----------------------------------------------------------------------------------------------------

    def kill(self, instance: str) -> None:
        os.kill(int(instance.partition(":")[0]), signal.SIGKILL)

    async def kill_supervisor(self) -> None:
        self.kill(self.state()["supervisor"])
        await self.until(lambda workload: workload.state is WorkloadState.STOPPED)

    def swap(self, release: str) -> None:
        """As a person would: another kept release, and the supervisor told to restart."""
        (self.place / "current").unlink()
        (self.place / "current").symlink_to(f"releases/{release}")
        argv = [sys.executable, host.__file__, "ctl", str(self.place), "restart"]
        subprocess.run(argv, check=True, capture_output=True)

    def environment(self, instance: str) -> bytes:
        return Path(f"/proc/{instance.partition(':')[0]}/environ").read_bytes()

    def says(self, canary: bytes) -> list[str]:
        """Files of the root and arguments of processes in which the canary is found."""
        files = [path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink()]
        arguments = [Path(f"/proc/{process.pid}/cmdline") for process in host.processes()]
        return [str(path) for path in files + arguments if path.exists() and canary in path.read_bytes()]

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.place / "supervisor/state.json").read_text())
        return found

    def files(self) -> dict[str, tuple[int, int]]:
        """Every file of the root with what tells whether it was touched; a lock's only says who held it last."""
        locks = (self.place / "lock",)
        paths = [path for path in self.root.rglob("*") if not path.is_dir() and path not in locks]
        return {str(path): (path.lstat().st_ino, path.lstat().st_ctime_ns) for path in paths}


def footing(standing: Standing | None) -> Footing | None:
    workload = standing.workload if standing else None
    if workload is None:
        return None
    return Footing(instance=workload.instance, artifact=workload.artifact, configuration=workload.configuration)
