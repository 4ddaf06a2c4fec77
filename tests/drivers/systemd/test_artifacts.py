"""The unit of a component as it is kept with a job, byte for byte, and that nothing secret is in it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from desired_state.model import Configuration, Placement
from desired_state.secrets import SecretFile, SecretRef
from drivers.errors import InvalidAction
from drivers.systemd import artifacts
from stickers.names import InstallationId
from tests.drivers.docker.samples import placement

GOLDEN = Path(__file__).parent / "golden" / "kept.service"
HERE = InstallationId("inst-1")
WHOLE = Configuration(
    command=("bin/serve", "--greeting", "100% $HOME"),
    environment=(("LOG_LEVEL", "info"), ("TOKEN", SecretRef(reference="env:TOKEN"))),
    secrets=(SecretFile(name="db-password", secret=SecretRef(reference="vault:kv/shop#password", version="7")),),
    user="shop",
    memory=64 << 20,
    cpus=500,
    stop_grace=timedelta(seconds=3),
)


def unit(of: Placement) -> str:
    [file] = artifacts.units([of], HERE, "/srv/shop/")
    return f"{file.name}\n{file.text}"


def test_the_unit_is_the_one_that_was_agreed_on() -> None:
    assert unit(placement(WHOLE)) == GOLDEN.read_text()


def test_a_component_whose_command_is_its_images_own_has_none_beforehand() -> None:
    assert list(artifacts.units([placement(replace(WHOLE, command=None))], HERE, "/srv/shop")) == []


def test_what_no_unit_can_say_is_refused_by_the_placement() -> None:
    with pytest.raises(InvalidAction, match="shop/web-1/api: a word of the command"):
        unit(placement(replace(WHOLE, command=("serve", "a\0b"))))
