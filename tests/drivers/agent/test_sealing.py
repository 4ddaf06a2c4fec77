"""What is sealed opens for one agent, one task and one key."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from desired_state.secrets import SecretRef
from drivers.agent import sealing
from drivers.agent.sealing import Unsealable, opened, seal
from stickers.names import ActionKey, AgentName

PRIVATE = X25519PrivateKey.generate()
PUBLIC = PRIVATE.public_key().public_bytes_raw().hex()
FOR: dict[str, Any] = {"task": "t-1", "agent": AgentName("web-1"), "key": ActionKey("a" * 64)}


def test_what_is_sealed_opens_where_it_was_sealed_for() -> None:
    secrets = {sealing.named(SecretRef(reference="vault:kv/shop#password", version="3")): "pässword"}
    assert opened(seal(secrets, PUBLIC, **FOR), PRIVATE, **FOR) == secrets


@pytest.mark.parametrize("other", [{"task": "t-2"}, {"agent": "web-2"}, {"key": "b" * 64}], ids=lambda one: str(*one))
def test_it_opens_for_no_other_task_agent_or_key(other: dict[str, str]) -> None:
    with pytest.raises(Unsealable):
        opened(seal({"one": "value"}, PUBLIC, **FOR), PRIVATE, **(FOR | other))


def test_it_opens_with_no_other_key() -> None:
    with pytest.raises(Unsealable):
        opened(seal({"one": "value"}, PUBLIC, **FOR), X25519PrivateKey.generate(), **FOR)


def test_every_changed_byte_is_seen() -> None:
    sealed = base64.b64decode(seal({"one": "value"}, PUBLIC, **FOR))
    for at in range(len(sealed)):
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with pytest.raises(Unsealable):
            opened(base64.b64encode(changed).decode(), PRIVATE, **FOR)


@pytest.mark.parametrize("text", ["", "AAAA", "no base64", "é"])
def test_what_was_never_sealed_is_refused(text: str) -> None:
    with pytest.raises(Unsealable):
        opened(text, PRIVATE, **FOR)


@pytest.mark.parametrize("public", ["", "zz", "00" * 31, "00" * 32], ids=["none", "no-hex", "short", "low-order"])
def test_nothing_is_sealed_to_what_is_no_key(public: str) -> None:
    with pytest.raises(Unsealable):
        seal({"one": "value"}, public, **FOR)


def test_a_secret_of_another_version_has_another_name() -> None:
    one, other = (
        SecretRef(reference="vault:kv/shop#password"),
        SecretRef(reference="vault:kv/shop#password", version="2"),
    )
    assert sealing.named(one) != sealing.named(other)


def test_what_would_not_fit_into_a_frame_is_not_sealed() -> None:
    with pytest.raises(Unsealable, match="characters"):
        seal({"one": "v" * sealing.LARGEST}, PUBLIC, **FOR)
