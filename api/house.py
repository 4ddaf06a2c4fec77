"""The house as the commands see it: everything that `api.wiring` has built, in one record without methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from api.bell import Bell
from api.settings import Settings
from drivers.contract import Driver
from reconciler.daemon import Reconciler
from reconciler.store.store import Store
from stickers.names import InstallationId
from stickers.redaction import Redactor
from stickers.signature import Keyring


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
    bell: Bell = field(default_factory=Bell)
