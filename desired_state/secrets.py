"""Secrets as declared: a reference, never a value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRef:
    """`backend:path` or `backend:path#field`. `version` is part of the configuration digest: raising it redeploys.

    The value is resolved inside `apply`, at the moment of use, and nowhere else.
    """

    reference: str
    version: str | None = None

    @property
    def backend(self) -> str:
        return self.reference.partition(":")[0]

    @property
    def path(self) -> str:
        return self.reference.partition(":")[2].partition("#")[0]

    @property
    def field(self) -> str | None:
        return self.reference.partition("#")[2] or None
