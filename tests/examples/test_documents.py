"""The examples that need more than a machine of one's own are documents that hold: `holdfast validate` finds nothing in
them, and their drivers would carry them out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from api.cli.main import main
from desired_state.load import load
from desired_state.model import DesiredState, Placement, Target
from desired_state.sources.base import Tree
from drivers import registry
from drivers.ecs import render as ecs
from drivers.ecs.connection import Connection as Service
from drivers.nomad import render as nomad
from drivers.nomad.connection import Connection as Job
from drivers.systemd import artifacts, render
from stickers.names import EnvironmentId, InstallationId

EXAMPLES = Path(__file__).parents[2] / "examples"
INSTALLATION = InstallationId("inst-1")
ALONE = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))


def loaded(name: str) -> DesiredState:
    content = (EXAMPLES / f"{name}.yaml").read_bytes()
    models = {kind: registry.connection_model(kind) for kind in registry.BUILT_IN}
    what = load(Tree(files={"fleet.yaml": content}, revision="1"), models)
    assert [str(finding) for finding in what.findings] == []
    return what.environments[EnvironmentId("default/production")]


def by_target(desired: DesiredState) -> list[tuple[Target, list[Placement]]]:
    return [(one, [each for each in desired.placements if each.id.target == one.id]) for one in desired.targets]


def test_there_is_one_for_each_kind_that_the_series_has_none_for() -> None:
    assert {"ecs", "nomad", "systemd", "windows"} <= set(ALONE)


@pytest.mark.parametrize("name", ALONE)
def test_validate_finds_nothing_in_it(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(EXAMPLES / f"{name}.yaml", tmp_path)
    assert main(["validate", str(tmp_path)]) == 0
    assert "no findings" in capsys.readouterr().out


@pytest.mark.parametrize("name", ALONE)
def test_the_readme_of_the_examples_leads_to_it(name: str) -> None:
    assert f"[{name}.yaml]({name}.yaml)" in (EXAMPLES / "README.md").read_text()


def test_what_it_declares_is_what_systemd_can_give() -> None:
    desired = loaded("systemd")
    assert [render.unsupported(one) for one in desired.placements] == [()] * 3
    units = [one.text for one in artifacts.units(desired.placements, INSTALLATION, "/srv/shop")]
    assert ["LoadCredential=db-password:" in unit for unit in units].count(True) == 2
    assert all("\nExecStart=@" in unit for unit in units)


def test_what_it_declares_is_what_ecs_can_give() -> None:
    for target, placements in by_target(loaded("ecs")):
        connection = Service.model_validate(dict(target.connection))
        assert [list(ecs.unsupported(one)) for one in placements] == [[], []]
        if connection.task_definition is None:
            continue
        template = ecs.template(connection.task_definition, connection.containers, connection.service)
        assert [list(ecs.unasked(template, one)) for one in placements] == [[], []]
        made = [ecs.container(template, one, INSTALLATION) for one in placements]
        assert sorted(one["name"] for one in made) == ["app", "worker"]


def test_what_it_declares_is_what_nomad_can_give() -> None:
    (job, placements), *_ = [
        (Job.model_validate(dict(target.connection)), placements)
        for target, placements in by_target(loaded("nomad"))
        if "template" in target.connection
    ]
    assert job.template is not None
    outline = nomad.outline(job.template, job=job.job, namespace=job.namespace, region=job.region, places=job.places)
    assert [list(nomad._unfit_configuration(one)) for one in placements] == [[]]
    assert nomad.declared_count(outline, placements[0].id) == 3
