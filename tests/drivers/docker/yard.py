"""One test's part of a real engine: its own installation, network and images, and everything taken away afterwards."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import docker

from desired_state.model import Target
from drivers.conformance import proper_tools
from drivers.contract import Tools
from drivers.docker import render
from stickers import names
from stickers.names import Artifact, EnvironmentId, InstallationId, PlacementId
from tests.harness import images
from tests.harness.images import App

MINE: Final = "holdfast.test"  # label of what the test itself puts on the engine
STOCK: Final = (images.ONE, images.TWO, images.THREE, images.BAD)
PORTS: Final = range(15_000, 32_000)  # below those the system gives to connections by itself
Container = Mapping[str, Any]


def stock(engine: str, registry: str) -> None:
    """The images all tests use are on the engine under a name that no test takes away. Otherwise the last test that has
    pulled one deletes its content, perhaps while the next is pulling it."""
    with contextlib.closing(docker.APIClient(base_url=engine, version="auto", timeout=60)) as client:
        for app in STOCK:
            artifact = images.pushed(registry, app)
            for _ in client.pull(artifact.repository, tag=artifact.digest, stream=True, auth_config={}):
                pass


class Yard:
    """`mark` is unique to the test and part of every name it uses."""

    def __init__(self, engine: str, registry: str) -> None:
        self.engine, self.registry = engine, registry
        self.mark = secrets.token_hex(4)
        self.client = docker.APIClient(base_url=engine, version="auto", timeout=60)
        self.tools: Tools = replace(proper_tools(), installation=InstallationId(f"test-{self.mark}"))
        self.network = f"test-{self.mark}"
        self.repository = f"test/{self.mark}"
        self._callers: list[Caller] = []
        self._pushed: dict[App, Artifact] = {}

    @property
    def target(self) -> Target:
        return Target(
            id=names.target_id("default", f"t-{self.mark}"),
            environment=EnvironmentId("default/kit"),
            driver="docker",
            connection={"via": "local", "engine": self.engine},
        )

    def artifact(self, app: App) -> Artifact:
        """Pushed when it is asked for first, and never again: what the source has lost it does not get back."""
        if app not in self._pushed:
            self._pushed[app] = images.pushed(self.registry, app, self.repository)
        return self._pushed[app]

    def pulled(self, app: App) -> Artifact:
        artifact = self.artifact(app)
        for _ in self.client.pull(artifact.repository, tag=artifact.digest, stream=True, auth_config={}):
            pass
        return artifact

    def lose_source(self, *apps: App) -> None:
        """The registry has these no more in this test's repository; without any named, none of those all tests use."""
        for app in apps or STOCK:
            digest = images.built(app)[1].digest
            self._pushed[app] = Artifact(f"{self.registry}/{self.repository}", digest)
            url = f"http://{self.registry}/v2/{self.repository}/manifests/{digest}"
            with contextlib.suppress(OSError):
                urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=10).close()

    # -- what is there ----------------------------------------------------------------------------------------------

    def containers(self, role: str | None = None, id: PlacementId | None = None) -> list[Container]:
        """Containers of the installation, inspected, the newest first."""
        labels = [f"{render.INSTALLATION}={self.tools.installation}"]
        labels += [f"{render.ROLE}={role}"] if role else []
        if id is not None:
            labels = [f"{name}={value}" for name, value in render.placement_labels(self.tools.installation, id).items()]
            labels += [f"{render.ROLE}={role}"] if role else []
        listed = self.client.containers(all=True, filters={"label": labels})
        return [self.client.inspect_container(one["Id"]) for one in listed]

    def workloads(self, id: PlacementId | None = None) -> list[Container]:
        return self.containers(render.WORKLOAD, id)

    def running(self, id: PlacementId | None = None) -> list[Container]:
        return [one for one in self.workloads(id) if one["State"]["Running"]]

    def holders(self, id: PlacementId | None = None) -> list[Container]:
        return self.containers(render.STICKER, id)

    def strangers(self) -> list[Container]:
        """What the test has put there without the driver and that runs."""
        listed = self.client.containers(filters={"label": [f"{MINE}={self.mark}", f"{MINE}.kind=stranger"]})
        return [self.client.inspect_container(one["Id"]) for one in listed]

    # -- what a hand does -------------------------------------------------------------------------------------------

    def stranger(self, name: str, image: str, **config: Any) -> str:
        """A container that is not ours, started; its id."""
        labels = {MINE: self.mark, f"{MINE}.kind": "stranger"} | config.pop("labels", {})
        made = self.make({"Image": image, "Labels": labels, **config}, name)
        self.client.start(made)
        return made

    def make(self, body: Mapping[str, Any], name: str | None = None) -> str:
        made = self.client.create_container_from_config(body, name)  # type: ignore[no-untyped-call]
        return str(made["Id"])

    def remade(self, one: Container, **config: Any) -> str:
        """The container taken away and made again by hand, with something changed; not started."""
        body = {"HostConfig": one["HostConfig"]} | {key: one["Config"][key] for key in ("Image", "Labels", "Env")}
        body |= {key: one["Config"].get(key) for key in ("StopTimeout", "ExposedPorts", "Cmd", "Entrypoint")}
        endpoints = one["NetworkSettings"]["Networks"]
        keep = {name: {"Aliases": endpoint.get("Aliases")} for name, endpoint in endpoints.items() if name != "none"}
        body["NetworkingConfig"] = {"EndpointsConfig": keep}
        self.client.remove_container(one["Id"], force=True)
        return self.make(body | config, one["Name"].lstrip("/"))

    def caller(self, network: str | None = None) -> Caller:
        caller = Caller(self, network or self.network)
        self._callers.append(caller)
        return caller

    def free_port(self) -> int:
        """One that stays free until it is used, and between two uses: no connection is given it by chance."""
        while True:
            port = secrets.choice(PORTS)
            with contextlib.suppress(OSError), socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
                return port

    # -- the end ----------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Everything of this test off the engine."""
        for caller in self._callers:
            caller.close()
        for label in (f"{render.INSTALLATION}={self.tools.installation}", f"{MINE}={self.mark}"):
            for one in self.client.containers(all=True, filters={"label": label}):
                with contextlib.suppress(docker.errors.APIError):
                    self.client.remove_container(one["Id"], v=True, force=True)
        for network in self.client.networks():
            if self.mark in network["Name"]:
                self.client.remove_network(network["Id"])
        for volume in self.client.volumes()["Volumes"] or ():
            if self.mark in volume["Name"]:
                self.client.remove_volume(volume["Name"])
        for image in self.client.images():
            for reference in image["RepoDigests"] or ():
                if f"/{self.repository}" in reference:
                    with contextlib.suppress(docker.errors.APIError):
                        self.client.remove_image(reference)
        self.client.close()


class Caller:
    """A client in a container of its own on the network; see `tests.drivers.docker.caller`."""

    def __init__(self, yard: Yard, network: str) -> None:
        if shutil.which("nsenter") is None:
            raise LookupError("nsenter is not installed")
        image = str(yard.pulled(images.ONE))
        labels = {MINE: yard.mark}
        body = {"Image": image, "Labels": labels, "Entrypoint": ["/bin/busybox", "sleep", "3600"]}
        made = yard.make(body | {"HostConfig": {"NetworkMode": network, "Init": True}})
        yard.client.start(made)
        pid = yard.client.inspect_container(made)["State"]["Pid"]
        script = str(Path(__file__).with_name("caller.py"))
        self._process = subprocess.Popen(
            ["nsenter", "--target", str(pid), "--net", sys.executable, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def ask(self, name: str, path: str = "/", port: int = 8080) -> str | None:
        return self._said(f"ask {name} {port} {path}")  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def load(self, name: str, path: str = "/", *, clients: int = 8, port: int = 8080) -> Iterator[dict[str, Any]]:
        """Clients that ask all the while; what they saw is there afterwards."""
        seen: dict[str, Any] = {}
        self._said(f"load {name} {port} {path} {clients}")
        try:
            yield seen
        finally:
            seen.update(self._said("stop"))

    def close(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(20)

    def _said(self, command: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        return json.loads(self._process.stdout.readline())
