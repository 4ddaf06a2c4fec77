"""What the benches of plain hosts share: versions packed into one OCI layout, ports drawn once for each component, how
health is asked, and stickers as files."""

from __future__ import annotations

import urllib.request
from datetime import timedelta
from pathlib import Path

import anyio.to_thread

from desired_state.health import Health, HttpCheck
from drivers.conformance import Bench, Version
from drivers.contract import Tools
from drivers.process import render
from stickers import codec
from stickers.names import Artifact, PlacementId
from stickers.signature import Envelope
from tests.drivers.process.far import free_port
from tests.harness import apps
from tests.harness.apps import Character


class PackedBench(Bench):
    """A bench whose versions are packed into the layout `images`."""

    images: Path

    def __init__(self, tools: Tools | None = None) -> None:
        super().__init__(tools)
        self.ports: dict[str, int] = {}
        self.packed: dict[Version, Artifact] = {}

    def artifact(self, version: Version) -> Artifact:
        if version not in self.packed:
            character = Character.BAD if version is Version.BAD else Character.GOOD
            self.packed[version] = apps.pack(self.images, version, character)
        return self.packed[version]

    async def lose_source(self) -> None:
        for version in Version:
            self.artifact(version)
        self.images.rename(self.images.with_name("lost"))


class FolderBench(Bench):
    """A bench whose placements are folders of a directory of this machine."""

    root: Path
    ports: dict[str, int]

    def port(self, component: str) -> int:
        return self.ports.setdefault(component, free_port())

    def place(self, id: PlacementId) -> Path:
        return self.root.resolve() / self.tools.installation / render.folder(id)

    async def wear(self, id: PlacementId, envelope: Envelope | None) -> None:
        sticker = self.place(id) / "sticker.json"
        sticker.unlink(missing_ok=True)
        if envelope is not None:
            sticker.write_bytes(codec.to_file(envelope))

    async def garble(self, id: PlacementId) -> None:
        (self.place(id) / "sticker.json").write_text("{")


def healthy(port: int) -> Health:
    """As the applications of `tests.harness.apps` answer."""
    return Health(
        check=HttpCheck(port=port, path="/health"),
        interval=timedelta(milliseconds=50),
        timeout=timedelta(seconds=1),
        successes=2,
        deadline=timedelta(seconds=2),
    )


async def version_at(port: int) -> Version | None:
    """What answers there; None when nothing does."""
    return await anyio.to_thread.run_sync(_ask, port)


def _ask(port: int) -> Version | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as answer:
            return Version(answer.read().decode().split()[1])
    except OSError:
        return None
