"""The TLS of the listener for agents: a certificate of our own authority, and the issuers that count."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog

from api.agents.authority import SOON, Authority, Served

RENEWS: Final = 2 / 3  # of its life a certificate is shown

_log: Final = structlog.get_logger("agents")


class Tls:
    """Called for each connection; answers with the same context until the certificate is old, or the authority has
    changed: a retired issuer is believed no more from the next connection on."""

    def __init__(
        self,
        authority: Authority,
        names: Sequence[str],
        now: Callable[[], datetime],
        retired: Callable[[], frozenset[str]],
    ) -> None:
        self._authority, self._names, self._now, self._retired = authority, tuple(names), now, retired
        self._made_of: tuple[str, ...] = ()
        self._until: datetime | None = None
        self._context: ssl.SSLContext | None = None

    def __call__(self) -> ssl.SSLContext:
        retired = self._retired()
        trusted = tuple(each for each in self._authority.trusted if each.id not in retired)
        of, now = tuple(each.id for each in trusted), self._now()
        if self._context is None or self._until is None or now >= self._until or of != self._made_of:
            served = self._authority.server(self._names, now)
            self._warn(now)
            self._context = context(served, "".join(each.pem for each in trusted))
            self._made_of, self._until = of, now + (served.not_after - now) * RENEWS
        return self._context

    def _warn(self, now: datetime) -> None:
        """With each certificate that is made, so every few days."""
        issuer = self._authority.issuing
        if issuer.not_after - now < SOON:
            _log.warning("authority_ends_soon", issuer=issuer.id, ends=issuer.not_after, do="holdfast authority rotate")


def context(served: Served, issuers: str) -> ssl.SSLContext:
    """TLS 1.3 alone, certificates of these issuers for whoever shows one, no resumption. The issuers themselves are
    trusted and not the root above them, or one that is retired would go on counting."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.minimum_version = ssl.TLSVersion.TLSv1_3
    found.options |= ssl.OP_NO_TICKET
    found.num_tickets = 0
    found.verify_mode = ssl.CERT_OPTIONAL
    found.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    found.load_verify_locations(cadata=issuers)
    _load(found, served.pem)
    return found


def _load(context: ssl.SSLContext, pem: str) -> None:
    """OpenSSL reads files alone: the key is in one that only we can read, for that moment."""
    handle, name = tempfile.mkstemp(prefix="holdfast-")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(pem)
        context.load_cert_chain(name)
    finally:
        Path(name).unlink(missing_ok=True)
