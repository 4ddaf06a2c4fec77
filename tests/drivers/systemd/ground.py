"""One target on the booted machine with everything around it; the same words as on a host of processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from desired_state.model import Placement, Target
from drivers.process.host import Place
from drivers.systemd import host
from drivers.systemd.driver import SystemdDriver
from stickers.names import target_id
from tests.drivers.process.far import eventually
from tests.drivers.process.yard import ENVIRONMENT, Yard
from tests.drivers.systemd.beyond import Beyond
from tests.drivers.systemd.test_conformance import COMMAND
from tests.harness.apps import Character
from tests.harness.machine import Machine


class Ground(Yard):
    """`show`, `edit` and the like are what a person with root's rights does there."""

    def __init__(self, machine: Machine, root: Path, images: Path) -> None:
        super().__init__(root, images)
        self.machine = machine
        self.driver = self.new_driver()

    def new_driver(self) -> SystemdDriver:
        return Beyond(self.tools, self.machine)

    def target_at(self, root: Path, name: str, **connection: Any) -> Target:
        plain = {"root": str(root), "artifacts": f"oci:{self.images}"}
        return Target(
            id=target_id("default", name), environment=ENVIRONMENT, driver="systemd", connection={**plain, **connection}
        )

    def placement(self, version: str, character: Character = Character.GOOD, **declared: Any) -> Placement:
        return super().placement(version, character, **{"command": COMMAND, **declared})

    async def begin_again(self) -> None:
        """Another driver, as after a start of the daemon."""
        await self.driver.aclose()
        self.driver = self.new_driver()

    # -- what is seen ------------------------------------------------------------------------------------------------

    @property
    def release(self) -> Path:
        """The one that serves."""
        return (self.place / "current").resolve()

    @property
    def unit(self) -> str:
        return host.unit_of(Place(str(self.place)), self.release.name)

    @property
    def installed(self) -> str:
        return f"{host.INSTALLED}/{self.unit}"

    def show(self, *names: str, unit: str | None = None) -> dict[str, str]:
        said = self.machine.run("systemctl", "show", f"--property={','.join(names)}", "--", unit or self.unit)
        return dict(line.partition("=")[::2] for line in said.splitlines())

    def environment(self, instance: str = "") -> bytes:
        """Of the process that runs."""
        return self.machine.run("cat", f"/proc/{self.show('MainPID')['MainPID']}/environ").encode()

    def serving_at_last(self, version: str) -> None:
        """What has just been started may not listen yet."""

        def serves() -> bool:
            try:
                return self.serves() == version
            except OSError:
                return False

        eventually(serves)

    def there(self, path: str) -> bool:
        return self.machine.run("find", path, "-maxdepth", "0", check=False) != ""

    def start(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.release / "start.json").read_text())
        return found

    # -- by hand -----------------------------------------------------------------------------------------------------

    def systemctl(self, *words: str) -> str:
        return self.machine.run("systemctl", *words)

    def write(self, path: str, text: str) -> None:
        """A file on the machine's own disk."""
        beside = self.root.parent / "by-hand"
        beside.write_text(text)
        self.machine.run("mkdir", "-p", path.rpartition("/")[0])
        self.machine.run("cp", str(beside), path)
