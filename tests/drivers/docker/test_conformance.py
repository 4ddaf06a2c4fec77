"""The docker driver keeps the contract, on a real engine."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial

import anyio.to_thread
import pytest

from desired_state.health import Health, HttpCheck
from desired_state.model import Configuration, Placement, Port, Target
from drivers.conformance import Bench, Clause, Conformance, Power, Raw, Version
from drivers.contract import Driver
from drivers.docker import hands, render
from drivers.docker.driver import DockerDriver
from stickers import codec, names
from stickers.names import ActionKey, Artifact, Digest, PlacementId
from stickers.signature import Envelope
from tests.drivers.docker.yard import Caller, Yard
from tests.harness import images

APPS = {Version.ONE: images.ONE, Version.TWO: images.TWO, Version.THREE: images.THREE, Version.BAD: images.BAD}


class DockerBench(Bench):
    pause = timedelta(milliseconds=5)
    doomed = timedelta(seconds=1)

    def __init__(self, yard: Yard) -> None:
        super().__init__(yard.tools)
        self.yard = yard
        self._ports: dict[str, int] = {}
        self._caller: Caller | None = None

    @property
    def powers(self) -> frozenset[Power]:
        return frozenset(Power)

    @property
    def target(self) -> Target:
        return self.yard.target

    def driver(self) -> Driver:
        return DockerDriver(self.tools)

    def artifact(self, version: Version) -> Artifact:
        return self.yard.artifact(APPS[version])

    def configuration(self, component: str, *, fixed: bool) -> Configuration:
        if not fixed:
            return Configuration(networks=(self.yard.network,), stop_grace=timedelta(seconds=3))
        port = self._ports.setdefault(component, self.yard.free_port())
        return Configuration(ports=(Port(container=8080, host=port),), stop_grace=timedelta(seconds=3))

    def health(self, component: str, *, fixed: bool) -> Health:
        return Health(
            check=HttpCheck(port=8080, path="/cgi-bin/health"),
            interval=timedelta(milliseconds=100),
            timeout=timedelta(seconds=2),
            successes=2,
            deadline=timedelta(seconds=30),
        )

    async def raw(self, id: PlacementId) -> tuple[Raw, ...]:
        found = await anyio.to_thread.run_sync(self.yard.workloads, id)
        return tuple(
            Raw(
                instance=one["Id"],
                artifact=Digest(one["Config"]["Image"].partition("@")[2]),
                running=one["State"]["Running"],
                key=ActionKey(one["Config"]["Labels"][render.KEY]),
            )
            for one in found
        )

    async def answering(self, id: PlacementId) -> Version | None:
        if self._caller is None:
            self._caller = await anyio.to_thread.run_sync(self.yard.caller)
        answer = await anyio.to_thread.run_sync(self._caller.ask, render.alias(id))
        return Version(answer) if answer else None

    async def stop(self, id: PlacementId) -> None:
        for one in self.yard.running(id):
            await anyio.to_thread.run_sync(partial(self.yard.client.stop, one["Id"], timeout=1))

    async def remove(self, id: PlacementId) -> None:
        for one in self.yard.running(id):
            self.yard.client.remove_container(one["Id"], force=True)

    async def wear(self, id: PlacementId, envelope: Envelope | None) -> None:
        for one in self.yard.holders(id):
            if envelope is None:
                self.yard.client.remove_container(one["Id"])
            else:
                self.yard.remade(one, Labels=one["Config"]["Labels"] | codec.to_labels(envelope))

    async def garble(self, id: PlacementId) -> None:
        for one in self.yard.holders(id):
            self.yard.remade(one, Labels=one["Config"]["Labels"] | {codec.LABEL_FORMAT: "nobody.knows/v9"})

    async def swap(self, id: PlacementId, version: Version) -> None:
        artifact = self.yard.pulled(APPS[version])
        for one in self.yard.running(id):
            self.yard.client.start(self.yard.remade(one, Image=str(artifact)))

    async def intrude(self, name: str) -> None:
        """Named, labelled and reached almost as ours would be."""
        image = str(self.yard.pulled(images.ONE))
        labels = {render.COMPONENT: name, render.TARGET: self.target.id, render.ROLE: render.WORKLOAD}
        self.yard.stranger(f"holdfast-{names.split_id(self.target.id)[1]}-{name}-0123", image, labels=labels)

    async def intruders(self) -> frozenset[str]:
        found = await anyio.to_thread.run_sync(self.yard.strangers)
        return frozenset(f"{one['Id']} since {one['State']['StartedAt']}" for one in found)

    async def adoptable(self, placement: Placement) -> str:
        """As somebody would start it by hand: nothing but what is declared."""
        wanted, name = placement.configuration, f"by-hand-{self.yard.mark}"
        self.yard.pulled(next(app for version, app in APPS.items() if self.artifact(version) == placement.artifact))
        self.yard.client.create_network(self.yard.network)
        alias = {"Aliases": [render.alias(placement.id)]}
        self.yard.stranger(
            name,
            str(placement.artifact),
            Env=[f"{key}={value}" for key, value in wanted.environment],
            StopTimeout=3,
            HostConfig={"NetworkMode": self.yard.network, "RestartPolicy": {"Name": "unless-stopped"}},
            NetworkingConfig={"EndpointsConfig": {self.yard.network: alias}},
        )
        return name

    async def lose_source(self) -> None:
        await anyio.to_thread.run_sync(self.yard.lose_source)

    def unreachable(self) -> Target:
        nowhere = {"via": "local", "engine": f"unix:///tmp/holdfast-{self.yard.mark}.sock"}
        return replace(self.target, id=names.target_id("default", "far"), connection=nowhere)


class TestDocker(Conformance):
    @pytest.fixture
    def bench(self, yard: Yard, clause: Clause, monkeypatch: pytest.MonkeyPatch) -> Bench:
        if Power.ANSWERS not in clause.needs:  # nobody asks the old one, so nobody has to be waited for
            monkeypatch.setattr(hands, "DRAIN", 0.0)
        return DockerBench(yard)
