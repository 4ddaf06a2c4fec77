"""What is sent to the engine: golden bodies, names that are mutexes, and no secret in a label."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from desired_state.model import Configuration
from drivers.docker import render
from stickers import names
from stickers.names import ActionKey, ComponentName, InstallationId, PlacementId, SlotName
from stickers.signature import Envelope
from stickers.sticker import Phase
from tests.drivers.docker.samples import ARTIFACT, FULL, ID, INSTALLATION, PASSWORD, origin, placement

SPECIFICATION = (
    '{"command":["serve","--verbose"],"cpus":1500,"entrypoint":null,"environment":{"LOG_LEVEL":"info","PASSWORD":'
    '{"secret":"vault:kv/shop#password","version":"7"}},"healthcheck":{"argv":["/bin/check","-q"],"interval":5000,'
    '"retries":2,"start_period":0,"timeout":30000},"image":"' + str(ARTIFACT) + '","memory":67108864,'
    '"networks":{"front":"api","shop":"api"},"ports":{"8080/tcp":["127.0.0.1:8081"],"9090/tcp":["::1:"]},'
    '"privileged":false,"restart":"on-failure","stop_grace":3,"user":"1000:1000","volumes":{"/config":{"kind":"bind",'
    '"read_only":true,"source":"/etc/shop"},"/data":{"kind":"volume","read_only":false,"source":"shop-data"}}}'
)


def test_the_body_of_a_full_placement() -> None:
    wanted = placement()
    assert render.workload(wanted, origin(), {PASSWORD: "s3cret"}, reachable=True) == render.Body(
        name="holdfast-web-1-api-f20558b3ae22-abababababab",
        networks=("shop",),
        config={
            "Image": str(ARTIFACT),
            "Cmd": ["serve", "--verbose"],
            "Env": ["LOG_LEVEL=info", "PASSWORD=s3cret"],
            "ExposedPorts": {"8080/tcp": {}, "9090/tcp": {}},
            "User": "1000:1000",
            "StopTimeout": 3,
            "Healthcheck": {
                "Test": ["CMD", "/bin/check", "-q"],
                "Interval": 5_000_000_000,
                "Timeout": 30_000_000_000,
                "Retries": 2,
                "StartPeriod": 0,
            },
            "Labels": {
                "holdfast.installation": "shop-installation",
                "holdfast.target": "shop/web-1",
                "holdfast.component": "api",
                "holdfast.slot": "live",
                "holdfast.role": "workload",
                "holdfast.key": "ab" * 32,
                "holdfast.fence": "3",
                "holdfast.sequence": "4",
                "holdfast.artifact": ARTIFACT.digest,
                "holdfast.configuration": wanted.configuration_digest,
                "holdfast.specification": SPECIFICATION,
            },
            "HostConfig": {
                "Init": True,
                "NetworkMode": "front",
                "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 0},
                "Memory": 67108864,
                "NanoCpus": 1_500_000_000,
                "PortBindings": {
                    "8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8081"}],
                    "9090/tcp": [{"HostIp": "::1", "HostPort": ""}],
                },
                "Mounts": [
                    {"Type": "bind", "Source": "/etc/shop", "Target": "/config", "ReadOnly": True},
                    {"Type": "volume", "Source": "shop-data", "Target": "/data", "ReadOnly": False},
                ],
            },
            "NetworkingConfig": {"EndpointsConfig": {"front": {"Aliases": ["api"]}}},
        },
    )


def test_the_body_of_a_placement_that_declares_nothing() -> None:
    config = render.workload(placement(Configuration()), origin(), {}, reachable=True).config
    del config["Labels"]
    assert config == {
        "Image": str(ARTIFACT),
        "Env": [],
        "ExposedPorts": {},
        "StopTimeout": 10,
        "HostConfig": {
            "Init": True,
            "PortBindings": {},
            "Mounts": [],
            "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0},
        },
    }


def test_what_is_made_beside_does_not_answer_to_the_name() -> None:
    config = render.workload(placement(), origin(), {PASSWORD: "s3cret"}, reachable=False).config
    assert config["NetworkingConfig"] == {"EndpointsConfig": {"front": {}}}


def test_the_body_of_a_holder() -> None:
    holding = render.Holding(
        phase=Phase.PROVEN, envelope=Envelope('{"sealed":1}'), image=str(ARTIFACT), instance="c0ffee"
    )
    body = render.holder(origin(sequence=9), holding)
    assert body.name.endswith("-sticker-9")
    assert body.config == {
        "Image": str(ARTIFACT),
        "Entrypoint": ["/holdfast/sticker"],
        "Cmd": [],
        "HostConfig": {"NetworkMode": "none", "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}},
        "Labels": {
            "holdfast.installation": "shop-installation",
            "holdfast.target": "shop/web-1",
            "holdfast.component": "api",
            "holdfast.slot": "live",
            "holdfast.role": "sticker",
            "holdfast.key": "ab" * 32,
            "holdfast.fence": "3",
            "holdfast.sequence": "9",
            "holdfast.phase": "proven",
            "holdfast.instance": "c0ffee",
            "holdfast.sticker.format": "holdfast.sticker/v1",
            "holdfast.sticker": '{"sealed":1}',
        },
    }


def test_the_holder_of_an_adopted_container_carries_its_record() -> None:
    record = render.record(placement())
    holding = render.Holding(phase=Phase.PROVEN, envelope=Envelope("{}"), image="sha256:1", adopted=record)
    labels = render.holder(origin(), holding).config["Labels"]
    assert labels.items() >= (record | {"holdfast.adopted": "true"}).items()


def test_no_secret_value_is_in_any_label() -> None:
    body = render.workload(placement(), origin(), {PASSWORD: "s3cret"}, reachable=True)
    assert "s3cret" not in json.dumps(body.config["Labels"])
    assert "s3cret" in json.dumps(body.config["Env"])


def test_a_restart_policy_of_never_is_the_engines_no() -> None:
    assert render.restart_policy("never") == {"Name": "no", "MaximumRetryCount": 0}


def test_spans_are_rounded_up_to_the_seconds_the_engine_knows() -> None:
    spans = [timedelta(0), timedelta(milliseconds=1), timedelta(seconds=1), timedelta(seconds=1.1)]
    assert [render.seconds(span) for span in spans] == [0, 1, 1, 2]


def test_another_slot_answers_to_another_name() -> None:
    other = replace(ID, slot=SlotName("canary"))
    assert (render.alias(ID), render.alias(other)) == ("api", "api-canary")
    assert list(render.specification(placement(FULL, id=other))["networks"].values()) == ["api-canary", "api-canary"]


names_ = st.from_regex(names.NAME, fullmatch=True)
ids = st.builds(
    lambda project, target, component, slot: PlacementId(
        names.target_id(project, target), ComponentName(component), SlotName(slot)
    ),
    *[names_] * 4,
)
keys = st.integers(0, 2**256 - 1).map(lambda number: ActionKey(f"{number:064x}"))


@given(ids, ids, keys)
def test_two_placements_never_share_a_name(one: PlacementId, other: PlacementId, key: ActionKey) -> None:
    same = render.workload_name(INSTALLATION, one, key) == render.workload_name(INSTALLATION, other, key)
    assert same == (one == other)


@given(ids, keys)
def test_two_installations_never_share_a_name(id: PlacementId, key: ActionKey) -> None:
    other = InstallationId("another")
    assert render.workload_name(INSTALLATION, id, key) != render.workload_name(other, id, key)
    assert render.holder_name(INSTALLATION, id, 1) != render.holder_name(other, id, 1)


@given(ids, keys, st.integers(0, 2**62))
def test_every_name_is_one_the_engine_takes(id: PlacementId, key: ActionKey, sequence: int) -> None:
    made = (render.workload_name(INSTALLATION, id, key), render.holder_name(INSTALLATION, id, sequence))
    assert all(name[0].isalnum() and name.replace("-", "").isalnum() and len(name) <= 255 for name in made)
