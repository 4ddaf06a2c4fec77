"""Who somebody is at a registry of images, as a secret says it. Nothing of a client is loaded for it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from drivers.errors import Refused


@dataclass(frozen=True, slots=True)
class Credentials:
    username: str
    password: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Credentials:
        """From ``username:password``, as a secret holds them."""
        username, colon, password = text.strip().partition(":")
        if not colon or not username:
            raise Refused("registry credentials are expected as username:password")
        return cls(username, password)

    @property
    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
