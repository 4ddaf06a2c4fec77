"""From a reference to the value, through the backend that the reference names. Errors name the reference, never the
value."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Final

import anyio

from desired_state.secrets import SecretRef
from drivers.errors import Refused, Unreachable
from drivers.secrets import environment, fields, file
from drivers.secrets.cloud import Cloud
from drivers.secrets.fields import Content
from drivers.secrets.sops import Sops
from drivers.secrets.vault import Vault
from stickers.redaction import Redactor

Backend = Callable[[SecretRef], Awaitable[Content]]

WITHIN: Final = timedelta(seconds=10)


class Resolver:
    """What `Tools.secret` is. Every value is known to the redactor before it is handed out, and so is what the backends
    say who we are with. Connections are kept until `aclose`."""

    def __init__(self, redactor: Redactor, backends: Mapping[str, Backend] | None = None) -> None:
        self._redactor = redactor
        self._vault, self._cloud = Vault(redactor.add), Cloud()
        self._backends = backends if backends is not None else self._own()

    def _own(self) -> Mapping[str, Backend]:
        return {
            "env": environment.read,
            "file": file.read,
            "vault": self._vault.read,
            "aws-sm": self._cloud.secret,
            "aws-ssm": self._cloud.parameter,
            "sops": Sops(self._redactor.add).read,
        }

    async def __call__(self, secret: SecretRef) -> str:
        backend = self._backends.get(secret.backend)
        if backend is None:
            known = ", ".join(sorted(self._backends))
            raise Refused(f"secret {secret.reference}: unknown backend {secret.backend!r}; known are {known}")
        try:
            with anyio.fail_after(WITHIN.total_seconds()):
                content = await backend(secret)
        except TimeoutError:
            raise Unreachable(f"secret {secret.reference}: no answer within {WITHIN.total_seconds():g} s") from None
        value = fields.value(content, secret)
        if not value:
            raise Refused(f"secret {secret.reference}: the value is empty")
        self._redactor.add(value)
        return value

    async def aclose(self) -> None:
        await self._vault.aclose()
        await self._cloud.aclose()
