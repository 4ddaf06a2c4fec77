"""What is sent to ECS: a golden task definition, names that follow the content, refusals that name the field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from botocore.loaders import Loader

from desired_state.health import CommandCheck, Health
from desired_state.model import Configuration, Placement, Port, RestartPolicy, Volume
from desired_state.secrets import SecretRef
from drivers.ecs import fields, render
from drivers.ecs.render import WrongTemplate
from stickers.names import PlacementId, SlotName
from tests.drivers.ecs.samples import (
    CONTAINERS,
    ENVOY,
    FULL,
    INSTALLATION,
    ROLE,
    SECRET,
    container,
    placement,
    template,
)


def read(body: dict[str, Any] | None = None) -> render.Template:
    return render.template(template() if body is None else body, CONTAINERS, "holdfast-web")


def rendered(*placements: Placement, body: dict[str, Any] | None = None) -> render.Definition:
    found = read(body)
    of = {component: name for name, component in CONTAINERS.items()}
    return render.definition(
        found, {of[one.id.component]: render.container(found, one, INSTALLATION) for one in placements}
    )


def test_the_task_definition_of_two_components() -> None:
    api, jobs = placement(), placement(component="jobs", configuration=Configuration())
    made = rendered(api, jobs)
    assert made.family == "shop"
    app, worker, proxy = made.request["containerDefinitions"]
    assert {name: value for name, value in made.request.items() if name != "containerDefinitions"} == {
        "family": "shop",
        "networkMode": "awsvpc",
        "cpu": "512",
        "memory": "1024",
        "executionRoleArn": ROLE,
    }
    assert app == {
        "name": "app",
        "image": str(api.artifact),
        "essential": True,
        "portMappings": [{"containerPort": 8080}],
        "command": ["serve", "--verbose"],
        "environment": [{"name": "LOG_LEVEL", "value": "info"}, {"name": "REGION", "value": "eu-central-1"}],
        "secrets": [{"name": "PASSWORD", "valueFrom": SECRET}],
        "user": "1000",
        "memory": 64,
        "cpu": 256,
        "stopTimeout": 3,
        "healthCheck": {
            "command": ["CMD", "/bin/check", "-q"],
            "interval": 5,
            "timeout": 30,
            "retries": 2,
            "startPeriod": 0,
        },
        "dockerLabels": {
            "team": "shop",
            "holdfast.installation": "shop-installation",
            "holdfast.target": "shop/web",
            "holdfast.component": "api",
            "holdfast.artifact": api.artifact.digest,
            "holdfast.configuration": api.configuration_digest,
            "holdfast.template": "e717970fb231",
            "holdfast.content": "sha256:54cd7f8af0b8ff7e0a829a3c1bd4dd0e2ae6bafe166f0c5be35e2faf712b566f",
        },
    }
    assert (worker["image"], worker["stopTimeout"], worker["environment"]) == (str(jobs.artifact), 10, [])
    assert proxy == {"name": "proxy", "image": ENVOY, "essential": False}
    assert made.content == "sha256:f23db854af7111d391a089664721b78fdc13ca2b86def37e0b6f2fcc7730f25b"


def test_a_component_that_is_not_placed_has_no_container() -> None:
    assert [one["name"] for one in rendered(placement()).request["containerDefinitions"]] == ["app", "proxy"]


def test_equal_content_has_one_name_and_another_has_another() -> None:
    one = rendered(placement())
    assert rendered(placement(release="shop@renamed")).content == one.content
    others = [
        rendered(placement("two")),
        rendered(placement(configuration=replace(FULL, user="0"))),
        rendered(placement(), placement(component="jobs", configuration=Configuration())),
        rendered(placement(), body=template(cpu="1024")),
        rendered(placement(), body=container("app", essential=False)),
        rendered(placement(), body=container("proxy", essential=True)),
    ]
    assert len({one.content, *(other.content for other in others)}) == 7


def test_tags_of_the_template_are_not_content() -> None:
    assert rendered(placement(), body=template(tags=[])).content == rendered(placement()).content


def test_what_ecs_fills_in_does_not_make_another_content() -> None:
    found = read()
    mine = render.container(found, placement(), INSTALLATION)
    filled = mine | {"mountPoints": [], "volumesFrom": [], "portMappings": [{"containerPort": 8080, "hostPort": 8080}]}
    assert render.definition(found, {"app": filled}).content == render.definition(found, {"app": mine}).content


def test_what_was_copied_by_hand_loses_our_labels() -> None:
    mine = render.container(read(), placement(), INSTALLATION)
    assert render.disowned(mine)["dockerLabels"] == {"team": "shop"}
    assert render.identity(render.disowned(mine)) != render.identity(mine)


@pytest.mark.parametrize(
    ("body", "because"),
    [
        (template(networkmode="host"), r"networkmode is not a field of a task definition; did you mean networkMode\?"),
        (container(enviroment=[]), r"containerDefinitions\[0\].enviroment is .*; did you mean environment\?"),
        (container(healthCheck={"comand": []}), r"healthCheck.comand is .*; did you mean command\?"),
        (container(portMappings=[8080]), r"portMappings\[0\]: expected a map"),
        (template(containerDefinitions=[]), "expected at least one container"),
        (template(containerDefinitions=[{"name": "app"}, {"name": "app"}]), r"\[1\].name: expected a name of its own"),
        (template(containerDefinitions=[{"name": "ap"}, {"name": "worker"}]), "no container app; did you mean ap"),
        (container(image="registry.example.com/shop/api:1"), "container app: image is given by the release"),
        (container(stopTimeout=30), "stopTimeout is given by the component's stop_grace"),
        (container(dockerLabels={"holdfast.key": "x"}), "dockerLabels that begin with holdfast"),
        (container("proxy", image="envoy:latest"), "whatever is latest"),
        (container("proxy", image="registry:5000/envoy"), "whatever is latest"),
        (container("proxy", image="envoy:1.30"), "can move under its tag"),
        (container("proxy", image=None), "whatever is latest"),
        (template(tags=[{"key": "holdfast:content", "value": "x"}]), "tags: 'holdfast:content'"),
        (template(family="a b"), "family: expected"),
        (template(cpu=0.5), "no canonical form"),
    ],
)
def test_a_template_that_cannot_be_meant_is_refused_by_the_field(body: dict[str, Any], because: str) -> None:
    with pytest.raises(WrongTemplate, match=because):
        read(body)


@pytest.mark.parametrize(
    ("body", "because"),
    [
        (container(command=["x"]), "command is given by the template and by the configuration"),
        (container(healthCheck={"command": ["CMD", "x"]}), "healthCheck is given by the template and"),
        (container(environment=[{"name": "LOG_LEVEL", "value": "x"}]), "the variable LOG_LEVEL is given by the templa"),
        (container(secrets=[{"name": "LOG_LEVEL", "valueFrom": SECRET}]), "the variable LOG_LEVEL is given by"),
        (container(dependsOn=[{"containerName": "worker", "condition": "START"}]), "dependsOn worker, which is not pl"),
    ],
)
def test_what_is_said_in_two_places_is_refused(body: dict[str, Any], because: str) -> None:
    with pytest.raises(WrongTemplate, match=because):
        rendered(placement(), body=body)


@pytest.mark.parametrize(
    ("configuration", "because"),
    [
        (Configuration(environment=(("PASSWORD", SecretRef(reference="env:P")),)), "environment PASSWORD: a secret"),
        (Configuration(ports=(Port(container=80),)), "ports: belongs to the template's portMappings"),
        (Configuration(volumes=(Volume(source="/a", destination="/b"),)), "volumes: belongs"),
        (Configuration(networks=("front",)), "networks: belongs"),
        (Configuration(registry_credentials=SecretRef(reference="env:P")), "registry_credentials: belongs"),
        (Configuration(restart=RestartPolicy.NEVER), "restart never"),
        (Configuration(memory=1000), "memory 1000: ECS counts in whole MiB"),
    ],
)
def test_what_ecs_would_not_enforce_is_refused_by_its_name(configuration: Configuration, because: str) -> None:
    sentences = list(render.unsupported(placement(configuration=configuration)))
    assert len(sentences) == 1
    assert sentences[0].startswith(because.partition(":")[0])
    assert because in sentences[0]


def test_a_command_check_and_another_slot_are_refused() -> None:
    asked = placement(health=Health(check=CommandCheck(argv=("x",))))
    assert "declare it as the component's healthcheck" in next(iter(render.unsupported(asked)))
    green = placement(id=PlacementId(asked.id.target, asked.id.component, SlotName("green")))
    assert "slot green" in next(iter(render.unsupported(green)))


def test_what_is_supported_is_not_refused() -> None:
    assert not list(render.unsupported(placement()))


def test_the_table_of_fields_says_what_the_model_of_the_sdk_says() -> None:
    model = Loader().load_service_model("ecs", "service-2")
    found: dict[str, frozenset[str]] = {}

    def walk(shape: str, path: str) -> None:
        said = model["shapes"][shape]
        if said["type"] == "list":
            walk(said["member"]["shape"], path)
        elif said["type"] == "structure":
            found[path] = frozenset(said["members"])
            for name, member in said["members"].items():
                walk(member["shape"], f"{path}.{name}" if path else name)

    walk("RegisterTaskDefinitionRequest", "")
    without = {path: names for path, names in found.items() if names}
    assert {path: names for path, names in fields.FIELDS.items() if names} == without
