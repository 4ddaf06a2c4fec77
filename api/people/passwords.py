"""Passwords, kept as scrypt hashes that carry their parameters, so that harder ones can be asked for one day:

    scrypt$<n>$<r>$<p>$<salt>$<hash>

Salt and hash are base64 without padding.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Final

from anyio import CapacityLimiter, to_thread

from api.problem import Problem

SHORTEST: Final = 12
LONGEST: Final = 256  # characters; hashing takes as long for any
SALT: Final = 16
_LARGEST: Final = 256 * 1024 * 1024  # bytes that one hash may take, whatever a row says
_TOGETHER: Final = CapacityLimiter(2)  # hashes at once: each takes 32 MiB and a core


@dataclass(frozen=True, slots=True)
class Cost:
    """What one guess costs: memory is 128 * n * r bytes."""

    n: int = 2**15
    r: int = 8
    p: int = 1

    @property
    def memory(self) -> int:
        return 128 * self.n * self.r * (self.p + 1) + 1024 * 1024


COST: Final = Cost()
NOBODYS: Final = (
    "scrypt$32768$8$1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"  # fits no password
)


def made() -> str:
    """A random one, for a person to keep or to change: 120 bits."""
    return secrets.token_urlsafe(15)


def check(password: str) -> None:
    """`BAD_PASSWORD` says what is wrong with a new one. Length is all that is asked for."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise Problem(
            "BAD_PASSWORD", f"a password has from {SHORTEST} to {LONGEST} characters, this one {len(password)}"
        )


async def encoded(password: str, cost: Cost = COST) -> str:
    """As it is kept."""
    salt = secrets.token_bytes(SALT)
    found = await to_thread.run_sync(_hash, password, salt, cost, limiter=_TOGETHER)
    return "$".join(("scrypt", str(cost.n), str(cost.r), str(cost.p), _base64(salt), _base64(found)))


async def fits(password: str, kept: str | None) -> bool:
    """Whether it is the password. For nobody's (None) it takes as long, and is not."""
    cost, salt, expected = _read(kept or NOBODYS)
    found = await to_thread.run_sync(_hash, password[:LONGEST], salt, cost, limiter=_TOGETHER)
    return hmac.compare_digest(found, expected) and kept is not None and len(password) <= LONGEST


def outdated(kept: str, cost: Cost = COST) -> bool:
    """Whether it is kept under other parameters than are asked for today."""
    return _read(kept)[0] != cost


def _hash(password: str, salt: bytes, cost: Cost) -> bytes:
    content = password.encode(errors="surrogatepass")
    return hashlib.scrypt(content, salt=salt, n=cost.n, r=cost.r, p=cost.p, maxmem=cost.memory, dklen=32)


def _read(kept: str) -> tuple[Cost, bytes, bytes]:
    try:
        kind, n, r, p, salt, found = kept.split("$")
        cost = Cost(int(n), int(r), int(p))
        if kind != "scrypt" or cost.memory > _LARGEST:
            raise ValueError(kind)
        return cost, _bytes(salt), _bytes(found)
    except (ValueError, binascii.Error):
        raise Problem(
            "CORRUPT", "a kept password does not read as one; set it anew with `holdfast user passwd`"
        ) from None


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
