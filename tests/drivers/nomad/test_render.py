"""A job from its template: what stands in it, what is left alone, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from desired_state.health import CommandCheck, Health
from desired_state.model import Configuration, Port, RestartPolicy, RuntimeHealthcheck, Volume
from desired_state.secrets import SecretRef
from drivers.errors import Refused
from drivers.nomad import compare, render
from stickers import digest
from stickers.names import ComponentName, PlacementId, SlotName
from tests.drivers.nomad import samples
from tests.drivers.nomad.samples import artifact, job, origin, outline, part, placement

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("first", lambda: job(placement(configuration=samples.FULL))),
        ("all", lambda: job(placement(), placement("web"), placement("worker"))),
        ("stopped", lambda: job(placement("worker", running=False))),
    ],
)
def test_a_job_is_rendered_to_the_byte(name: str, made: Callable[[], render.Job]) -> None:
    assert (
        digest.canonical(made()).decode()
        == digest.canonical(json.loads((GOLDEN / f"{name}.json").read_text())).decode()
    )


def test_the_template_is_never_written_to() -> None:
    before = outline()
    first = digest.canonical(before.template)
    render.with_components(before, [placement(configuration=samples.FULL)], origin(), None)
    assert digest.canonical(before.template) == first


def test_what_has_no_release_yet_is_left_out() -> None:
    made = job(placement("worker"))
    assert [group["Name"] for group in made["TaskGroups"]] == ["back"]
    assert [task["Name"] for task in job(placement("api"))["TaskGroups"][0]["Tasks"]] == ["api", "logger"]


def test_another_component_is_left_to_the_letter() -> None:
    found = job(placement(), placement("worker"))
    found["TaskGroups"][1]["RestartPolicy"] = {"Attempts": 2, "Mode": "fail"}  # as Nomad fills it in
    changed = render.with_components(outline(), [placement(version="two")], origin("cd" * 32), found)
    assert changed["TaskGroups"][1] == found["TaskGroups"][1]
    assert part(changed).content[0] == artifact("api", "two").digest


def test_a_neighbour_in_the_same_group_keeps_its_task() -> None:
    found = job(placement(), placement("web"))
    changed = render.with_components(outline(), [placement(version="two")], origin("cd" * 32), found)
    assert part(changed, "web").task == part(found, "web").task


def test_a_component_that_moved_leaves_its_old_place() -> None:
    found = job(placement(), placement("worker"))
    moved = samples.template()
    groups = moved["Job"]["TaskGroups"]
    groups[1]["Tasks"].append(groups[0]["Tasks"].pop(0))
    places = samples.PLACES | {"api": render.Place("back", "api")}
    there = render.outline(moved, job="shop", namespace="default", region=None, places=places)
    changed = render.with_components(there, [placement()], origin(), found)
    assert [(group["Name"], [task["Name"] for task in group["Tasks"]]) for group in changed["TaskGroups"]] == [
        ("back", ["worker", "api"])
    ]


def test_a_group_that_is_scaled_keeps_its_count() -> None:
    scaled = samples.template()
    scaled["Job"]["TaskGroups"][1] |= {"Count": 1, "Scaling": {"Min": 1, "Max": 9}}
    there = render.outline(scaled, job="shop", namespace="default", region=None, places=samples.PLACES)
    found = render.with_components(there, [placement("worker")], origin(), None)
    found["TaskGroups"][0]["Count"] = 5
    changed = render.with_components(there, [placement("worker", "two")], origin("cd" * 32), found)
    assert changed["TaskGroups"][0]["Count"] == 5


def test_a_job_that_was_stopped_comes_back_for_one_component_alone() -> None:
    found = job(placement(), placement("worker")) | {"Stop": True}
    changed = render.with_components(outline(), [placement()], origin(), found)
    assert {group["Name"]: group["Count"] for group in changed["TaskGroups"]} == {"front": 2, "back": 0}
    assert "Stop" not in changed


def test_no_value_of_a_secret_stands_in_a_job() -> None:
    task = part(job(placement(configuration=samples.FULL))).task
    assert "PASSWORD" not in task["Env"]
    (item,) = render.secret_items(samples.FULL)
    assert f"PASSWORD={{{{ .{item}.Value | toJSON }}}}" in task["Templates"][0]["EmbeddedTmpl"]
    assert 'nomadVar "nomad/jobs/shop/front/api"' in task["Templates"][0]["EmbeddedTmpl"]


def test_another_version_of_a_secret_is_another_item() -> None:
    other = Configuration(environment=(("PASSWORD", SecretRef(reference="vault:kv/shop#password", version="8")),))
    assert render.secret_items(other).keys() != render.secret_items(samples.FULL).keys()


def test_a_removed_component_takes_its_group_along() -> None:
    left = render.without_component(job(placement(), placement("worker")), placement("worker").id, samples.INSTALLATION)
    assert left is not None
    assert [group["Name"] for group in left["TaskGroups"]] == ["front"]


def test_a_removed_component_leaves_its_neighbour() -> None:
    left = render.without_component(job(placement(), placement("web")), placement().id, samples.INSTALLATION)
    assert left is not None
    assert [task["Name"] for task in left["TaskGroups"][0]["Tasks"]] == ["web", "logger"]


def test_the_last_component_leaves_no_job() -> None:
    assert render.without_component(job(placement()), placement().id, samples.INSTALLATION) is None


def test_an_earlier_task_comes_back_beside_what_stands_now() -> None:
    before = job(placement(), placement("web"))
    after = render.with_components(outline(), [placement(version="two")], origin("cd" * 32), before)
    after = render.with_components(outline(), [placement("web", "two")], origin("ef" * 32), after)
    back = render.with_part(outline(), placement().id, part(before), after, origin())
    assert part(back).task == part(before).task
    assert part(back, "web").task == part(after, "web").task
    assert [task["Name"] for task in back["TaskGroups"][0]["Tasks"]] == ["api", "web", "logger"]


# -- refused ----------------------------------------------------------------------------------------------------------


def _task(**changed: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["TaskGroups"][0]["Tasks"][0].update(changed)


@pytest.mark.parametrize(
    ("spoil", "because"),
    [
        (lambda body: body.update(ID="other"), "ID is 'other'"),
        (lambda body: body.update(Type="batch"), "only a service"),
        (lambda body: body.update(Namespace="other"), "Namespace is 'other'"),
        (lambda body: body["TaskGroups"].pop(1), "has no task back/worker"),
        (lambda body: body["TaskGroups"][0]["Tasks"].append({"Name": "api", "Driver": "docker"}), "there twice"),
        (_task(Driver="exec"), "runs no image"),
        (_task(Config={"image": "registry.example.com/shop/api:1.2"}), "the release says what runs"),
        (_task(Config={"image": "${IMAGE}"}), "the release says what runs"),
        (_task(Config={"image": str(artifact("api"))}), "the release says what runs"),
        (_task(Meta={"holdfast_key": "x"}), "Meta beginning with holdfast_ is ours"),
        (
            lambda body: body["TaskGroups"][0]["Tasks"][2].update(Config={"image": "logger:latest"}),
            "not pinned by digest",
        ),
        (lambda body: body["TaskGroups"][0]["Tasks"][2].update(Config={}), "not pinned by digest"),
    ],
)
def test_a_template_that_holds_something_else_is_refused(spoil: Callable[[Any], object], because: str) -> None:
    body = samples.template()
    spoil(body["Job"])
    with pytest.raises(Refused, match=because):
        render.outline(body, job="shop", namespace="default", region=None, places=samples.PLACES)


def test_an_image_of_another_repository_is_refused() -> None:
    body = samples.template()
    body["Job"]["TaskGroups"][0]["Tasks"][0]["Config"] = {"image": "registry.example.com/shop/other"}
    there = render.outline(body, job="shop", namespace="default", region=None, places=samples.PLACES)
    with pytest.raises(Refused, match="shop/other' is not"):
        render.with_components(there, [placement()], origin(), None)


@pytest.mark.parametrize(
    ("configuration", "because"),
    [
        (Configuration(ports=(Port(container=80),)), "ports:"),
        (Configuration(volumes=(Volume(source="data", destination="/data"),)), "volumes:"),
        (Configuration(networks=("front",)), "networks:"),
        (Configuration(restart=RestartPolicy.NEVER), "restart never"),
        (Configuration(healthcheck=RuntimeHealthcheck(argv=("true",))), "healthcheck:"),
        (Configuration(registry_credentials=samples.PASSWORD), "registry_credentials:"),
        (Configuration(memory=1000), "memory 1000"),
        (Configuration(cpus=1500), "cpus 1.5"),
        (Configuration(command=()), "command:"),
        (Configuration(command=("serve", "--name=${node.unique.name}")), "command: Nomad would replace"),
        (Configuration(environment=(("HOME", "${attr.x}"),)), "environment HOME: Nomad would replace"),
        (Configuration(environment=(("a-b", samples.PASSWORD),)), "environment 'a-b'"),
    ],
)
def test_a_configuration_that_a_job_cannot_hold_is_refused(configuration: Configuration, because: str) -> None:
    with pytest.raises(Refused, match=because):
        job(placement(configuration=configuration))


def test_a_command_is_no_health_check_here() -> None:
    with pytest.raises(Refused, match="health: a command"):
        job(placement(health=Health(check=CommandCheck(argv=("true",)))))


def test_a_component_without_a_task_is_refused() -> None:
    with pytest.raises(Refused, match="no task of job shop is given for component other"):
        job(placement("other"))


def test_another_slot_is_refused() -> None:
    there = PlacementId(samples.TARGET, ComponentName("api"), SlotName("blue"))
    with pytest.raises(Refused, match="slot live alone"):
        job(placement(id=there))


def test_one_of_several_in_a_group_cannot_be_stopped() -> None:
    with pytest.raises(Refused, match="state stopped: its group front also runs web"):
        job(placement(), placement("web"), placement(running=False))


# -- compared ---------------------------------------------------------------------------------------------------------


def _answered(found: render.Job) -> render.Job:
    """As Nomad would answer it: defaults filled in, what others imply added."""
    found = json.loads(json.dumps(found))
    found |= {"Priority": 50, "Version": 3, "Constraints": [{"LTarget": "${attr.vault.version}"}]}
    for group in found["TaskGroups"]:
        group |= {"RestartPolicy": {"Attempts": 2}, "Meta": None}
        for task in group["Tasks"]:
            task |= {"Leader": False, "Env": task.get("Env"), "Services": None}
            task["Resources"] = {"CPU": 100, "MemoryMB": 300} | task.get("Resources", {})
    return found


def test_what_nomad_fills_in_is_no_difference() -> None:
    found = _answered(job(placement(configuration=samples.FULL), placement("web")))
    assert compare.differences(found, part(found)) == ()
    assert compare.differences(found, part(found, "web")) == ()


@pytest.mark.parametrize(
    ("meddle", "said"),
    [
        (lambda found: part(found).task["Env"].update(LOG_LEVEL="debug"), "task.Env.LOG_LEVEL: is not as"),
        (lambda found: part(found).task["Env"].update(MORE="x"), "task.Env.MORE: was added"),
        (lambda found: part(found).task["Config"].update(image="other"), "task.Config.image: is not as"),
        (lambda found: part(found).task["Config"].update(privileged=True), "task.Config.privileged: was added"),
        (lambda found: part(found).task.update(Templates=[]), "task.Templates: 0 where 1"),
        (lambda found: part(found).task.update(KillTimeout=1), "task.KillTimeout: is not as"),
        (lambda found: part(found).group.update(Networks=None), "group.Networks: 0 where 1"),
        (lambda found: part(found).group["Tasks"].pop(), "beside.logger: is gone"),
        (lambda found: found.update(Datacenters=["dc2"]), "job.Datacenters.0: is not as"),
        (lambda found: part(found).task["Meta"].pop(render.SPECIFICATION), "nothing is recorded"),
    ],
)
def test_what_a_hand_has_changed_is_said(meddle: Callable[[render.Job], object], said: str) -> None:
    found = _answered(job(placement(configuration=samples.FULL)))
    meddle(found)
    assert any(said in one for one in compare.differences(found, part(found)))


def test_a_meddled_environment_is_said_where_none_was_declared() -> None:
    found = _answered(job(placement("worker")))
    part(found, "worker").task["Env"] = {"MORE": "secret"}
    assert compare.differences(found, part(found, "worker")) == ("task.Env.MORE: was added",)


def test_no_value_is_shown() -> None:
    found = _answered(job(placement(configuration=samples.FULL)))
    part(found).task["Env"]["LOG_LEVEL"] = "hunter2"
    assert not any("hunter2" in one for one in compare.differences(found, part(found)))


def test_a_span_in_words_is_the_same_in_nanoseconds() -> None:
    body = samples.template()
    body["Job"]["TaskGroups"][1]["Tasks"][0]["ShutdownDelay"] = "1m30s"
    there = render.outline(body, job="shop", namespace="default", region=None, places=samples.PLACES)
    found = render.with_components(there, [placement("worker")], origin(), None)
    part(found, "worker").task["ShutdownDelay"] = timedelta(seconds=90) // timedelta(microseconds=1) * 1000
    assert compare.differences(found, part(found, "worker")) == ()
