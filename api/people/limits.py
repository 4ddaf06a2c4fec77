"""How often something may be tried: counted per key in a map that is bounded, and that denies when it is full.

A map that threw away old counts to make room could be flushed by whoever fills it. Counts are kept in this process:
a restart forgets them, and each replica counts on its own.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from typing import Final

CAPACITY: Final = 10_000


class Limit:
    """At most `allowed` for each key within `seconds` of the first."""

    def __init__(
        self,
        allowed: int,
        seconds: float,
        *,
        capacity: int = CAPACITY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._allowed, self._seconds, self._capacity, self._clock = allowed, seconds, capacity, clock
        self._counts: dict[str, tuple[float, int]] = {}  # oldest first, since a key that begins anew moves to the end

    def wait(self, key: str) -> float:
        """Seconds until the key may try again; zero when it may now."""
        now = self._clock()
        self._sweep(now)
        if key not in self._counts:
            return 0.0 if len(self._counts) < self._capacity else self._oldest_ends(now)
        since, count = self._counts[key]
        return 0.0 if count < self._allowed else max(since + self._seconds - now, 0.001)

    def count(self, key: str) -> None:
        """One more try. Where the map is full it is not counted, and not allowed either."""
        now = self._clock()
        self._sweep(now)
        if key in self._counts or len(self._counts) < self._capacity:
            since, count = self._counts.get(key, (now, 0))
            self._counts[key] = (since, count + 1)

    def forgive(self, key: str) -> None:
        """One try less: it succeeded. The others stay counted."""
        if key in self._counts:
            since, count = self._counts[key]
            self._counts[key] = (since, max(count - 1, 0))

    def _sweep(self, now: float) -> None:
        while self._counts:
            key, (since, _) = next(iter(self._counts.items()))
            if since + self._seconds > now:
                return
            del self._counts[key]

    def _oldest_ends(self, now: float) -> float:
        since, _ = next(iter(self._counts.values()))
        return max(since + self._seconds - now, 0.001)


def network(address: str) -> str:
    """The key of a peer: its address, or for IPv6 the network of which one customer has all addresses."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
