"""Which kinds have a host of their own to run hooks on, and which refuse them by the field."""

from __future__ import annotations

from importlib import import_module

import pytest

from drivers import registry

WITH_A_HOST = {"compose", "process", "script", "systemd"}
HANDS = {
    "compose": "drivers.compose.hands:ComposeHands",
    "docker": "drivers.docker.hands:DockerHands",
    "ecs": "drivers.ecs.hands:EcsHands",
    "nomad": "drivers.nomad.hands:NomadHands",
    "process": "drivers.process.hands:Hands",
    "script": "drivers.script.hands:Hands",
}


@pytest.mark.parametrize("kind", HANDS)
def test_only_hands_on_a_host_run_hooks(kind: str) -> None:
    module, _, name = HANDS[kind].partition(":")
    hands = getattr(import_module(module), name)
    assert (hasattr(hands, "lets_hooks") and hasattr(hands, "run")) is (kind in WITH_A_HOST)


@pytest.mark.parametrize("kind", sorted(registry.BUILT_IN))
def test_a_target_lets_hooks_only_where_it_has_a_host_and_never_by_itself(kind: str) -> None:
    field = registry.connection_model(kind).model_fields.get("hooks")
    assert (field is not None) is (kind in WITH_A_HOST)
    assert field is None or field.default is False
