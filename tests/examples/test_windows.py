"""The example of Windows hosts is one that loads, whose connections are read, and which its drivers would carry out."""

from __future__ import annotations

from pathlib import Path

from desired_state.load import load
from desired_state.model import DesiredState
from desired_state.sources.base import Tree
from drivers import registry
from drivers.windows import render
from drivers.windows.connection import Connection
from stickers.names import EnvironmentId

EXAMPLE = Path(__file__).parents[2] / "examples" / "windows.yaml"


def loaded() -> DesiredState:
    models = {kind: registry.connection_model(kind) for kind in ("windows", "script")}
    what = load(Tree(files={"fleet.yaml": EXAMPLE.read_bytes()}, revision="1"), models)
    assert [str(finding) for finding in what.findings] == []
    return what.environments[EnvironmentId("default/production")]


def test_every_host_is_reached_as_it_is_declared() -> None:
    targets = {target.id: target for target in loaded().targets}
    models = {id: registry.connection_model(target.driver) for id, target in targets.items()}
    found = {id: models[id].model_validate(dict(target.connection)) for id, target in targets.items()}
    ways = {id: str(getattr(one, "winrm", None) or getattr(one, "ssh", None)) for id, one in found.items()}
    assert ways == {
        "default/win-1": r"winrm CORP\deployer@win-1.corp.example.com",
        "default/win-2": "deployer@win-2.corp.example.com",
        "default/win-3": "winrm win-3.corp.example.com",
    }


def test_what_it_declares_is_what_windows_can_give() -> None:
    desired = loaded()
    services = [one for one in desired.placements if one.id.component == "web"]
    assert len(services) == 2
    assert [render.unsupported(one) for one in services] == [(), ()]
    line = render.command_line("C:\\tree", services[0].configuration.command or ())
    assert line == "C:\\tree\\bin\\shop.exe --urls http://127.0.0.1:8080"


def test_the_target_that_the_driver_shows_is_one() -> None:
    import textwrap

    import yaml

    import drivers.windows

    block = (drivers.windows.__doc__ or "").partition("A target::\n\n")[2].partition("\n\nErrors")[0]
    assert Connection.model_validate(yaml.safe_load(textwrap.dedent(block))["connection"]).winrm is not None
