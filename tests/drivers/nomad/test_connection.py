"""Which job a target is, as a document says it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from desired_state.secrets import SecretRef
from drivers.nomad.connection import Connection, Place
from drivers.registry import connection_model

GOOD: dict[str, Any] = {
    "address": "https://nomad.example.com:4646",
    "job": "team/shop",
    "file": "/etc/holdfast/shop.hcl",
    "tasks": {"front/api": "api"},
}


def test_a_job_behind_tls_is_a_target() -> None:
    connection = Connection.model_validate(GOOD | {"token": {"secret": "file:/run/token", "version": "2"}})
    assert connection.access.token == SecretRef(reference="file:/run/token", version="2")
    assert connection.places == {"api": Place("front", "api")}
    assert connection.namespace == "default"


def test_targets_of_one_cluster_share_their_access() -> None:
    one = Connection.model_validate(GOOD)
    other = Connection.model_validate(GOOD | {"job": "billing"})
    assert one.access == other.access
    assert len({one.access, other.access}) == 1


def test_http_is_for_loopback() -> None:
    assert Connection.model_validate(GOOD | {"address": "http://127.0.0.1:4646/"}).address == "http://127.0.0.1:4646"


@pytest.mark.parametrize(
    ("said", "because"),
    [
        ({"address": "http://nomad.example.com:4646"}, "expected https://"),
        ({"address": "https://user@nomad:4646"}, "expected https://"),
        ({"address": "https://nomad:4646/ui"}, "expected https://"),
        ({"address": "http://127.0.0.1:4646", "tls": {"ca": "/ca.pem"}}, "tls is for https"),
        ({"tls": {"cert": "/cert.pem"}}, "belong together"),
        ({"job": "shop api"}, "letters, digits"),
        ({"job": "/shop"}, "letters, digits"),
        ({"namespace": "a*"}, "letters, digits"),
        ({"hcl": 'job "shop" {}'}, "one of template"),
        ({"file": None}, "one of template"),
        ({"file": "shop.hcl"}, "absolute path"),
        ({"file": "/shop.yaml"}, "ends in"),
        ({"tasks": {}}, "at least 1"),
        ({"tasks": {"api": "api"}}, "group/task"),
        ({"tasks": {"a/api": "api", "b/api": "api"}}, "given twice"),
        ({"tasks": {"a/api": "Api"}}, "lower-case"),
        ({"token": "secret"}, "valid dictionary"),
        ({"verify": False}, "Extra inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(said: dict[str, Any], because: str) -> None:
    with pytest.raises(ValidationError, match=because):
        Connection.model_validate(GOOD | said)


def test_the_model_is_found_by_its_kind() -> None:
    assert connection_model("nomad") is Connection


def test_no_sdk_is_imported_for_it() -> None:
    code = "import sys, drivers.nomad.connection; sys.exit('nomad' in sys.modules or 'requests' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
