"""The systemd driver: the process driver with systemd in place of a supervisor of our own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from desired_state.model import Placement, Target
from drivers.contract import Against, Rendered, Verified
from drivers.process.connection import Connection as PlainHost
from drivers.process.driver import ProcessDriver
from drivers.process.host import Eyes as PlainEyes
from drivers.systemd import artifacts, host, render
from drivers.systemd.connection import Connection
from drivers.systemd.parcel import parcel


class SystemdDriver(ProcessDriver):
    """Workloads on plain hosts, each release a unit of its own."""

    kind: ClassVar[str] = "systemd"
    verified: ClassVar[Verified] = Verified(against=Against.REAL, by="systemd 252 in a container, also behind OpenSSH")
    model: ClassVar[type[PlainHost]] = Connection

    def _new_eyes(self) -> host.Eyes:
        return host.Eyes()

    def _new_session(self, eyes: PlainEyes) -> host.Session:
        assert isinstance(eyes, host.Eyes)
        return host.Session(eyes)

    def _program(self) -> bytes:
        return parcel()

    def rendered(
        self, target: Target, placements: Sequence[Placement], kept: Sequence[Rendered]
    ) -> tuple[Rendered, ...]:
        own = super().rendered(target, placements, kept)
        root = Connection.model_validate(dict(target.connection)).root
        return (*artifacts.units(placements, self.tools.installation, root), *own)

    def _unsupported(self, placement: Placement) -> tuple[str, ...]:
        return render.unsupported(placement)
