"""Secrets on their way to an agent: sealed to its key for one task, so that whoever carries them cannot read them.

HPKE (RFC 9180) with X25519, HKDF-SHA256 and ChaCha20-Poly1305. What is sealed opens for the task, the agent and the key
that it was sealed for, and for nothing else.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from desired_state.secrets import SecretRef
from stickers import digest
from stickers.names import ActionKey, AgentName

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.hpke import Suite

FORMAT: Final = "holdfast.sealed/v1"
LARGEST: Final = 256 * 1024  # characters of what is sealed, so that it fits into a frame beside its task


class Unsealable(ValueError):
    """Secrets that cannot be sealed so, or a text that does not open here; never says what is in it."""


def named(secret: SecretRef) -> str:
    """How a secret is called among those that are sealed: by its reference and version, in one way."""
    return digest.canonical(secret).decode()


def seal(secrets: Mapping[str, str], public: str, *, task: str, agent: AgentName, key: ActionKey) -> str:
    """The values by their names (`named`), for the holder of the private key to `public` (hex) alone, as base64."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    content = json.dumps(dict(secrets), sort_keys=True, separators=(",", ":")).encode()
    try:
        recipient = X25519PublicKey.from_public_bytes(bytes.fromhex(public))
        sealed = _suite().encrypt(content, recipient, info=_info(task, agent, key))
    except ValueError as error:
        raise Unsealable(f"not a key that can be sealed to: {error}") from None
    text = base64.b64encode(sealed).decode()
    if len(text) > LARGEST:
        raise Unsealable(f"sealed secrets of {len(text)} characters, at most {LARGEST} travel with a task")
    return text


def opened(sealed: str, private: X25519PrivateKey, *, task: str, agent: AgentName, key: ActionKey) -> Mapping[str, str]:
    """The values by their names."""
    from cryptography.exceptions import InvalidTag

    try:
        content = base64.b64decode(sealed, validate=True)
        found = json.loads(_suite().decrypt(content, private, info=_info(task, agent, key)))
    except (InvalidTag, ValueError, RecursionError):
        raise Unsealable(f"the secrets of task {task[:80]} were not sealed to this agent for this task") from None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise Unsealable(f"the secrets of task {task[:80]} are no texts by name")
    return found


def _info(task: str, agent: AgentName, key: ActionKey) -> bytes:
    return digest.canonical({"format": FORMAT, "task": task, "agent": agent, "key": key})


def _suite() -> Suite:
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
