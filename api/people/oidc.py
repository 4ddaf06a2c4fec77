"""Logins at an OpenID Connect provider: code flow with PKCE, state and nonce, and nothing believed that is not signed.

The secrets of a login under way are derived from a cookie of the browser that began it, so nothing is kept here, and
what the provider sends back is of use in that browser alone. Groups are what the provider says at each login; without
any there is no access. authlib and joserfc are imported where a provider is configured, by whoever logs in first.

OidcRefused   the provider said no, or what it said cannot be believed; the text is a sentence for the log
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode, urlsplit

import anyio
import httpx2

from api.people import cookies
from api.problem import Problem
from api.settings import BadSetting, Settings

if TYPE_CHECKING:
    from joserfc.jwk import KeySet

ALGORITHMS: Final = ("RS256", "PS256", "ES256", "Ed25519")  # never `none`, never a shared secret
SECONDS: Final = 10.0  # for one answer of the provider
LARGEST: Final = 1024 * 1024  # bytes of one
LEEWAY: Final = 60  # seconds that clocks may differ
AGE: Final = timedelta(hours=1)  # what the provider says of itself is asked for again after this
AGAIN: Final = timedelta(minutes=1)  # keys are not asked for more often, whatever tokens name
GROUPS: Final = 200
HERE: Final = ("127.0.0.1", "::1", "localhost")
CALLBACK: Final = "/login/oidc/callback"


class OidcRefused(Exception):
    """A login that does not happen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """What the provider knows us as. `callback` is where it sends browsers back to."""

    issuer: str
    id: str
    secret: str | None
    callback: str
    groups_claim: str = "groups"
    scope: str = "openid profile email"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Somebody, as the provider vouches for them. Without a group they are let in nowhere."""

    issuer: str
    subject: str
    name: str
    groups: tuple[str, ...]


def client(settings: Settings) -> Client | None:
    """As the settings say; None where no provider is configured."""
    if not settings.oidc_issuer:
        return None
    if not settings.oidc_client_id or not settings.public_url:
        raise BadSetting("HOLDFAST_OIDC_ISSUER needs HOLDFAST_OIDC_CLIENT_ID and HOLDFAST_PUBLIC_URL beside it")
    if not _is_safe(settings.oidc_issuer):
        raise BadSetting(f"HOLDFAST_OIDC_ISSUER is {settings.oidc_issuer[:80]!r}; expected https://…")
    return Client(
        issuer=settings.oidc_issuer,
        id=settings.oidc_client_id,
        secret=_secret(settings),
        callback=settings.public_url.rstrip("/") + CALLBACK,
        groups_claim=settings.oidc_groups_claim,
        scope=settings.oidc_scope,
    )


def _secret(settings: Settings) -> str | None:
    if not settings.oidc_client_secret_file:
        return None
    try:
        return Path(settings.oidc_client_secret_file).read_text().strip()
    except (OSError, ValueError) as error:
        raise BadSetting(f"HOLDFAST_OIDC_CLIENT_SECRET_FILE: {type(error).__name__}") from None


@dataclass(frozen=True, slots=True)
class _Found:
    """What the provider says of itself, and when it said so."""

    document: Mapping[str, Any]
    keys: KeySet
    at: datetime


class Provider:
    """One provider, asked over connections that are kept."""

    def __init__(self, client: Client, now: Callable[[], datetime]) -> None:
        self._client, self._now = client, now
        loopback = urlsplit(client.issuer).hostname in HERE
        self._http = httpx2.AsyncClient(timeout=SECONDS, follow_redirects=False, trust_env=not loopback)
        self._found: _Found | None = None
        self._finding = anyio.Lock()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def address(self, secret: str) -> str:
        """Where the browser is sent to log in; `secret` is what its cookie holds."""
        from authlib.oauth2.rfc7636 import create_s256_code_challenge

        found = await self._discovered()
        asked = {
            "response_type": "code",
            "client_id": self._client.id,
            "redirect_uri": self._client.callback,
            "scope": self._client.scope,
            "state": cookies.derived(secret, "state"),
            "nonce": cookies.derived(secret, "nonce"),
            "code_challenge": create_s256_code_challenge(cookies.derived(secret, "verifier")),
            "code_challenge_method": "S256",
        }
        address = str(found.document["authorization_endpoint"])
        return f"{address}{'&' if '?' in address else '?'}{urlencode(asked)}"

    async def identity(self, secret: str, said: Mapping[str, str]) -> Identity:
        """Who logged in, from the parameters that the browser came back with."""
        if not hmac.compare_digest(said.get("state", "").encode(), cookies.derived(secret, "state").encode()):
            raise OidcRefused("the state is not the one that this browser's login began with")
        if "error" in said or not said.get("code"):
            raise OidcRefused(f"the provider says {said.get('error', 'nothing')[:80]!r}")
        if "iss" in said and said["iss"] != self._client.issuer:
            raise OidcRefused("the answer is another provider's")  # RFC 9207
        answer = await self._redeemed(said["code"], cookies.derived(secret, "verifier"))
        return self._identified(await self._claims(answer, cookies.derived(secret, "nonce")))

    async def _redeemed(self, code: str, verifier: str) -> Mapping[str, Any]:
        found = await self._discovered()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._client.callback,
            "client_id": self._client.id,
            "code_verifier": verifier,
        }
        login = None if self._client.secret is None else httpx2.BasicAuth(self._client.id, self._client.secret)
        return await self._asked("POST", str(found.document["token_endpoint"]), data=form, auth=login)

    async def _claims(self, answer: Mapping[str, Any], nonce: str) -> Mapping[str, Any]:
        """What the ID token says, once everything about it holds."""
        from authlib.oidc.core import CodeIDToken
        from joserfc import jwt
        from joserfc.errors import JoseError

        text = answer.get("id_token")
        if not isinstance(text, str):
            raise OidcRefused("the provider sent no ID token")
        try:
            token = jwt.decode(text, await self._keys_for(text), algorithms=list(ALGORITHMS))
            claims = CodeIDToken(
                token.claims,
                token.header,
                {
                    "iss": {"essential": True, "value": self._client.issuer},
                    "aud": {"essential": True, "value": self._client.id},
                    "sub": {"essential": True},
                    "exp": {"essential": True},
                    "iat": {"essential": True},
                },
                {"client_id": self._client.id, "nonce": nonce, "access_token": answer.get("access_token")},
            )
            claims.validate(now=int(self._now().timestamp()), leeway=LEEWAY)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise OidcRefused(
                f"the ID token is not to be believed: {type(error).__name__}: {str(error)[:120]}"
            ) from None
        return dict(claims)

    def _identified(self, claims: Mapping[str, Any]) -> Identity:
        subject, groups = claims.get("sub"), claims.get(self._client.groups_claim)
        if not isinstance(subject, str) or not 0 < len(subject) <= 255:
            raise OidcRefused("the ID token names no subject")
        if not isinstance(groups, list) or not all(isinstance(each, str) and each for each in groups):
            raise OidcRefused(f"the ID token's {self._client.groups_claim!r} is no list of groups")
        if len(groups) > GROUPS:
            raise OidcRefused(f"the ID token names {len(groups)} groups, at most {GROUPS} are read")
        called = next((claims[key] for key in ("preferred_username", "email") if isinstance(claims.get(key), str)), "")
        host = urlsplit(self._client.issuer).hostname or "oidc"
        return Identity(
            issuer=self._client.issuer,
            subject=subject,
            name=f"{re.sub(r'[^a-z0-9._@-]+', '-', called.lower())[:64] or 'somebody'}@{host}",
            groups=tuple(sorted(set(groups))),
        )

    # -- the provider itself ------------------------------------------------------------------------------------------

    async def _keys_for(self, token: str) -> KeySet:
        """The provider's keys; asked for anew, though not often, when the token names one that is not among them."""
        found = await self._discovered()
        if _kid(token) in {None, *(key.kid for key in found.keys.keys)} or self._now() - found.at < AGAIN:
            return found.keys
        return (await self._discovered(anew=found)).keys

    async def _discovered(self, anew: _Found | None = None) -> _Found:
        async with self._finding:
            known = self._found
            if known is None or known is anew or self._now() - known.at > AGE:
                self._found = known = await self._find()
            return known

    async def _find(self) -> _Found:
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        document = await self._asked("GET", self._client.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if document.get("issuer") != self._client.issuer:
            raise OidcRefused(f"the provider calls itself {str(document.get('issuer'))[:80]!r}")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not isinstance(document.get(name), str):
                raise OidcRefused(f"the provider names no {name}")
            if not _is_safe(document[name]):
                raise OidcRefused(f"the provider's {name} is not https: {document[name][:80]!r}")
        keys = await self._asked("GET", document["jwks_uri"])
        try:
            usable = [key for key in keys["keys"] if key.get("kty") in ("RSA", "EC", "OKP") and key.get("use") != "enc"]
            return _Found(document, KeySet.import_key_set({"keys": usable}), self._now())
        except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise OidcRefused(f"the provider's keys do not read: {type(error).__name__}") from None

    async def _asked(self, method: str, address: str, **more: Any) -> Mapping[str, Any]:
        """The JSON object that the provider answers."""
        try:
            with anyio.fail_after(SECONDS):
                async with self._http.stream(method, address, headers={"accept": "application/json"}, **more) as answer:
                    body = b""
                    async for piece in answer.aiter_bytes():
                        body += piece
                        if len(body) > LARGEST:
                            raise OidcRefused(f"{_host(address)} answered more than {LARGEST} bytes")
            content = json.loads(body)
        except (httpx2.HTTPError, TimeoutError, ValueError, RecursionError) as error:
            raise OidcRefused(f"{_host(address)} did not answer as it should: {type(error).__name__}") from None
        if answer.status_code != httpx2.codes.OK or not isinstance(content, dict):
            said = content.get("error") if isinstance(content, dict) else None
            raise OidcRefused(f"{_host(address)} answered {answer.status_code}: {str(said)[:80]!r}")
        return content


def _kid(token: str) -> str | None:
    from joserfc import jws
    from joserfc.errors import JoseError

    try:
        found = jws.extract_compact(token.encode()).headers().get("kid")
    except (JoseError, ValueError):
        return None
    return found if isinstance(found, str) else None


def _is_safe(address: str) -> bool:
    """A provider is spoken to over TLS, or on this very machine."""
    parts = urlsplit(address)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in HERE)


def _host(address: str) -> str:
    return urlsplit(address).netloc[:80]


def insist(provider: Provider | None) -> Provider:
    if provider is None:
        raise Problem("NO_PROVIDER", "no OpenID Connect provider is configured here; set HOLDFAST_OIDC_ISSUER")
    return provider
