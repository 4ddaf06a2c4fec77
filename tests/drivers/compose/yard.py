"""One test's compose project on a real engine, with everything taken away afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from desired_state.model import Configuration, Target
from drivers.compose import host
from drivers.compose.connection import Connection
from drivers.compose.folder import Record, read_record
from drivers.compose.lock import Place
from stickers.names import PlacementId
from tests.drivers.docker.yard import Yard as DockerYard

TEMPLATE: Mapping[str, Any] = {"services": {"api": {"image": "kit/api:latest"}, "web": {}, "api-admin": {}}}


class Files:
    """The project's directory on this machine, as a person at its shell sees it."""

    def __init__(self, root: Path, place: Place) -> None:
        self.path = root / place.project
        self.lock = self.path / "lock.yaml"

    def hold(self) -> int:
        return host.Folder(str(self.path.parent), self.path.name).hold()

    def record(self, service: str) -> Record:
        return read_record(host.text_of(str(self.path / "services" / service / "record.json")))


class Yard(DockerYard):
    """`root` is where the project's files are, `program` the compose program."""

    def __init__(self, engine: str, registry: str, root: Path, program: str) -> None:
        super().__init__(engine, registry)
        self.root, self.program = root, program
        self.template: Mapping[str, Any] = TEMPLATE
        self.memory: str | None = None  # where secrets are files

    @property
    def target(self) -> Target:
        connection = {
            "via": "local",
            "engine": self.engine,
            "root": str(self.root),
            "program": self.program,
            "template": self.template,
        } | ({} if self.memory is None else {"secrets_directory": self.memory})
        return replace(super().target, driver="compose", connection=connection)

    @property
    def place(self) -> Place:
        return Place(installation=self.tools.installation, target=self.target.id)

    @property
    def folder(self) -> Files:
        return Files(self.root, self.place)

    def configuration(self, component: str, **own: Any) -> Configuration:
        """As the documents are resolved: with what the template says of the component."""
        connection = Connection.model_validate(dict(self.target.connection))
        return Configuration(template=connection.template_of(component), **own)

    def sticker(self, id: PlacementId) -> Path:
        return self.folder.path / "services" / id.component / "sticker.json"
