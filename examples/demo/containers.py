"""The demo's fleet as containers: all targets share one Docker engine, and everything they run is made here.

The shop is an image of a static busybox and two small scripts, served to the engine from a registry on loopback, so
that nothing is fetched from elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import docker
from docker.errors import DockerException, ImageNotFound

from drivers.docker import render
from drivers.docker.connection import SOCKET
from drivers.oci import layout
from examples.demo import registry
from examples.demo.fleet import Fleet, claiming_another, free_port
from stickers import codec

BUSYBOX = Path("/bin/busybox")
PORT = 8080  # of the shop, in its container

SERVE = """echo "shop {release} on $TARGET" > /www/index.html
exec /bin/busybox httpd -f -p 8080 -h /www
"""
HEALTH = """#!/bin/busybox sh
printf 'Status: {status} Spoken\\r\\nContent-Type: text/plain\\r\\n\\r\\n{words}\\n'
"""


@dataclass
class ContainerFleet(Fleet):
    """The fleet on the engine that DOCKER_HOST names, or on the local one. Its registry has a port of its own, which
    also tells this demo's images from anybody else's."""

    KILLED: ClassVar = "docker kill of the shop on staging-2"
    SWAPPED: ClassVar = "staging-3 runs a container of shop@1.0.0 under the same labels, its sticker untouched"

    registry_port: int = field(default_factory=free_port)

    @property
    def repository(self) -> str:
        return f"127.0.0.1:{self.registry_port}/shop/web"

    @cached_property
    def engine(self) -> docker.APIClient:
        """The engine, or one line that says why there is none."""
        try:
            return docker.APIClient(base_url=_address(), version="auto", timeout=60)
        except DockerException as error:
            raise SystemExit(f"no Docker engine answers at {_address()}: {error}") from None

    # -- what is declared -------------------------------------------------------------------------------------------

    def build(self) -> None:
        _check_busybox()
        mark = self.home / "registry"
        if mark.exists():  # of a demo that was killed before it could end its fleet
            self._clear(mark.read_text())
        self.engine.ping()
        super().build()
        mark.write_text(self.repository)

    def _packed(self, release: str) -> str:
        source = self.home / "build" / release
        healthy = not release.endswith("-broken")
        words = {"status": 200, "words": "fine"} if healthy else {"status": 500, "words": "the schema is too old"}
        for directory in ("bin", "www/cgi-bin"):
            (source / directory).mkdir(parents=True)
        shutil.copy(BUSYBOX, source / "bin" / "busybox")
        (source / "serve").write_text(SERVE.format(release=release))
        check = source / "www" / "cgi-bin" / "health"
        check.write_text(HEALTH.format(**words))
        check.chmod(0o755)
        return str(layout.pack(source, self.home / "artifacts", argv=("/bin/busybox", "sh", "/serve")))

    def _component(self) -> str:
        return "    stop_grace: 1s\n"

    def _placement(self, target: str, port: int) -> str:
        return (
            "driver: docker\n"
            f"connection: {{via: local, engine: '{_address()}', address: 127.0.0.1}}\n"
            f"components:\n  web:\n    ports: ['127.0.0.1:{port}:{PORT}']\n"
            f"    environment: {{TARGET: {target}}}\n"
            f"    health: {{http: {{port: {PORT}, path: /cgi-bin/health}}, interval: 200ms, successes: 3,\n"
            "             deadline: 10s}\n"
        )

    # -- what runs --------------------------------------------------------------------------------------------------

    @contextmanager
    def held(self) -> Iterator[None]:
        with registry.serving(self.home / "artifacts", self.registry_port), super().held():
            yield

    def end_workloads(self) -> None:
        self._clear(self.repository)
        self.engine.close()

    def _clear(self, repository: str) -> None:
        """Take away all that was made from the repository's images: containers with their volumes, networks, images."""
        for label in sorted(self._installations(repository)):
            with_label = {"label": f"{render.INSTALLATION}={label}"}
            for container in self.engine.containers(all=True, filters=with_label):
                self.engine.remove_container(container["Id"], v=True, force=True)
            for network in self.engine.networks(filters=with_label):
                self.engine.remove_network(network["Id"])
            for volume in self.engine.volumes(filters=with_label)["Volumes"] or ():
                self.engine.remove_volume(volume["Name"])
        for image in self.engine.images():
            for reference in image["RepoDigests"] or ():
                if reference.startswith(repository):
                    with contextlib.suppress(ImageNotFound):
                        self.engine.remove_image(reference, force=True)

    def _installations(self, repository: str) -> set[str]:
        listed = self.engine.containers(all=True, filters={"label": render.INSTALLATION})
        return {one["Labels"][render.INSTALLATION] for one in listed if one["Image"].startswith(repository)}

    # -- hands that break things ------------------------------------------------------------------------------------

    def kill(self, target: str) -> None:
        """docker kill."""
        self.engine.kill(self.placement(target)["instance"])

    def forge(self, target: str) -> None:
        """Labels cannot be edited, so the sticker's holder is made anew with a claim of another release; its signature
        stays what it was."""
        holder = self._holder(target)
        labels = holder["Config"]["Labels"]
        forged = json.dumps(claiming_another(json.loads(labels[codec.LABEL])), separators=(",", ":"), sort_keys=True)
        self.engine.remove_container(holder["Id"])
        self._made(holder, Labels=labels | {codec.LABEL: forged})

    def swap(self, target: str) -> None:
        """Run another release's image under the labels of what runs, and take that away, as by a copied command."""
        running = self.engine.inspect_container(self.placement(target)["instance"])
        other = self.engine.inspect_container(self.placement("production-2")["instance"])
        unpublished = running["HostConfig"] | {"PortBindings": {}}  # the port is the other's until it is gone
        running["Name"] += "-by-hand"
        self.engine.start(self._made(running, Image=other["Config"]["Image"], HostConfig=unpublished))
        time.sleep(1)  # so that nobody is just inspecting what is taken away, and sees it stopped first
        self.engine.remove_container(running["Id"], force=True)

    def _holder(self, target: str) -> dict[str, Any]:
        labels = [f"{render.TARGET}=default/{target}", f"{render.ROLE}={render.STICKER}"]
        listed = self.engine.containers(all=True, filters={"label": labels})
        own = [one for one in listed if one["Labels"][render.INSTALLATION] in self._installations(self.repository)]
        return dict(self.engine.inspect_container(own[0]["Id"]))

    def _made(self, like: dict[str, Any], **different: object) -> str:
        """A container that differs from another only in what is given."""
        config = {"HostConfig": like["HostConfig"]} | like["Config"] | different
        del config["Hostname"]
        made = self.engine.create_container_from_config(config, like["Name"].lstrip("/"))  # type: ignore[no-untyped-call]
        return str(made["Id"])


def _address() -> str:
    given = os.environ.get("DOCKER_HOST", SOCKET)
    if not given.startswith("unix://"):
        raise SystemExit(f"the demo takes an engine of this machine, at unix://…; DOCKER_HOST is {given}")
    return given


def _check_busybox() -> None:
    """A dynamic program names its loader near its beginning; in an image without libraries it would not start."""
    if not BUSYBOX.is_file() or b"/ld-" in BUSYBOX.read_bytes()[:4096]:
        raise SystemExit(f"the demo's images need a static {BUSYBOX}: apt install busybox-static")
