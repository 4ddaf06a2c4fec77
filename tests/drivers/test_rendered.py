"""Files that every runtime renders alike, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from desired_state.model import Configuration
from desired_state.secrets import SecretRef
from drivers.contract import Rendering
from drivers.errors import InvalidAction
from drivers.rendered import env_files
from tests.drivers.docker.samples import PASSWORD, placement

GOLDEN = Path(__file__).with_name("golden")
NASTY = (
    ("BACK", "C:\\new"),
    ("LINES", "first\nsecond"),
    ("LOG_LEVEL", "info"),
    ("PASSWORD", PASSWORD),
    ("SLY", SecretRef(reference="file:/a\nTOKEN=1#b")),
    ("TEXT", 'say "hi" to `x` for $HOME'),
)


def test_variables_are_written_as_agreed_and_secrets_by_reference() -> None:
    [file] = env_files([placement(Configuration(environment=NASTY))])
    assert file.name == "api.env"
    assert file.text == (GOLDEN / "api.env").read_text()


def test_a_component_without_variables_has_no_file() -> None:
    assert env_files([placement(Configuration())]) == ()


def test_a_value_that_no_file_can_hold_is_refused_by_the_name_of_its_variable() -> None:
    with pytest.raises(InvalidAction, match="environment LOG: its value contains NUL"):
        env_files([placement(Configuration(environment=(("LOG", "a\0b"),)))])


@pytest.mark.parametrize("kind", ["compose", "docker", "process", "systemd"])
def test_these_runtimes_offer_their_files(kind: str) -> None:
    from drivers import registry

    driver = registry.load(kind)
    assert all(hasattr(driver, name) for name in ("deploys", "rendered"))
    assert isinstance(object.__new__(driver), Rendering)  # type: ignore[call-overload]
