"""The house as the commands see it: everything that `api.wiring` has built, in one record without methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from api.agents.parts import Agents
from api.bell import Bell
from api.problem import Problem
from api.settings import Settings
from api.telemetry.metrics import Metrics
from api.telemetry.requests import Tracing
from api.thrift import Thrift
from desired_state.secrets import Resolve, SecretRef
from desired_state.sources.declared import Source
from drivers.contract import Driver
from reconciler.daemon import Reconciler
from reconciler.store.store import Store
from stickers.names import EnvironmentId, InstallationId
from stickers.redaction import Redactor
from stickers.signature import Envelope, Keyring, Sign, Statement

if TYPE_CHECKING:
    from api.agents.station import Station


def signs_nothing(statement: Statement, environment: EnvironmentId, record: object) -> Envelope:
    """Stands where there are no keys."""
    raise Problem("NO_KEYS", "whoever only examines signs nothing")


async def resolves_nothing(secret: SecretRef) -> str:
    """Stands where no secrets are used."""
    raise Problem("NO_SECRETS", f"nobody resolves secrets here, so not {secret.reference} either")


@dataclass(frozen=True, kw_only=True)
class House:
    settings: Settings
    installation: InstallationId
    store: Store
    reconciler: Reconciler
    drivers: Mapping[str, Driver]
    keyring: Keyring
    redactor: Redactor
    now: Callable[[], datetime]
    secret: Resolve = resolves_nothing
    sources: dict[str, Source] = field(default_factory=dict)  # others by and by, when their file is read again
    sign: Sign = signs_nothing
    bell: Bell = field(default_factory=Bell)
    metrics: Metrics = field(default_factory=Metrics)
    thrift: Thrift = field(default_factory=Thrift)
    tracing: Tracing | None = None
    agents: Agents | None = None
    station: Station | None = None
