"""How an engine is reached, as a document says it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from drivers.docker.connection import Connection

TLS = {"ca": "/etc/holdfast/ca.pem", "cert": "/etc/holdfast/cert.pem", "key": "/etc/holdfast/key.pem"}


def test_nothing_said_is_the_local_engine() -> None:
    assert Connection().engine == "unix:///var/run/docker.sock"
    assert Connection().published_at is None


def test_a_remote_engine_is_asked_for_its_published_ports_at_its_host() -> None:
    assert Connection.model_validate({"engine": "tcp://engine.example.com:2376", "tls": TLS}).published_at == (
        "engine.example.com"
    )
    assert Connection.model_validate({"engine": "tcp://[2001:db8::1]:2376", "tls": TLS}).published_at == "2001:db8::1"


def test_an_address_that_is_said_wins() -> None:
    assert Connection(address="127.0.0.1").published_at == "127.0.0.1"


@pytest.mark.parametrize(
    ("said", "because"),
    [
        ({"engine": "tcp://engine:2376"}, "needs tls"),
        ({"engine": "unix:///run/docker.sock", "tls": TLS}, "tcp:// engines only"),
        ({"engine": "ssh://engine"}, "expected unix://"),
        ({"engine": "tcp://engine:70000", "tls": TLS}, "expected unix://"),
        ({"engine": "tcp://user@engine:2376", "tls": TLS}, "expected unix://"),
        ({"engine": "tcp://engine", "tls": TLS}, "expected unix://"),
        ({"engine": "unix://relative.sock"}, "expected unix://"),
        ({"engine": "npipe:////./pipe/docker_engine"}, "let that engine listen at tcp://host:2376 with TLS"),
        ({"engine": "tcp://engine:2376", "tls": TLS | {"ca": "ca.pem"}}, "absolute path"),
        ({"engine": "tcp://engine:2376", "tls": {"ca": "/ca.pem"}}, "cert"),
        ({"address": "host:80"}, "without port"),
        ({"via": "ssh"}, "via"),
        ({"sock": "/run/docker.sock"}, "sock"),
    ],
)
def test_what_cannot_be_meant_is_refused(said: dict[str, Any], because: str) -> None:
    with pytest.raises(ValidationError, match=because):
        Connection.model_validate(said)


def test_equal_connections_are_one_key() -> None:
    said = {"engine": "tcp://engine:2376", "tls": TLS}
    assert len({Connection.model_validate(said), Connection.model_validate(said)}) == 1


def test_the_model_imports_no_sdk() -> None:
    code = "import sys; import drivers.docker.connection; print('docker' in sys.modules, 'requests' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
