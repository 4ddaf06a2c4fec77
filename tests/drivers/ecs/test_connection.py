"""Which service a target is, as a document says it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from drivers.ecs.connection import Connection
from tests.drivers.ecs.samples import CONNECTION

KEYS = {"access_key_id": {"secret": "env:KEY_ID"}, "secret_access_key": {"secret": "file:/etc/holdfast/aws#key"}}


def test_a_service_is_named_by_cluster_region_and_name() -> None:
    connection = Connection.model_validate(CONNECTION)
    assert (connection.cluster, connection.service, connection.region) == ("production", "shop", "eu-central-1")
    assert connection.container_of == {"api": "app", "jobs": "worker"}


def test_without_credentials_the_chain_of_the_sdk_is_asked() -> None:
    assert Connection.model_validate(CONNECTION).credentials is None


def test_credentials_are_references() -> None:
    credentials = Connection.model_validate({**CONNECTION, "credentials": KEYS}).credentials
    assert credentials is not None
    assert credentials.secret_access_key.secret == "file:/etc/holdfast/aws#key"


@pytest.mark.parametrize("endpoint", ["https://ecs.example.com", "http://127.0.0.1:5000", "http://[::1]:5000"])
def test_an_endpoint_is_sealed_or_on_loopback(endpoint: str) -> None:
    assert Connection.model_validate({**CONNECTION, "endpoint": endpoint}).endpoint == endpoint


@pytest.mark.parametrize(
    ("said", "because"),
    [
        ({"endpoint": "http://ecs.example.com"}, "expected https://host"),
        ({"endpoint": "http://10.0.0.1:5000"}, "expected https://host"),
        ({"endpoint": "https://user:pass@ecs.example.com"}, "expected https://host"),
        ({"cluster": "a/b"}, "name or the ARN of a cluster"),
        ({"cluster": "arn:aws:ecs:eu-central-1:123456789012:service/x"}, "name or the ARN of a cluster"),
        ({"service": ""}, "name of a service"),
        ({"region": "Frankfurt"}, "such as eu-central-1"),
        ({"credentials": {"access_key_id": "AKIA"}}, "valid dictionary"),
        ({"credentials": {**KEYS, "secret_access_key": "plain"}}, "valid dictionary"),
        ({"task_definition_file": "/etc/shop.json"}, "either task_definition or task_definition_file"),
        ({"task_definition": None}, "either task_definition or task_definition_file"),
        ({"task_definition": None, "task_definition_file": "shop.json"}, "absolute path"),
        ({"containers": {}}, "at least 1"),
        ({"containers": {"app": "API"}}, "is not a component"),
        ({"containers": {"app": "api", "worker": "api"}}, "component api is given twice"),
        ({"tasks": 0}, "greater than or equal to 1"),
        ({"clutser": "x"}, "Extra inputs"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_reason(said: dict[str, Any], because: str) -> None:
    with pytest.raises(ValidationError, match=because):
        Connection.model_validate({**CONNECTION, **said})


def test_reading_a_connection_imports_no_sdk() -> None:
    code = (
        "import sys; import drivers.ecs.connection;"
        "found = {'boto3', 'botocore', 'docker'} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
