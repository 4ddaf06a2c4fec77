"""A small client of OCI registries. It believes no digest it has not computed, and follows a registry nowhere with
credentials.

https, but for loopback and for hosts that were listed as insecure. Errors are those of `drivers.errors`: `Unreachable`
where another try may help, `Refused` where it cannot.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Final

import anyio
import anyio.to_thread
import httpx2

from drivers.errors import Refused, Unreachable
from drivers.oci import layout, manifest
from drivers.oci.credentials import Credentials
from drivers.oci.layout import Layout, Resolved
from drivers.oci.manifest import MAX_DOCUMENT, Descriptor, Index, Platform, Verifier
from stickers import digest, names
from stickers.names import Artifact, Digest

TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
REDIRECTS: Final = 5
MAX_TOKEN: Final = 64 * 1024  # bytes of an answer to a login
PIECE: Final = 1024 * 1024
SLOWEST: Final = 32 * 1024  # bytes a second; a blob that comes slower is given up
AGENT: Final = "holdfast"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How a registry may be spoken to. `insecure` lists hosts (``host:port``) that are spoken to in plain http.
    `timeout` bounds a small exchange as a whole, and each pause in a large one."""

    credentials: Credentials | None = None
    insecure: frozenset[str] = frozenset()
    timeout: timedelta = timedelta(seconds=30)


async def resolve_tag(reference: str, access: Access | None = None) -> Artifact:
    """The content a tag names now; the digest of an index is kept as it is."""
    repository, tag = _tagged(reference)
    async with Registry(repository, access) as registry:
        content = await registry.manifest(tag)
    manifest.read(content)  # whatever is pinned can be read
    return Artifact(repository, digest.of_bytes(content))


def _tagged(reference: str) -> tuple[str, str]:
    repository, _, tag = reference.rpartition(":")
    if "@" in reference or "/" in tag or not TAG.fullmatch(tag):
        raise Refused(f"{reference[:200]!r} names no tag; expected repository:tag")
    return repository, tag


class Registry:
    """One repository of one registry, for the length of an `async with`."""

    def __init__(self, repository: str, access: Access | None = None) -> None:
        self._access = access or Access()
        self._host, self._name = _split(repository)
        scheme = "http" if self._is_plain(self._host) else "https"
        self.base = httpx2.URL(f"{scheme}://{self._host}/v2/{self._name}/")
        self._authorization: str | None = None
        self._client = httpx2.AsyncClient(
            timeout=self._seconds,
            trust_env=not _is_loopback(self.base.host),  # no proxy stands between a machine and itself
            headers={"user-agent": AGENT, "accept-encoding": "identity"},
        )

    async def __aenter__(self) -> Registry:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    # -- reading ----------------------------------------------------------------------------------------------------

    async def manifest(self, reference: str) -> bytes:
        """The bytes of a manifest or index by tag or digest; by digest, they are those or `Refused`."""
        if not TAG.fullmatch(reference) and not names.DIGEST.fullmatch(reference):
            raise Refused(f"{reference[:200]!r} is neither a tag nor a digest")
        with self._within(self._seconds, f"manifest {reference}"):
            async with self._answer(_Ask("GET", f"manifests/{reference}", accept=manifest.ACCEPT)) as response:
                self._expect(response, (200,), f"manifest {reference}")
                content = await _read(response, MAX_DOCUMENT)
        if ":" in reference and digest.of_bytes(content) != reference:
            raise Refused(f"{self._host} answered other content for {reference}: {digest.of_bytes(content)}")
        return content

    async def resolve(self, wanted: Digest, platform: Platform) -> Resolved:
        """The manifest with this digest, or that of the platform in the index with this digest."""
        found, chosen = manifest.read(await self.manifest(wanted)), wanted
        if isinstance(found, Index):
            chosen = manifest.choose(found, platform).digest
            found = manifest.read(await self.manifest(chosen))
        if isinstance(found, Index):
            raise Refused(f"{wanted} is an index of indexes, which is not read")
        return Resolved(asked=wanted, digest=chosen, manifest=found)

    async def read(self, blob: Descriptor) -> bytes:
        """A small blob: the configuration of an image."""
        if blob.size > MAX_DOCUMENT:
            raise Refused(f"blob {blob.digest} has {blob.size} bytes, at most {MAX_DOCUMENT} are read here")
        pieces: list[bytes] = []
        await self._stream(blob, pieces.append)
        return b"".join(pieces)

    async def copy(self, blob: Descriptor, to: Path) -> None:
        """The blob into a new file, verified; nothing is left at `to` when it is not what was described."""
        with layout.new_file(to) as file:
            await self._stream(blob, file.write)

    async def _stream(self, blob: Descriptor, take: Callable[[bytes], object]) -> None:
        """The blob, verified, to `take`, which may block."""
        verifier, what = Verifier(blob), f"blob {blob.digest}"

        def pass_on(piece: bytes) -> None:
            verifier.feed(piece)
            take(piece)

        with self._within(self._seconds + blob.size / SLOWEST, what):
            async with self._answer(_Ask("GET", f"blobs/{blob.digest}")) as response:
                self._expect(response, (200,), what)
                async for piece in response.aiter_raw(PIECE):
                    await anyio.to_thread.run_sync(pass_on, piece)
        verifier.finish()

    # -- writing ----------------------------------------------------------------------------------------------------

    async def push(self, images: Layout, wanted: Digest, tag: str | None = None) -> None:
        """An image of a layout, and of an index all images, under its digest and, if given, under a tag."""
        content = images.read(wanted)
        found = manifest.read(content)
        if isinstance(found, Index):
            for item in found.manifests:
                await self.push(images, item.digest)
        else:
            for blob in (found.config, *found.layers):
                await self._push_blob(images, blob)
        kind = json.loads(content).get("mediaType") or (
            manifest.INDEX if isinstance(found, Index) else manifest.MANIFEST
        )
        ask = _Ask("PUT", f"manifests/{tag or wanted}", content=lambda: content, kind=kind)
        with self._within(self._seconds, f"manifest {wanted}"):
            async with self._answer(ask) as response:
                self._expect(response, (201,), f"manifest {wanted}")

    async def _push_blob(self, images: Layout, blob: Descriptor) -> None:
        what = f"blob {blob.digest}"
        with self._within(self._seconds + blob.size / SLOWEST, what):
            async with self._answer(_Ask("HEAD", f"blobs/{blob.digest}")) as response:
                self._expect(response, (200, 404), what)
                if response.status_code == 200:
                    return
            async with self._answer(_Ask("POST", "blobs/uploads/", content=lambda: b"")) as response:
                self._expect(response, (202,), what)
                place = self.base.join(response.headers.get("location", ""))
            ask = _Ask(
                "PUT",
                str(place.copy_merge_params({"digest": blob.digest})),
                content=lambda: _pieces(images, blob),
                kind="application/octet-stream",
                size=blob.size,
            )
            async with self._answer(ask) as response:
                self._expect(response, (201,), what)

    # -- asking -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _answer(self, ask: _Ask) -> AsyncIterator[httpx2.Response]:
        """The answer, after logging in where that is asked for, and after redirects of what is read."""
        url, logged_in, redirects = self.base.join(ask.url), False, 0
        while True:
            async with self._client.stream(
                ask.method, url, headers=self._headers(ask, url), content=ask.body
            ) as response:
                if response.status_code == 401 and not logged_in and self._is_own(url):
                    await self._log_in(response)
                    logged_in = True
                elif response.is_redirect and ask.method in ("GET", "HEAD"):
                    redirects += 1
                    url = self._next(url, response, redirects)
                else:
                    yield response
                    return

    def _headers(self, ask: _Ask, url: httpx2.URL) -> dict[str, str]:
        headers = ask.headers
        if self._is_own(url):
            return headers | ({"authorization": self._authorization} if self._authorization else {})
        if ask.method not in ("GET", "HEAD"):
            raise Refused(f"{self._host} wants to be written to at {url.host}, which is another host")
        return headers

    def _next(self, url: httpx2.URL, response: httpx2.Response, redirects: int) -> httpx2.URL:
        if redirects > REDIRECTS:
            raise Refused(f"{self._host} redirects more than {REDIRECTS} times")
        following = url.join(response.headers.get("location", ""))
        self._check_scheme(following)
        return following

    def _check_scheme(self, url: httpx2.URL) -> None:
        if url.scheme != "https" and not (url.scheme == "http" and self._is_plain(url.netloc.decode())):
            raise Refused(f"{self._host} leads to {url.scheme}://{url.host}, which is not https")

    def _is_own(self, url: httpx2.URL) -> bool:
        return (url.scheme, url.host, url.port) == (self.base.scheme, self.base.host, self.base.port)

    def _is_plain(self, host: str) -> bool:
        return host in self._access.insecure or _is_loopback(httpx2.URL(f"http://{host}").host)

    # -- logging in -------------------------------------------------------------------------------------------------

    async def _log_in(self, response: httpx2.Response) -> None:
        """What the registry's own challenge asks for: Basic, or a token from the place it names."""
        challenge = response.headers.get("www-authenticate", "")
        kind = challenge.partition(" ")[0].lower()
        if kind == "bearer":
            self._authorization = f"Bearer {await self._token(dict(_FIELD.findall(challenge)))}"
        elif kind == "basic" and self._access.credentials:
            self._authorization = self._access.credentials.basic
        else:
            raise Refused(f"{self._host} wants credentials for {self._name}, and none are declared")

    async def _token(self, challenge: dict[str, str]) -> str:
        realm = httpx2.URL(challenge.get("realm", ""))
        self._check_scheme(realm)
        if not _is_related(realm.host, self.base.host):
            raise Refused(f"{self._host} wants credentials to be sent to {realm.host}, which is another host")
        wanted: dict[str, str] = {name: challenge[name] for name in ("service", "scope") if name in challenge}
        headers = {"authorization": self._access.credentials.basic} if self._access.credentials else {}
        url = realm.copy_merge_params(wanted)
        async with self._client.stream("GET", url, headers=headers) as response:
            self._expect(response, (200,), f"login at {realm.host}")
            return _token_in(await _read(response, MAX_TOKEN), realm.host)

    # -- the edge ---------------------------------------------------------------------------------------------------

    @property
    def _seconds(self) -> float:
        return self._access.timeout.total_seconds()

    @contextmanager
    def _within(self, seconds: float, what: str) -> Iterator[None]:
        try:
            with anyio.fail_after(seconds):
                yield
        except (TimeoutError, httpx2.TimeoutException):
            raise Unreachable(f"{self._host} did not answer in time for {what}") from None
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise Refused(f"{self._host} leads to an address that cannot be read: {str(error)[:80]}") from None
        except httpx2.TransportError as error:
            raise Unreachable(f"{self._host} does not answer: {type(error).__name__}: {str(error)[:120]}") from None

    def _expect(self, response: httpx2.Response, wanted: tuple[int, ...], what: str) -> None:
        status = response.status_code
        if status in wanted:
            return
        if status in (401, 403):
            raise Refused(f"{self._host} denies access to {self._name}: {what}, status {status}")
        if status == 404:
            raise Refused(f"{self._host}/{self._name} has no {what}")
        if status in (408, 425, 429) or status >= 500:
            raise Unreachable(f"{self._host} answers {status} for {what}")
        raise Refused(f"{self._host} answers {status} for {what}")


_FIELD: Final = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class _Ask:
    """One request, as often as it has to be sent."""

    method: str
    url: str
    accept: str | None = None
    content: Callable[[], bytes | AsyncIterator[bytes]] | None = None
    kind: str | None = None
    size: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        size = None if self.size is None else str(self.size)
        named = (("accept", self.accept), ("content-type", self.kind), ("content-length", size))
        return {name: value for name, value in named if value is not None}

    @property
    def body(self) -> bytes | AsyncIterator[bytes] | None:
        return self.content() if self.content else None


async def _pieces(images: Layout, blob: Descriptor) -> AsyncIterator[bytes]:
    pieces = images.pieces(blob)
    while (piece := await anyio.to_thread.run_sync(next, pieces, None)) is not None:
        yield piece


async def _read(response: httpx2.Response, limit: int) -> bytes:
    content = bytearray()
    async for piece in response.aiter_raw():
        content += piece
        if len(content) > limit:
            raise Refused(f"{response.url.host} answers with more than the {limit} bytes that are read")
    return bytes(content)


def _token_in(content: bytes, host: str) -> str:
    try:
        body = json.loads(content)
        token = body.get("token") or body.get("access_token")
    except (ValueError, AttributeError, RecursionError):
        token = None
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise Refused(f"{host} answers no token")
    return token


def _split(repository: str) -> tuple[str, str]:
    """Host and name of a repository."""
    host, slash, name = repository.partition("/")
    if not names.REPOSITORY.fullmatch(repository):
        raise Refused(f"{repository[:200]!r} is not a repository; expected {names.REPOSITORY_RULE}")
    if not slash or not (set(".:") & set(host) or host == "localhost"):
        raise Refused(f"{repository[:200]!r} names no registry; expected {names.REPOSITORY_RULE}")
    if host == "docker.io":  # the one registry whose name is not where it answers
        return "registry-1.docker.io", name if "/" in name else f"library/{name}"
    return host, name


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_related(realm: str, registry: str) -> bool:
    """Whether logging in for this registry may happen there: the same host, or one in the domain it stands in."""
    _, _, domain = registry.partition(".")
    named = "." in domain and not registry.replace(".", "").isdigit() and ":" not in registry
    return realm == registry or (named and (realm == domain or realm.endswith("." + domain)))
