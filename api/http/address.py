"""Where the server listens, and what it insists on before it does."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from api.http.caps import Caps
from api.problem import Problem
from api.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """`host` without brackets; `certificate` None: plain HTTP."""

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.certificate else 'http'}://{host}:{self.port}"


def of(settings: Settings) -> Address:
    """Raises `BAD_SETTING` for what cannot be meant, and for passwords in clear text over a network."""
    host, port = split("listen", settings.listen)
    certificate, key = _file("tls_certificate", settings), _file("tls_key", settings)
    if key is not None and certificate is None:
        raise _bad("HOLDFAST_TLS_KEY is set and HOLDFAST_TLS_CERTIFICATE is not")
    if certificate is None and settings.plain_http != "on" and not is_loopback(host):
        raise _bad(
            f"{host} is reached by others: give HOLDFAST_TLS_CERTIFICATE and HOLDFAST_TLS_KEY, or say --plain-http "
            "where a proxy before it has TLS"
        )
    return Address(host=host, port=port, certificate=certificate, key=key)


def caps(settings: Settings, address: Address) -> Caps:
    """Addresses need no listing: only names can be made to lead elsewhere."""
    names = {each.strip().lower() for each in settings.hosts.split(",") if each.strip()}
    names |= {"localhost", socket.gethostname().lower(), address.host.lower()}
    if settings.public_url:
        names.add((urlsplit(settings.public_url).hostname or "").lower())
    return Caps(hosts=frozenset(names - {""}))


def with_port(address: Address, port: int) -> Address:
    """As it is reached: port 0 asks for any that is free."""
    return replace(address, port=port)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def split(name: str, text: str) -> tuple[str, int]:
    """Host and port of the setting of that name."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port[:6]) > 65_535:
        raise _bad(f"HOLDFAST_{name.upper()} is {text[:60]!r}; expected HOST:PORT, such as 127.0.0.1:8420")
    return host, int(port)


def _file(name: str, settings: Settings) -> Path | None:
    text = str(getattr(settings, name))
    if not text:
        return None
    if not Path(text).is_file():
        raise _bad(f"HOLDFAST_{name.upper()} is {text[:200]!r}; there is no such file")
    return Path(text)


def _bad(sentence: str) -> Problem:
    return Problem("BAD_SETTING", sentence)
