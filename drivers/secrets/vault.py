"""``vault:mount/path#field``: a field of a secret in a key-value store, version 2, of HashiCorp Vault.

Where and who we are stands in the variables that Vault's own tools read, and in a few beside them:

``VAULT_ADDR``           https; plain http on loopback alone
``VAULT_NAMESPACE``      where there are any
``VAULT_CACERT``         the authority behind Vault's certificate; there is no switch to turn the check off
``VAULT_TOKEN``          or ``VAULT_TOKEN_FILE``, read anew each time; or ``~/.vault-token``
``VAULT_ROLE_ID``        before all these, AppRole: with ``VAULT_SECRET_ID`` or ``VAULT_SECRET_ID_FILE``
``VAULT_APPROLE_MOUNT``  where roles log in (approle)

The token goes to that address and nowhere else: no redirect is followed.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import anyio

from desired_state.secrets import SecretRef
from drivers.errors import Refused, Unreachable

if TYPE_CHECKING:
    import httpx2

Hide = Callable[[str], None]

LARGEST: Final = 1024 * 1024  # bytes of an answer
LARGEST_TOKEN: Final = 16 * 1024
SENT: Final = re.compile(r"[\x21-\x7e]+")
PAUSE: Final = 5.0  # seconds that one exchange may be silent
WORN: Final = 0.8  # of its lease, after which a token is asked for anew


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where Vault is and who we are there. `token` None: log in with the role."""

    address: str
    namespace: str | None
    authority: str | None
    token: str | None = field(repr=False)
    role: str | None = None
    proof: str | None = field(default=None, repr=False)  # the role's secret id
    mount: str = "approle"


class Vault:
    """The backend, with one kept client and, for a role, one token until its lease is worn."""

    def __init__(self, hide: Hide, environ: Mapping[str, str] = os.environ) -> None:
        self._hide, self._environ = hide, environ
        self._client: httpx2.AsyncClient | None = None
        self._lease: tuple[str, float] | None = None  # a role's token and when it is worn
        self._login = anyio.Lock()

    async def read(self, secret: SecretRef) -> Mapping[str, object]:
        """The fields of the secret, of its declared version or of the latest."""
        said = f"secret {secret.reference}"
        access = await anyio.to_thread.run_sync(_access, self._environ, said, abandon_on_cancel=True)
        for known in (access.token, access.proof):
            if known:
                self._hide(known)
        status, body = await self._ask(access, secret, await self._token(access, said))
        if status == 403 and access.token is None:  # the token may have been revoked before its time
            self._lease = None
            status, body = await self._ask(access, secret, await self._token(access, said))
        return _fields(status, body, secret)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _ask(self, access: Access, secret: SecretRef, token: str) -> tuple[int, Any]:
        mount, _, path = secret.path.partition("/")
        version = f"?version={secret.version}" if secret.version else ""
        url = f"{access.address}/v1/{quote(mount)}/data/{quote(path)}{version}"
        return await self._answer(access, "GET", url, f"secret {secret.reference}", token=token)

    # -- who we are -------------------------------------------------------------------------------------------------

    async def _token(self, access: Access, said: str) -> str:
        if access.token is not None:
            return access.token
        async with self._login:  # a hundred secrets at once log in once
            if self._lease is None or anyio.current_time() >= self._lease[1]:
                self._lease = await self._logged_in(access, said)
            return self._lease[0]

    async def _logged_in(self, access: Access, said: str) -> tuple[str, float]:
        began = anyio.current_time()
        url = f"{access.address}/v1/auth/{quote(access.mount)}/login"
        proof = {"role_id": access.role, "secret_id": access.proof}
        status, body = await self._answer(access, "POST", url, said, content=proof)
        if status in (400, 403, 404):
            raise Refused(
                f"{said}: Vault does not let the role in at {access.mount} ({status}); check VAULT_ROLE_ID, its "
                "secret id (has it expired, or been used up?), VAULT_APPROLE_MOUNT and VAULT_NAMESPACE"
            )
        _expect(status, said)
        try:
            token, lease = str(body["auth"]["client_token"]), float(body["auth"]["lease_duration"])
        except (KeyError, TypeError, ValueError):
            raise Refused(f"{said}: what answers a login at {access.address} is no Vault") from None
        self._hide(token)
        return token, began + (lease * WORN if lease else float("inf"))

    # -- the wire ---------------------------------------------------------------------------------------------------

    async def _answer(
        self, access: Access, method: str, url: str, said: str, *, token: str | None = None, content: Any = None
    ) -> tuple[int, Any]:
        """Status and JSON of the answer; None for what is no JSON."""
        import httpx2

        headers = {"X-Vault-Request": "true"}
        headers |= {"X-Vault-Token": token} if token else {}
        headers |= {"X-Vault-Namespace": access.namespace} if access.namespace else {}
        self._client = self._client or _client(access, said)
        try:
            async with self._client.stream(method, url, headers=headers, json=content) as response:
                if response.is_redirect:
                    raise Unreachable(
                        f"{said}: {access.address} is a standby that sends us elsewhere, and no token is sent after; "
                        "set VAULT_ADDR to the active node or to the cluster's own address"
                    )
                return response.status_code, await _read(response, said)
        except httpx2.TimeoutException:
            raise Unreachable(f"{said}: Vault at {access.address} does not answer in time") from None
        except httpx2.TransportError as error:
            raise _unreached(error, access, said) from None


def _client(access: Access, said: str) -> httpx2.AsyncClient:
    import httpx2

    try:
        trusted = ssl.create_default_context(cafile=access.authority)
    except (OSError, ssl.SSLError):
        raise Refused(f"{said}: VAULT_CACERT: {access.authority} is no readable file of certificates") from None
    own = _is_loopback(httpx2.URL(access.address).host)
    limits = httpx2.Limits(max_connections=16, keepalive_expiry=60)
    return httpx2.AsyncClient(verify=trusted, timeout=PAUSE, trust_env=not own, limits=limits)


async def _read(response: httpx2.Response, said: str) -> Any:
    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > LARGEST:
            raise Refused(f"{said}: Vault answers with more than {LARGEST} bytes")
    try:
        return json.loads(content) if content else None
    except (ValueError, RecursionError):
        return None


def _unreached(error: Exception, access: Access, said: str) -> Exception:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return Refused(
            f"{said}: the certificate of {access.address} is not trusted: {cause.verify_message}; "
            "name its authority in VAULT_CACERT"
        )
    return Unreachable(f"{said}: Vault at {access.address} does not answer ({type(error).__name__})")


# -- what an answer means -------------------------------------------------------------------------------------------


def _fields(status: int, body: Any, secret: SecretRef) -> Mapping[str, object]:
    said = f"secret {secret.reference}"
    inner = body.get("data") if isinstance(body, dict) else None
    if status == 404:
        raise Refused(f"{said}: {_missing(inner, secret)} (404)")
    if status == 403:
        mount, _, path = secret.path.partition("/")
        raise Refused(
            f"{said}: Vault says no (403): the token has expired, or its policy lacks read on {mount}/data/{path}"
        )
    _expect(status, said)
    fields = inner.get("data") if isinstance(inner, dict) else None
    if not isinstance(fields, dict):
        raise Refused(f"{said}: what answers is no key-value store of version 2")
    return fields


def _missing(inner: Any, secret: SecretRef) -> str:
    metadata = inner.get("metadata") if isinstance(inner, dict) else None
    which = f"version {secret.version}" if secret.version else "its latest version"
    if not isinstance(metadata, dict):
        where, mount = (f", or not in {which}" if secret.version else ""), secret.path.partition("/")[0]
        return f"there is nothing at this path{where}, or {mount} is no key-value store of version 2"
    return f"{which} has been {'destroyed' if metadata.get('destroyed') else 'deleted'}"


def _expect(status: int, said: str) -> None:
    if status == 200:
        return
    match status:
        case 503:
            raise Unreachable(f"{said}: Vault is sealed or in maintenance (503); `vault status` says which")
        case 429:
            raise Unreachable(f"{said}: Vault answers too many requests, or is a standby (429)")
        case 472 | 473:
            raise Unreachable(f"{said}: this Vault is a standby ({status}); set VAULT_ADDR to the active node")
        case 412:
            raise Unreachable(f"{said}: this Vault is a standby that has not caught up yet (412)")
    if status >= 500:
        raise Unreachable(f"{said}: Vault cannot answer now, it may have no active node ({status})")
    raise Refused(f"{said}: Vault refuses the request ({status}); check the path and VAULT_NAMESPACE")


# -- the variables --------------------------------------------------------------------------------------------------


def _access(environ: Mapping[str, str], said: str) -> Access:
    """Where and who, read anew each time: the files of tokens change. Blocks."""
    role = environ.get("VAULT_ROLE_ID")
    access = Access(
        address=_address(environ.get("VAULT_ADDR", ""), said),
        namespace=environ.get("VAULT_NAMESPACE") or None,
        authority=environ.get("VAULT_CACERT") or None,
        token=None if role else _given(environ, "VAULT_TOKEN", said),
        role=role,
        proof=_given(environ, "VAULT_SECRET_ID", said) if role else None,
        mount=environ.get("VAULT_APPROLE_MOUNT") or "approle",
    )
    if role and not access.proof:
        raise Refused(f"{said}: VAULT_ROLE_ID is set, and neither VAULT_SECRET_ID nor VAULT_SECRET_ID_FILE is")
    if not role and not access.token:
        raise Refused(f"{said}: no VAULT_TOKEN, VAULT_TOKEN_FILE or VAULT_ROLE_ID is set where the daemon runs")
    return access


def _address(text: str, said: str) -> str:
    import httpx2

    if not text:
        raise Refused(f"{said}: VAULT_ADDR is not set where the daemon runs")
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL:
        raise Refused(f"{said}: VAULT_ADDR is no address") from None
    if url.userinfo or url.query or url.fragment or not url.host:
        raise Refused(f"{said}: VAULT_ADDR is no plain address; expected such as https://vault.example.com:8200")
    if url.scheme != "https" and not (url.scheme == "http" and _is_loopback(url.host)):
        raise Refused(f"{said}: VAULT_ADDR is not https, and a token is not sent in the clear")
    return str(url).rstrip("/")


def _given(environ: Mapping[str, str], name: str, said: str) -> str | None:
    """A variable, or the file that ``…_FILE`` names; Vault's own place for a token at last."""
    path, home = environ.get(f"{name}_FILE"), environ.get("HOME")
    usual = Path(home, ".vault-token") if home and name == "VAULT_TOKEN" else None
    found = environ.get(name, "").strip()
    if not found and path:
        found = _content(Path(path), f"{said}: {name}_FILE")
    elif not found and usual is not None and usual.is_file():
        found = _content(usual, said)
    if found and not SENT.fullmatch(found):
        raise Refused(f"{said}: {name} holds what cannot be one: it is no single word of ASCII")
    return found or None


def _content(path: Path, said: str) -> str:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_TOKEN).decode().strip()
    except OSError as error:
        raise Refused(f"{said}: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Refused(f"{said}: {path} is not text") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
