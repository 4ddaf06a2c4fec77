"""The template is a closed model: what it understands means what compose means, and the rest is refused by name."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from desired_state import load
from desired_state.sources.base import Tree
from drivers.compose.connection import Connection
from drivers.compose.template import Part, Template
from tests.drivers.compose import samples

IMAGE = "registry.example.com/shop/api@sha256:" + "a" * 64
DOCUMENTS = f"""apiVersion: holdfast/v1
kind: Release
name: shop
version: "1.0"
components: {{api: "{IMAGE}"}}
---
apiVersion: holdfast/v1
kind: Environment
name: staging
release: shop@1.0
---
apiVersion: holdfast/v1
kind: Target
name: web-1
environment: staging
driver: compose
connection:
  root: /srv/holdfast
  template:
    services:
      api:
"""


def read(service: dict[str, Any], **top: Any) -> Template:
    return Template.model_validate({"services": {"api": service}, **top})


def refused(service: dict[str, Any], **top: Any) -> tuple[str, str]:
    """Where, and what was said."""
    with pytest.raises(ValidationError) as caught:
        read(service, **top)
    error = caught.value.errors()[0]
    return ".".join(str(step) for step in error["loc"]), error["msg"]


@pytest.mark.parametrize(
    "key", ["build", "extends", "privileged", "env_file", "container_name", "network_mode", "deploy", "devices", "pid"]
)
def test_a_key_that_is_not_carried_out_is_refused_by_name(key: str) -> None:
    where, _ = refused({key: True})
    assert where == f"services.api.{key}"


@pytest.mark.parametrize("key", ["include", "name", "secrets", "configs"])
def test_a_top_level_key_that_is_not_carried_out_is_refused_by_name(key: str) -> None:
    where, _ = refused({}, **{key: {}})
    assert where == key


@pytest.mark.parametrize(
    ("service", "where"),
    [
        ({"image": "shop:${TAG}"}, "services.api.image"),
        ({"environment": {"A": "$HOME"}}, "services.api.environment.A"),
        ({"command": ["run", "${X:-y}"]}, "services.api.command.1"),
        ({"labels": {"a": "$$$X"}}, "services.api.labels.a"),
    ],
)
def test_variables_are_refused_wherever_they_stand(service: dict[str, Any], where: str) -> None:
    assert refused(service)[0] == where
    assert "no variables" in refused(service)[1]


@pytest.mark.parametrize(
    ("service", "words"),
    [
        ({"command": "serve --port 80"}, "a list of words"),
        ({"ports": ["8000-8010:80"]}, "without ranges"),
        ({"ports": ["1:2:3"]}, "an IP address"),
        ({"ports": [70000]}, "less than or equal to 65535"),
        ({"volumes": ["./data:/data"]}, "absolute path"),
        ({"volumes": ["/srv/../etc:/data"]}, "absolute path"),
        ({"environment": ["FROM_THE_SHELL"]}, "NAME=value"),
        ({"environment": {"A": None}}, "string"),
        ({"environment": {"A": True}}, "string"),
        ({"healthcheck": {"test": ["curl", "x"]}}, "CMD"),
        ({"healthcheck": {"test": ["CMD", "x"], "interval": "soon"}}, "duration"),
        ({"depends_on": {"api": {"condition": "service_healthy"}}}, "service_started"),
        ({"labels": {"holdfast.target": "x"}}, "no label that begins"),
        ({"security_opt": ["seccomp:unconfined"]}, "no-new-privileges"),
        ({"networks": ["front"]}, "networks.front, which services.api uses"),
        ({"volumes": ["data:/data"]}, "volumes.data, which services.api uses"),
        ({"depends_on": ["db"]}, "services.db, on which services.api depends"),
    ],
)
def test_what_is_not_understood_is_refused_with_what_would_be(service: dict[str, Any], words: str) -> None:
    assert words in refused(service)[1]


def test_a_host_mount_is_refused_unless_its_directory_is_allowed() -> None:
    template = {"services": {"api": {"volumes": ["/srv/shop/data:/data"]}}}
    for allowed in ([], ["/srv/other"], ["/srv/sho"]):
        with pytest.raises(ValidationError, match=r"services\.api\.volumes\[0\] in host_mounts"):
            samples.connection(template, host_mounts=allowed)
    assert samples.connection(template, host_mounts=["/srv/shop"]).may_mount("/srv/shop/data")


def test_short_and_long_forms_mean_the_same() -> None:
    short = read({"ports": ["127.0.0.1:81:80/udp"], "environment": ["A=b=c"]})
    long = read(
        {
            "ports": [{"target": 80, "published": "81", "host_ip": "127.0.0.1", "protocol": "udp"}],
            "environment": {"A": "b=c"},
        }
    )
    assert short == long


def test_a_template_as_plain_data_is_read_as_the_same_template() -> None:
    """A target keeps it so, and a part is kept in each component's configuration."""
    once = Template.model_validate(samples.TEMPLATE)
    assert Template.model_validate(once.model_dump(mode="json", exclude_defaults=True)) == once
    part = once.part("api")
    assert part is not None
    assert Part.read(part.text) == part


def test_a_part_changes_with_its_service_and_with_nothing_else() -> None:
    other = copy.deepcopy(samples.TEMPLATE)
    other["services"]["mail"] = {"user": "1000"}
    before, after = samples.connection(), samples.connection(other)
    assert before.template_of("api") == after.template_of("api")
    assert before.template_of("mail") != after.template_of("mail")
    other["networks"]["back"] = {"internal": False}
    assert samples.connection(other).template_of("api") != before.template_of("api")


def test_an_editor_is_told_of_short_forms_and_of_what_is_refused() -> None:
    schema = Connection.model_json_schema()
    whole = {"root": "/srv/holdfast", "template": samples.TEMPLATE, "host_mounts": ["/etc"]}
    checked = jsonschema.Draft202012Validator(schema)
    assert [error.message for error in checked.iter_errors(whole)] == []
    for service in ({"build": "."}, {"devices": []}, {"command": "a line"}, {"ports": [{"target": {}}]}):
        assert not checked.is_valid({"root": "/srv", "template": {"services": {"api": service}}})


# -- in the documents -------------------------------------------------------------------------------------------------


def resolved(service: str) -> Any:
    text = DOCUMENTS + "".join(f"        {line}\n" for line in service.splitlines())
    tree = Tree(revision="1", files={"fleet.yaml": text.encode()})
    return load.load(tree, {"compose": Connection})


def test_what_is_refused_is_told_with_the_line_and_the_field_of_the_document() -> None:
    found = resolved("image: shop\nprivileged: true")
    (finding,) = found.findings
    line = DOCUMENTS.count("\n") + 2
    assert (finding.line, finding.path) == (line, "connection.template.services.api.privileged")
    assert "no privileged services" in finding.expected


def test_what_the_template_says_of_a_component_is_part_of_its_configuration() -> None:
    one, two = (resolved(f"user: '{user}'") for user in (1000, 1001))
    (first,), (second,) = (state.environments["default/staging"].placements for state in (one, two))
    assert first.configuration_digest != second.configuration_digest
    assert '"user":"1000"' in first.configuration.template


def test_a_component_of_which_the_template_says_nothing_is_a_finding() -> None:
    text = DOCUMENTS.replace("      api:\n", "      web: {}\n")
    tree = Tree(revision="1", files={"fleet.yaml": text.encode()})
    (finding,) = load.load(tree, {"compose": Connection}).findings
    assert (finding.code, finding.found) == ("TEMPLATE_SILENT", "nothing of the component api")
