"""A container made as rendered agrees with its specification, and every change made by hand is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from desired_state.model import Configuration, RestartPolicy
from drivers.docker import compare, render
from tests.drivers.docker.samples import ARTIFACT, FULL, container, image, placement

Change = Callable[[dict[str, Any]], object]


def differences(found: dict[str, Any], of: Configuration = FULL, **config: Any) -> tuple[str, ...]:
    wanted = json.loads(render.text(render.specification(placement(of))))  # as it is read from the label
    return compare.differences(wanted, found, image(**config))


@pytest.mark.parametrize("configuration", [FULL, Configuration()], ids=["full", "bare"])
def test_what_was_made_as_rendered_agrees(configuration: Configuration) -> None:
    assert differences(container(placement(configuration)), configuration) == ()


CHANGES: dict[str, tuple[Change, str]] = {
    "command": (lambda it: it["Config"].update(Cmd=["serve"]), "command"),
    "entrypoint": (lambda it: it["Config"].update(Entrypoint=["/bin/sh"]), "entrypoint"),
    "value": (lambda it: it["Config"]["Env"].__setitem__(0, "LOG_LEVEL=debug"), "environment.LOG_LEVEL"),
    "variable added": (lambda it: it["Config"]["Env"].append("EXTRA=1"), "environment.EXTRA"),
    "variable gone": (lambda it: it["Config"]["Env"].pop(0), "environment.LOG_LEVEL"),
    "secret gone": (lambda it: it["Config"]["Env"].pop(1), "environment.PASSWORD"),
    "default of the image changed": (lambda it: it["Config"]["Env"].__setitem__(2, "PATH=/tmp"), "environment.PATH"),
    "host port": (lambda it: it["HostConfig"]["PortBindings"]["8080/tcp"][0].update(HostPort="80"), "ports.8080/tcp"),
    "address": (lambda it: it["HostConfig"]["PortBindings"]["8080/tcp"][0].update(HostIp=""), "ports.8080/tcp"),
    "port gone": (lambda it: it["HostConfig"]["PortBindings"].pop("9090/tcp"), "ports.9090/tcp"),
    "volume writable": (lambda it: it["Mounts"][0].update(RW=True), "volumes./config.read_only"),
    "another volume": (lambda it: it["Mounts"][1].update(Name="other"), "volumes./data.source"),
    "volume added": (lambda it: it["Mounts"].append({"Type": "tmpfs", "Destination": "/tmp"}), "volumes./tmp"),
    "network gone": (lambda it: it["NetworkSettings"]["Networks"].pop("shop"), "networks.shop"),
    "network added": (lambda it: it["NetworkSettings"]["Networks"].update(bridge={}), "networks.bridge"),
    "name lost": (lambda it: it["NetworkSettings"]["Networks"]["shop"].update(Aliases=[]), "networks.shop"),
    "user": (lambda it: it["Config"].update(User="root"), "user"),
    "restart": (lambda it: it["HostConfig"]["RestartPolicy"].update(Name="always"), "restart"),
    "no restart": (lambda it: it["HostConfig"]["RestartPolicy"].update(Name="no"), "restart"),
    "restart limited": (lambda it: it["HostConfig"]["RestartPolicy"].update(MaximumRetryCount=3), "restart"),
    "memory": (lambda it: it["HostConfig"].update(Memory=1 << 30), "memory"),
    "cpus": (lambda it: it["HostConfig"].update(NanoCpus=0), "cpus"),
    "grace": (lambda it: it["Config"].update(StopTimeout=None), "stop_grace"),
    "health check": (lambda it: it["Config"]["Healthcheck"].update(Retries=9), "healthcheck.retries"),
    "no health check": (lambda it: it["Config"].update(Healthcheck={"Test": ["NONE"]}), "healthcheck"),
    "privileged": (lambda it: it["HostConfig"].update(Privileged=True), "privileged"),
    "image": (lambda it: it.update(Image="sha256:other") or it["Config"].update(Image="shop/api:latest"), "image"),
}


@pytest.mark.parametrize(("change", "where"), CHANGES.values(), ids=CHANGES.keys())
def test_a_change_by_hand_is_named(change: Change, where: str) -> None:
    found = container(placement())
    change(found)
    assert any(sentence.startswith(where) for sentence in differences(found))


@pytest.mark.parametrize(("platform", "network"), [("linux", "bridge"), ("windows", "nat")])
def test_where_an_engine_puts_what_declares_no_network_is_no_difference(platform: str, network: str) -> None:
    found = container(placement(Configuration())) | {"Platform": platform}
    found["NetworkSettings"]["Networks"] = {network: {}}
    assert differences(found, Configuration()) == ()
    found["Platform"] = {"linux": "windows", "windows": "linux"}[platform]
    assert differences(found, Configuration()) == (f"networks.{network}: found '', wanted nothing",)


def test_what_the_image_says_is_no_difference() -> None:
    check = {"Test": ["CMD", "/probe"], "Interval": 1, "Timeout": 1, "Retries": 1, "StartPeriod": 0}
    defaults = {"Cmd": ["run"], "User": "app", "Healthcheck": check, "Volumes": {"/cache": {}}}
    found = container(placement(Configuration()))
    found["Config"].update(Cmd=["run"], User="app", Healthcheck=check)
    found["Mounts"].append({"Type": "volume", "Name": "f" * 64, "Destination": "/cache", "RW": True})
    assert differences(found, Configuration(), **defaults) == ()
    assert differences(found, Configuration()) != ()


def test_a_value_that_was_found_is_never_shown() -> None:
    found = container(placement())
    found["Config"]["Env"] = ["LOG_LEVEL=hunter2", "PASSWORD=hunter2", "EXTRA=hunter2", "PATH=hunter2"]
    told = differences(found)
    assert len(told) == 3
    assert "hunter2" not in " ".join(told)


def test_a_secret_of_any_value_agrees() -> None:
    found = container(placement())
    found["Config"]["Env"][1] = "PASSWORD=rotated"
    assert differences(found) == ()


def test_a_stopped_container_without_its_restart_policy_agrees() -> None:
    found = container(placement())
    found["HostConfig"]["RestartPolicy"] = render.NEVER
    found["State"]["Running"] = False
    assert differences(found) == ()


def test_what_stands_beside_need_not_answer_to_the_name_yet() -> None:
    found = container(placement())
    for endpoint in found["NetworkSettings"]["Networks"].values():
        endpoint["Aliases"] = None
    wanted = render.specification(placement())
    assert compare.differences(wanted, found, image(), named=False) == ()
    assert len(compare.differences(wanted, found, image())) == 2


def test_a_record_of_another_version_is_compared_in_what_both_know() -> None:
    wanted = dict(render.specification(placement())) | {"gpu": 1}
    del wanted["privileged"]
    found = container(placement())
    found["HostConfig"]["Privileged"] = True
    assert compare.differences(wanted, found, image()) == ()


def test_an_older_way_to_limit_processors_is_understood() -> None:
    found = container(placement())
    found["HostConfig"].update(NanoCpus=0, CpuQuota=150_000, CpuPeriod=100_000)
    assert differences(found) == ()


def test_an_image_is_known_by_repository_and_digest_only() -> None:
    known = {"RepoDigests": ["busybox@sha256:" + "1" * 64, str(ARTIFACT)]}
    assert compare.is_known_by(known, str(ARTIFACT))
    assert compare.is_known_by(known, "docker.io/library/busybox@sha256:" + "1" * 64)
    assert not compare.is_known_by(known, "registry.example.com/shop/api@sha256:" + "1" * 64)
    assert not compare.is_known_by({"RepoDigests": None}, str(ARTIFACT))


@pytest.mark.parametrize("policy", RestartPolicy)
def test_each_restart_policy_agrees_with_itself_and_no_other(policy: RestartPolicy) -> None:
    found = container(placement(Configuration(restart=policy)))
    agreeing = [other for other in RestartPolicy if differences(found, Configuration(restart=other)) == ()]
    assert agreeing == [policy]


@given(
    st.dictionaries(st.from_regex(r"[A-Z_]{1,6}", fullmatch=True), st.text(alphabet="ab=\n ", max_size=8), max_size=4)
)
def test_any_environment_agrees_with_itself(environment: dict[str, str]) -> None:
    configuration = Configuration(environment=tuple(sorted(environment.items())))
    assert differences(container(placement(configuration)), configuration) == ()
