"""Who this agent is, and what it signs with: what `identity` reads from its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from desired_state.hooks import Where
from desired_state.secrets import SecretRef
from drivers.agent import sealing
from drivers.agent.protocol import Key
from drivers.contract import Tools
from drivers.errors import Refused, Unreachable
from drivers.hooks import Runner
from stickers import codec
from stickers.names import AgentName, InstallationId
from stickers.redaction import Redactor
from stickers.signature import Envelope, Keyring, PublicKey, SignatureError, Signer, key_id
from stickers.sticker import Sticker

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    from drivers.secrets.resolver import Resolver

SPEAKS_OF: Final = ("sticker:*", "evidence:*", "result:*")
"""What its key signs here. Of which targets it is believed is for those to say who read it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """`signers` are the public keys (hex) of who may authorise tasks, as the join told them."""

    agent: AgentName
    installation: InstallationId
    signing: Ed25519PrivateKey
    sealing: X25519PrivateKey
    signers: tuple[str, ...]

    @property
    def public(self) -> bytes:
        return self.signing.public_key().public_bytes_raw()

    def signer(self) -> Signer:
        return Signer(self.signing, public_key(self.public.hex(), SPEAKS_OF))


def public_key(public: str, subjects: Sequence[str]) -> PublicKey:
    """Raises `ValueError` where the text is no key."""
    content = bytes.fromhex(public)
    if len(content) != 32:
        raise ValueError(f"a public key of {len(content)} bytes")
    return PublicKey(id=key_id(content), public=content, subjects=tuple(subjects))


class Reader:
    """Which stickers are believed here: those of the keys a server told of, and our own."""

    def __init__(self, own: Own) -> None:
        self._own = public_key(own.public.hex(), SPEAKS_OF)
        self._keyring = Keyring([self._own])

    def know(self, keys: Sequence[Key]) -> None:
        self._keyring = Keyring([*(public_key(key.public, key.subjects) for key in keys), self._own])

    def __call__(self, envelope: Envelope) -> Sticker | None:
        try:
            return codec.verified(envelope, self._keyring)
        except (SignatureError, codec.Unreadable):
            return None


class Secrets:
    """What `Tools.secret` is here: the values that came sealed with the task that is being carried out, in memory and
    for that task alone, and backends that the host's settings have it ask itself."""

    def __init__(self, redactor: Redactor, resolves: Sequence[str]) -> None:
        self._redactor, self._resolves = redactor, frozenset(resolves)
        self._resolver: Resolver | None = None
        self._opened: ContextVar[Mapping[str, str] | None] = ContextVar("opened", default=None)

    def open(self, values: Mapping[str, str]) -> None:
        """From now on, for whatever the current task does and begins."""
        self._opened.set(values)

    async def __call__(self, secret: SecretRef) -> str:
        if secret.backend in self._resolves:
            return await self._resolved(secret)
        values = self._opened.get()
        if values is None:
            raise Refused(f"secret {secret.reference}: nobody has sent it, and this host does not ask {secret.backend}")
        if sealing.named(secret) not in values:
            raise Unreachable(f"secret {secret.reference}: not among those that came with this task")
        return values[sealing.named(secret)]

    async def _resolved(self, secret: SecretRef) -> str:
        if self._resolver is None:
            from drivers.secrets.resolver import Resolver  # clients of HTTP, megabytes of them

            self._resolver = Resolver(self._redactor)
        return await self._resolver(secret)

    async def aclose(self) -> None:
        if self._resolver is not None:
            await self._resolver.aclose()


def tools(own: Own, reader: Reader, secrets: Secrets, redactor: Redactor, *, hooks: bool) -> Tools:
    """What the drivers of this host are handed."""
    return Tools(
        installation=own.installation,
        sign=own.signer().sign,
        read=reader,
        now=lambda: datetime.now(UTC),
        secret=secrets,
        hook=Runner(redactor, secrets) if hooks else None,
        hooks_at=frozenset({Where.TARGET}),
    )
