"""What a placement means to a plain host: the same words always, the digest that can be computed from them, and a
sentence for everything that would not be enforced."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from desired_state.health import CommandCheck, Health, HttpCheck, TcpCheck
from desired_state.model import Configuration, Placement, Port, RestartPolicy, RuntimeHealthcheck, Volume
from desired_state.secrets import SecretRef
from drivers.process import host, render
from stickers.names import (
    Artifact,
    ComponentName,
    Digest,
    InstallationId,
    PlacementId,
    SlotName,
    environment_id,
    release_name,
    target_id,
)

PASSWORD = SecretRef(reference="vault:kv/shop#password", version="3")
INSTALLATION = InstallationId("inst-1")


def placement(**declared: Any) -> Placement:
    health = declared.pop("health", None)
    return Placement(
        id=PlacementId(target_id("default", "web-1"), ComponentName("web")),
        environment=environment_id("default", "staging"),
        release=release_name("shop@2.3.1"),
        artifact=Artifact("registry.example.com/shop/web", Digest("sha256:" + "a" * 64)),
        configuration=Configuration(**declared),
        health=health,
    )


def test_a_specification_says_everything_but_secret_values() -> None:
    declared = placement(
        command=("bin/serve", "--port", "8080"),
        environment=(("LOG_LEVEL", "info"), ("PASSWORD", PASSWORD)),
        ports=(Port(container=8080, host=8080),),
        restart=RestartPolicy.ON_FAILURE,
        memory=64 << 20,
        cpus=2000,
        user="www-data",
        stop_grace=timedelta(seconds=3),
        registry_credentials=SecretRef(reference="env:REGISTRY"),
    )
    assert render.specification(declared, INSTALLATION) == {
        "installation": "inst-1",
        "target": "default/web-1",
        "component": "web",
        "slot": "live",
        "artifact": f"registry.example.com/shop/web@sha256:{'a' * 64}",
        "command": ["bin/serve", "--port", "8080"],
        "configuration": {
            "command": ["bin/serve", "--port", "8080"],
            "environment": [
                ["LOG_LEVEL", "info"],
                ["PASSWORD", {"reference": "vault:kv/shop#password", "version": "3"}],
            ],
            "ports": [{"container": 8080, "host": 8080, "address": "127.0.0.1", "protocol": "tcp"}],
            "user": "www-data",
            "restart": "on-failure",
            "memory": 67108864,
            "cpus": 2000,
            "stop_grace": 3000,
        },
    }


def test_the_images_own_command_counts_where_none_is_declared() -> None:
    assert render.specification(placement(), INSTALLATION, ("run", "it"))["command"] == ["run", "it"]
    assert render.specification(placement(command=("mine",)), INSTALLATION, ("run", "it"))["command"] == ["mine"]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
CONFIGURATIONS = st.builds(
    Configuration,
    command=st.none() | st.lists(TEXT, max_size=3).map(tuple),
    environment=st.lists(st.tuples(TEXT, TEXT | st.builds(SecretRef, reference=TEXT, version=st.none() | TEXT))).map(
        tuple
    ),
    ports=st.lists(st.builds(Port, container=st.integers(1, 65535), host=st.none() | st.integers(1, 65535))).map(tuple),
    user=st.none() | TEXT,
    restart=st.sampled_from(RestartPolicy),
    memory=st.none() | st.integers(1, 1 << 50),
    cpus=st.none() | st.integers(1, 10**6),
    stop_grace=st.integers(0, 10**6).map(lambda number: timedelta(milliseconds=number)),
)


@given(CONFIGURATIONS)
def test_the_host_computes_the_configuration_digest_itself(configuration: Configuration) -> None:
    assert host.configuration_digest(render.document(configuration)) == configuration.digest


@given(CONFIGURATIONS)
def test_the_host_asks_for_the_secrets_that_are_resolved(configuration: Configuration) -> None:
    release = host.Release("x", {"configuration": render.document(configuration)}, "a", "c")
    assert set(release.secrets) == set(render.secrets(configuration))


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        ({"volumes": (Volume(source="data", destination="/data"),)}, "volumes are not of a plain host"),
        ({"networks": ("front",)}, "networks are not of a plain host"),
        ({"healthcheck": RuntimeHealthcheck(argv=("true",))}, "a runtime's own health check is not"),
        ({"cpus": 1500}, "cpus 1.5: processors are given in whole cores"),
        ({"cpus": 0}, "cpus 0: processors are given in whole cores"),
        ({"user": "a b"}, "user 'a b': expected user or user:group"),
        ({"ports": (Port(container=80, host=8080),)}, "port 8080:80: the workload binds its port itself"),
        ({"environment": (("HOLDFAST_SLOT", "x"),)}, "environment HOLDFAST_SLOT: names that begin with HOLDFAST_"),
        ({"environment": (("A=B", "x"),)}, "environment 'A=B' is not the name of a variable"),
        ({"environment": (("A", "x\0y"),)}, "environment A: its value contains NUL"),
        ({"command": ("a\0b",)}, "command: a word contains NUL"),
    ],
)
def test_what_would_not_be_enforced_is_said(declared: dict[str, Any], sentence: str) -> None:
    (found,) = render.unsupported(placement(**declared))
    assert found.startswith(sentence)


def test_what_is_enforced_is_not_refused() -> None:
    declared = placement(
        command=("serve",),
        environment=(("PATH", "/opt/bin"), ("PASSWORD", PASSWORD)),
        ports=(Port(container=8080, host=8080), Port(container=9090)),
        memory=1 << 30,
        cpus=4000,
        user="1000:www-data",
    )
    assert render.unsupported(declared) == ()


@pytest.mark.parametrize(
    ("ports", "check", "fixed"),
    [
        ((), None, False),
        ((Port(container=80, host=80),), None, True),
        ((Port(container=80),), None, False),
        ((Port(container=80),), HttpCheck(port=80), False),
        ((), TcpCheck(port=80), True),
        ((Port(container=80),), HttpCheck(port=81), True),
        ((), CommandCheck(argv=("true",)), False),
    ],
)
def test_two_instances_fight_for_a_port_that_both_must_have(
    ports: tuple[Port, ...], check: HttpCheck | TcpCheck | CommandCheck | None, fixed: bool
) -> None:
    declared = placement(ports=ports, health=None if check is None else Health(check=check))
    assert render.fixed(declared) is fixed


def test_a_slot_has_a_directory_of_its_own() -> None:
    live = placement().id
    assert render.folder(live) == "web"
    assert render.folder(replace(live, slot=SlotName("canary"))) == "web.canary"
