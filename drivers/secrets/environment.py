"""``env:NAME``: a variable of the environment that the daemon was started with."""

from __future__ import annotations

import os
import re
from typing import Final

from desired_state.secrets import SecretRef
from drivers.errors import Refused

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OWN: Final = "HOLDFAST_"


async def read(secret: SecretRef) -> str:
    """The variable's value."""
    if not NAME.fullmatch(secret.path):
        raise Refused(f"secret {secret.reference}: expected env: and the name of a variable")
    if secret.path.startswith(OWN):
        raise Refused(f"secret {secret.reference}: the daemon's own settings are no workload's secrets")
    value = os.environ.get(secret.path)
    if value is None:
        raise Refused(f"secret {secret.reference}: the variable is not set where the daemon runs")
    return value
