"""What is kept of agents, and how it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from reconciler.store.errors import Missing, StoreError
from reconciler.store.records import AgentState
from stickers.names import AgentName, TargetId

SPEAKING: Final = (AgentState.ACTIVE, AgentState.DRAINING)


class NameInUse(StoreError):
    code = "AGENT_LOCKED"


class NoAgent(Missing):
    code = "NO_AGENT"


class TargetTaken(StoreError):
    code = "TARGET_TAKEN"


class Refusal(StrEnum):
    """Why somebody was issued no certificate."""

    UNKNOWN = "JOIN_REFUSED"
    EXPIRED = "TOKEN_EXPIRED"
    USED = "TOKEN_USED"
    LOCKED = "AGENT_LOCKED"
    KEY_USED = "KEY_USED"
    CERTIFICATE = "CERTIFICATE_REFUSED"
    COPIED = "IDENTITY_COPIED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """`granted` are the runtimes the operator grants, `reported` those it says it can work with. `former` says of which
    targets it spoke with which key and does no more: what it signed then is still evidence. `server` is the place of
    the process that heard it last, `way` how it was connected there."""

    name: AgentName
    state: AgentState
    generation: int
    signing: str | None
    sealing: str | None
    former: Mapping[str, tuple[TargetId, ...]]
    granted: tuple[str, ...]
    reason: str
    invited_at: datetime
    invited_by: str
    joined_at: datetime | None
    revision: int
    version: str
    reported: tuple[str, ...]
    heard_at: datetime | None
    queue: int
    way: str
    peer: str
    server: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A target that an agent serves. Of several that share one, one holds it."""

    agent: AgentName
    target: TargetId
    shared: bool
    holder: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """`key` is the digest of its public key. `used_at` is its first use; that of the next generation sets `ends_at`."""

    serial: int
    agent: AgentName
    generation: int
    key: str
    issuer: str
    pem: str
    issued_at: datetime
    not_after: datetime
    used_at: datetime | None = None
    ends_at: datetime | None = None
    revoked_at: datetime | None = None

    def counts(self, now: datetime) -> bool:
        return self.revoked_at is None and now < self.not_after and (self.ends_at is None or now < self.ends_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """`hash` is the digest of the token's secret."""

    hash: str
    agent: AgentName
    created_at: datetime
    created_by: str
    expires_at: datetime
    used_at: datetime | None = None
    certificate: int | None = None
    withdrawn_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate that issues others. A retired one is believed no more, whatever it signed."""

    id: str
    role: str
    pem: str
    made_at: datetime
    retired_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What somebody who joins shows: digest of the TLS key, raw public signing and sealing keys in hex."""

    key: str
    signing: str
    sealing: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A certificate that is to be issued."""

    agent: AgentName
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """`again`: the certificate was issued before, and the answer was lost."""

    certificate: Certificate
    targets: tuple[TargetId, ...]
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """`locked`: this very request has locked the agent."""

    refusal: Refusal
    agent: AgentName | None = None
    locked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What was last heard of an agent."""

    agent: AgentName
    at: datetime
    version: str
    reported: tuple[str, ...]
    queue: int
    way: str
    peer: str
    server: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """The agents that have changed since a revision, whole, with their certificates that have not expired."""

    revision: int
    agents: tuple[Agent, ...] = ()
    bound: tuple[Bound, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    retired: frozenset[str] = frozenset()  # issuers


Issue = Callable[[Wanted], Certificate]
