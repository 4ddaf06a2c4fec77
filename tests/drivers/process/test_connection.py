"""How a plain host is reached: what a target's document may say, and what it may not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from drivers.process.connection import Connection
from drivers.ssh.connection import Reach


def test_a_root_is_enough() -> None:
    ours = set(Connection.model_fields) - set(Reach.model_fields) | {"via"}
    assert Connection(root="/srv/holdfast").model_dump(include=ours) == {
        "via": "local",
        "root": "/srv/holdfast",
        "artifacts": "registry",
        "address": "127.0.0.1",
        "python": "python3",
        "hooks": False,
    }


@pytest.mark.parametrize("artifacts", ["oci:/srv/images", "tar:/srv/images.tar", "registry"])
def test_bytes_come_from_a_layout_a_tar_of_one_or_a_registry(artifacts: str) -> None:
    assert Connection(root="/srv/x", artifacts=artifacts).artifacts == artifacts


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"root": "relative"},
        {"root": "/"},
        {"root": "/srv/../etc"},
        {"root": "/srv/\0"},
        {"root": 5},
        {"root": "/srv/x", "via": "ssh"},
        {"root": "/srv/x", "artifacts": "oci:relative"},
        {"root": "/srv/x", "artifacts": "https://registry.example.com"},
        {"root": "/srv/x", "address": "localhost"},
        {"root": "/srv/x", "address": "127.0.0.1:80"},
        {"root": "/srv/x", "python": ""},
        {"root": "/srv/x", "pyhton": "python3"},
    ],
)
def test_what_is_not_understood_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Connection.model_validate(wrong)
