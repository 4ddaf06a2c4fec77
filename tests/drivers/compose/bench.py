"""The bench of the compose driver: hands that break things on a real engine, and eyes of its own."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial

import anyio.to_thread

from desired_state.health import Health, HttpCheck
from desired_state.model import Configuration, Port, Target
from drivers.compose import lock
from drivers.compose.driver import ComposeDriver
from drivers.conformance import Bench, Power, Raw, Version
from drivers.contract import Driver
from drivers.docker import render
from stickers import codec, names
from stickers.names import Artifact, Digest, PlacementId
from stickers.signature import Envelope
from tests.drivers.compose.yard import Yard
from tests.harness import images

APPS = {Version.ONE: images.ONE, Version.TWO: images.TWO, Version.THREE: images.THREE, Version.BAD: images.BAD}
POWERS = {
    *(Power.FIXED, Power.SWAPS, Power.SOURCE, Power.UNREACHABLE),
    *(Power.INTRUDES, Power.EVENTS, Power.LOGS),
}


class ComposeBench(Bench):
    pause = timedelta(milliseconds=5)

    def __init__(self, yard: Yard) -> None:
        super().__init__(yard.tools)
        self.yard, self.apps = yard, dict(APPS)
        self._ports: dict[str, int] = {}

    @property
    def powers(self) -> frozenset[Power]:
        return frozenset(POWERS)

    @property
    def target(self) -> Target:
        return self.yard.target

    def driver(self) -> Driver:
        return ComposeDriver(self.tools)

    def artifact(self, version: Version) -> Artifact:
        return self.yard.artifact(self.apps[version])

    def keep_to_itself(self) -> None:
        """Use images of a content that no other test's containers can hold."""
        self.apps = {version: replace(app, version=f"{app.version}-{self.yard.mark}") for version, app in APPS.items()}

    def configuration(self, component: str, *, fixed: bool) -> Configuration:
        plain = self.yard.configuration(component, stop_grace=timedelta(seconds=3))
        if not fixed:
            return plain
        port = self._ports.setdefault(component, self.yard.free_port())
        return replace(plain, ports=(Port(container=8080, host=port),))

    def health(self, component: str, *, fixed: bool) -> Health:
        return Health(
            check=HttpCheck(port=8080, path="/cgi-bin/health"),
            interval=timedelta(milliseconds=100),
            timeout=timedelta(seconds=2),
            successes=2,
            deadline=timedelta(seconds=4),
        )

    async def raw(self, id: PlacementId) -> tuple[Raw, ...]:
        """The key stands beside the containers, in the record of who made them: in their labels it would be one more
        difference for compose to act upon."""
        found = await anyio.to_thread.run_sync(self.yard.workloads, id)
        record = self.yard.folder.record(lock.service_name(id))
        return tuple(
            Raw(
                instance=one["Id"],
                artifact=Digest(one["Config"]["Image"].partition("@")[2]),
                running=one["State"]["Running"],
                key=record.key_of(one["Id"]),
            )
            for one in found
        )

    async def stop(self, id: PlacementId) -> None:
        for one in self.yard.running(id):
            await anyio.to_thread.run_sync(partial(self.yard.client.stop, one["Id"], timeout=1))

    async def remove(self, id: PlacementId) -> None:
        for one in self.yard.running(id):
            self.yard.client.remove_container(one["Id"], force=True)

    async def wear(self, id: PlacementId, envelope: Envelope | None) -> None:
        if envelope is None:
            self.yard.sticker(id).unlink()
        else:
            self.yard.sticker(id).write_bytes(codec.to_file(envelope))

    async def garble(self, id: PlacementId) -> None:
        self.yard.sticker(id).write_text('{"format": "nobody.knows/v9"}')

    async def swap(self, id: PlacementId, version: Version) -> None:
        artifact = self.yard.pulled(self.apps[version])
        for one in self.yard.running(id):
            self.yard.client.start(self.yard.remade(one, Image=str(artifact)))

    async def intrude(self, name: str) -> None:
        """Named and labelled almost as ours would be."""
        image = str(self.yard.pulled(images.ONE))
        labels = {render.COMPONENT: name, render.TARGET: self.target.id, render.ROLE: render.WORKLOAD}
        labels |= {"com.docker.compose.project": f"{self.yard.place.project}x", "com.docker.compose.service": name}
        self.yard.stranger(f"{self.yard.place.project}x_{name}_1", image, labels=labels)

    async def intruders(self) -> frozenset[str]:
        found = await anyio.to_thread.run_sync(self.yard.strangers)
        return frozenset(f"{one['Id']} since {one['State']['StartedAt']}" for one in found)

    async def lose_source(self) -> None:
        await anyio.to_thread.run_sync(self.yard.lose_source)

    def unreachable(self) -> Target:
        nowhere = {**self.target.connection, "engine": f"unix:///tmp/holdfast-{self.yard.mark}.sock"}
        return replace(self.target, id=names.target_id("default", "far"), connection=nowhere)
