"""From a reference to the value, through the backend that the reference names. Errors name the reference, never the
value."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Final

import anyio

from desired_state.secrets import SecretRef
from drivers.errors import Refused, Unreachable
from drivers.secrets import environment, file
from stickers.redaction import Redactor

Backend = Callable[[SecretRef], Awaitable[str]]

BACKENDS: Final[Mapping[str, Backend]] = MappingProxyType({"env": environment.read, "file": file.read})
WITHIN: Final = timedelta(seconds=10)


class Resolver:
    """What `Tools.secret` is. Every value is known to the redactor before it is handed out."""

    def __init__(self, redactor: Redactor, backends: Mapping[str, Backend] = BACKENDS) -> None:
        self._redactor, self._backends = redactor, backends

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
        value = content if secret.field is None else _field(content, secret)
        if not value:
            raise Refused(f"secret {secret.reference}: the value is empty")
        self._redactor.add(value)
        return value


def _field(content: str, secret: SecretRef) -> str:
    """One field of a JSON object, or of lines ``KEY=value`` (blank lines and those that begin with # are skipped, and
    quotes around a value are no part of it)."""
    fields = _of_object(content, secret) if content.lstrip().startswith("{") else _of_lines(content)
    value = fields.get(secret.field)
    if value is None:
        raise Refused(f"secret {secret.reference}: there is no field {secret.field!r}")
    if not isinstance(value, str):
        raise Refused(f"secret {secret.reference}: the field {secret.field!r} is not a text")
    return value


def _of_object(content: str, secret: SecretRef) -> Mapping[str | None, object]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refused(f"secret {secret.reference}: the content begins like JSON and is no JSON object")
    return found


def _of_lines(content: str) -> Mapping[str | None, object]:
    lines = (line.strip() for line in content.splitlines())
    pairs = (line.removeprefix("export ").partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): _unquoted(value.strip()) for name, equals, value in pairs if equals}


def _unquoted(value: str) -> str:
    quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value
