"""Who is at the other end of a request, how they came, and whether their browser asked on our own behalf.

Forwarded headers count only when the connection itself comes from a proxy that the settings trust; from the right,
the first address that is no such proxy is the peer.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request

from api.problem import Problem
from api.settings import BadSetting

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """`secure`: over TLS, here or at a trusted proxy. `loopback`: on this very machine, and nothing stands between."""

    address: str
    secure: bool
    loopback: bool


def networks(listed: Iterable[str]) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(text) for text in listed)
    except ValueError as error:
        raise BadSetting(f"HOLDFAST_TRUSTED_PROXIES: {error}; expected addresses or networks, 10.0.0.0/24") from None


def peer(request: Request, trusted: tuple[Network, ...]) -> Peer:
    direct = request.client.host if request.client else ""
    secure = request.url.scheme == "https"
    if not _among(direct, trusted):
        here = _is_loopback(direct) and _is_loopback(request.url.hostname or "")
        return Peer(
            address=direct, secure=secure, loopback=here and not any(name in request.headers for name in FORWARDED)
        )
    passed = [text.strip() for line in request.headers.getlist("x-forwarded-for") for text in line.split(",")]
    strangers = [text for text in reversed(passed) if not _among(text, trusted)]
    said = request.headers.get("x-forwarded-proto", "").strip().lower()
    return Peer(address=strangers[0] if strangers else direct, secure=secure or said == "https", loopback=False)


def insist_on_own_origin(request: Request, public_url: str) -> None:
    """`FORBIDDEN` unless the browser says that one of our own pages asks. One that says nothing is not believed."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is None and origin is None:
        raise Problem("FORBIDDEN", "a session changes nothing without Origin or Sec-Fetch-Site; use a token")
    if not is_own_origin(request, public_url):
        raise Problem("FORBIDDEN", "another site asked for this in your name; nothing was changed")


def is_own_origin(request: Request, public_url: str) -> bool:
    """Whether nothing that the browser says speaks against it."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None and site != "same-origin":
        return False
    return origin is None or _origin(origin) in _own(request, public_url)


def _own(request: Request, public_url: str) -> frozenset[tuple[str, str]]:
    """Hosts that are ours, with the schemes they may be asked for by: what was asked for, and what people call us."""
    host = request.headers.get("host", "").lower()
    own = {_origin(f"{scheme}://{host}") for scheme in ("http", "https")}
    if public_url:
        own.add(_origin(public_url))
    return frozenset(own - {("", "")})


def _origin(text: str) -> tuple[str, str]:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return ("", "")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ("", "")
    return (parts.scheme, f"{parts.hostname.lower()}:{port or (443 if parts.scheme == 'https' else 80)}")


def _among(address: str, trusted: Iterable[Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return any((mapped or parsed) in network for network in trusted)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
