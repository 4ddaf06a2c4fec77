"""Webhooks in: a forge says that something was pushed, and the source is looked at again. Nothing else is believed of
what it says: not the branch, not the commit, not the repository.

    POST /hooks/<source>        the source's document says which forge, and where the secret is kept

Whoever is not who they should be gets one answer, whatever was wrong, also for sources that do not exist.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import anyio
import structlog
from fastapi import APIRouter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from api.house import House
from api.http.guard import open_to_all
from api.problem import Problem
from api.repositories import reference
from desired_state.schema import SecretReference
from desired_state.sources.declared import Webhook
from drivers.errors import DriverError
from reconciler import loop
from reconciler.store import deliveries
from reconciler.store.deliveries import Seen

BODY: Final = 5 * 1024 * 1024
WINDOW: Final = timedelta(minutes=5)  # between the sender's clock and ours
KEPT: Final = 60.0  # seconds that a secret is kept, so that nobody can make us ask for it over and over
SHORTEST: Final = 16  # characters of a secret
NOBODY: Final = b"stands in for the secret of whoever is not known: the answer takes as long"

WHY: Final = "a forge proves itself by its signature over the body"

Signed = Callable[[Mapping[str, str], bytes, bytes], bool]  # headers, body, secret


@dataclass(frozen=True, slots=True)
class _Kept:
    secrets: tuple[bytes, ...]
    until: float


def router(house: House) -> APIRouter:
    router, receiver = APIRouter(), Receiver(house)

    @router.post("/hooks/{source}", status_code=202, tags=["sources"], dependencies=[open_to_all(WHY)])
    async def look_again(source: str, request: Request) -> Response:
        """A forge's webhook: signed with the source's secret, it makes the source be read now."""
        await receiver.receive(source, request)
        return JSONResponse({"status": "accepted"}, 202)

    return router


class Receiver:
    """Takes deliveries for the sources of one house."""

    def __init__(self, house: House, most: int = deliveries.MOST) -> None:
        self._house, self._most = house, most
        self._kept: dict[str, _Kept] = {}

    async def receive(self, source: str, request: Request) -> None:
        body = await _body(request)
        said = self._house.sources.get(source)
        webhook = said.webhook if said is not None else None
        secrets = await self._secrets(source, webhook) if webhook is not None else ()
        signed = SIGNED[webhook.kind] if webhook is not None else github
        valid = [signed(request.headers, body, secret) for secret in secrets or (NOBODY,)]
        if webhook is None or not secrets or not any(valid):
            raise Problem("UNAUTHENTICATED", "the delivery is not signed as was agreed")
        if webhook.kind == "generic":
            self._insist_on_age(request.headers)
        await self._take(source, body, request.headers)

    async def _take(self, source: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Once for what was signed, whatever name the delivery has: that name is not signed."""
        now = self._house.now()
        id = hashlib.sha256(headers.get("x-holdfast-timestamp", "").encode() + b"." + body).hexdigest()
        seen = await self._house.store.write(lambda c: deliveries.take(c, source, id, now, self._most))
        if seen is Seen.FULL:
            raise Problem(
                "TOO_MANY_REQUESTS", "too many deliveries were kept; the source is still read at its interval"
            )
        structlog.get_logger().info("webhook_taken", source=source, again=seen is Seen.AGAIN)
        if seen is Seen.NEW:
            self._house.reconciler.request(loop.read(source))

    def _insist_on_age(self, headers: Mapping[str, str]) -> None:
        sent, now = headers.get("x-holdfast-timestamp", ""), self._house.now().timestamp()
        if abs(now - int(sent)) > WINDOW.total_seconds():  # a number: it was signed
            raise Problem("UNAUTHENTICATED", "the delivery is not signed as was agreed")

    async def _secrets(self, source: str, webhook: Webhook) -> tuple[bytes, ...]:
        """The one, and the previous one while it is changed; none where they cannot be had."""
        kept = self._kept.get(source)
        if kept is None or kept.until < anyio.current_time():
            found = [
                await self._secret(source, said) for said in (webhook.secret, webhook.previous) if said is not None
            ]
            kept = _Kept(tuple(each for each in found if each), anyio.current_time() + KEPT)
            self._kept[source] = kept
        return kept.secrets

    async def _secret(self, source: str, said: SecretReference) -> bytes | None:
        log = structlog.get_logger()
        try:
            value = await self._house.secret(reference(said))
        except DriverError as error:
            log.warning("webhook_secret_missing", source=source, problem=str(error))
            return None
        if len(value) < SHORTEST:
            log.warning("webhook_secret_short", source=source, shortest=SHORTEST)
            return None
        return value.encode()


async def _body(request: Request) -> bytes:
    """All of it, before anything is made of it."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY:
                raise Problem("BODY_TOO_LARGE", f"a delivery has at most {BODY} bytes")
    except ClientDisconnect:
        raise Problem("BAD_REQUEST", "the sender went away") from None
    return bytes(body)


# -- how each signs ---------------------------------------------------------------------------------------------------


def _mac(secret: bytes, *parts: bytes) -> str:
    return hmac.new(secret, b"".join(parts), hashlib.sha256).hexdigest()


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode(errors="replace"))


def github(headers: Mapping[str, str], body: bytes, secret: bytes) -> bool:
    return _same("sha256=" + _mac(secret, body), headers.get("x-hub-signature-256", ""))


def gitea(headers: Mapping[str, str], body: bytes, secret: bytes) -> bool:
    return _same(_mac(secret, body), headers.get("x-gitea-signature", ""))


def gitlab(headers: Mapping[str, str], body: bytes, secret: bytes) -> bool:
    """GitLab signs nothing: it sends the secret itself, and has to be reached over TLS."""
    return _same(secret.decode(), headers.get("x-gitlab-token", ""))


def generic(headers: Mapping[str, str], body: bytes, secret: bytes) -> bool:
    """The time of sending (seconds since 1970), a full stop and the body are signed together."""
    sent = headers.get("x-holdfast-timestamp", "")
    mac = "sha256=" + _mac(secret, sent.encode(errors="replace"), b".", body)
    number = sent.isascii() and sent.isdigit() and len(sent) < 12
    return _same(mac, headers.get("x-holdfast-signature", "")) and number


SIGNED: Final[Mapping[str, Signed]] = {"github": github, "gitlab": gitlab, "gitea": gitea, "generic": generic}
