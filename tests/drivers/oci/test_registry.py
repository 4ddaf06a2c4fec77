"""The registry client against a real registry, and against servers that lie, stall and lead astray."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSListener
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from drivers.errors import DriverError, Refused, Unreachable
from drivers.oci import layout, manifest
from drivers.oci import registry as registry_module
from drivers.oci.credentials import Credentials
from drivers.oci.manifest import Descriptor, Platform
from drivers.oci.registry import Access, Registry, resolve_tag
from stickers import digest, names
from stickers.names import Artifact, Digest
from tests.harness import registry as harness
from tests.harness.wire import Asked, Server, answer, serving

QUICK = Access(timeout=timedelta(seconds=0.5))
SHOP = Access(credentials=Credentials("shop", "s3cret:with:colons"))
BASIC = "Basic " + base64.b64encode(b"shop:s3cret:with:colons").decode()
# the same name and password as SHOP, as htpasswd writes them (bcrypt, cost 4)
USERS = "shop:$2b$04$abcdefghijklmnopqrstuu/RcPheG5Bboq6i7MyIjQPaaSOeR71ra\n"


@pytest.fixture(scope="module")
def real() -> Iterator[str]:
    try:
        with harness.given_or_running() as address:
            yield address
    except harness.NoRegistry as reason:
        pytest.skip(str(reason))


@pytest.fixture
def packed(tmp_path: Path) -> tuple[Path, Digest]:
    """A layout and the digest of the image in it."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "serve.py").write_text("print('hello')\n")
    return tmp_path / "images", layout.pack(tmp_path / "source", tmp_path / "images", argv=("python3", "serve.py"))


def _own(address: str, request: pytest.FixtureRequest) -> str:
    """A repository of this test alone."""
    return f"{address}/tests/{digest.short(digest.of_bytes(request.node.nodeid.encode()))}"


# -- a real registry ------------------------------------------------------------------------------------------------


async def test_what_is_pushed_comes_back_by_tag_and_digest(
    real: str, packed: tuple[Path, Digest], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    images, content = layout.directory(packed[0]), packed[1]
    repository = _own(real, request)
    async with Registry(repository) as registry:
        await registry.push(images, content, "v1")
        assert await resolve_tag(f"{repository}:v1") == Artifact(repository, content)
        found = await registry.resolve(content, manifest.this_machine())
        assert found == images.resolve(content, manifest.this_machine())
        await registry.copy(found.manifest.layers[0], tmp_path / "layer")
        assert manifest.read_config(await registry.read(found.manifest.config)).argv == ("python3", "serve.py")
    assert digest.of_bytes((tmp_path / "layer").read_bytes()) == found.manifest.layers[0].digest


async def test_pushing_twice_is_pushing_once(
    real: str, packed: tuple[Path, Digest], request: pytest.FixtureRequest
) -> None:
    repository = _own(real, request)
    for _ in range(2):
        async with Registry(repository) as registry:
            await registry.push(layout.directory(packed[0]), packed[1], "v1")
    assert (await resolve_tag(f"{repository}:v1")).digest == packed[1]


async def test_a_tag_of_an_index_is_resolved_to_the_index(
    real: str, packed: tuple[Path, Digest], request: pytest.FixtureRequest
) -> None:
    images, content = packed
    size = len(layout.directory(images).read(content))
    platform = {"os": "linux", "architecture": "riscv64"}
    item = {"mediaType": manifest.MANIFEST, "digest": content, "size": size, "platform": platform}
    body = json.dumps({"schemaVersion": 2, "mediaType": manifest.INDEX, "manifests": [item]}).encode()
    index = digest.of_bytes(body)
    (images / "blobs" / "sha256" / index.removeprefix("sha256:")).write_bytes(body)
    repository = _own(real, request)
    async with Registry(repository) as registry:
        await registry.push(layout.directory(images), index, "v1")
        assert (await resolve_tag(f"{repository}:v1")).digest == index
        found = await registry.resolve(index, Platform(os="linux", architecture="riscv64"))
    assert (found.asked, found.digest) == (index, content)


async def test_an_unknown_tag_is_refused_by_name(real: str) -> None:
    with pytest.raises(Refused, match="tests/none has no manifest v9"):
        await resolve_tag(f"{real}/tests/none:v9")


async def test_an_unknown_blob_is_refused_by_name(real: str, tmp_path: Path) -> None:
    blob = Descriptor(media_type=manifest.LAYER, digest=names.digest("sha256:" + "0" * 64), size=3)
    async with Registry(f"{real}/tests/none") as registry:
        with pytest.raises(Refused, match=r"has no blob sha256:0+"):
            await registry.copy(blob, tmp_path / "layer")
    assert not (tmp_path / "layer").exists()


async def test_a_registry_with_passwords_lets_those_in_who_know_one(
    packed: tuple[Path, Digest], tmp_path: Path
) -> None:
    (tmp_path / "users").write_text(USERS)
    try:
        with harness.running_registry(tmp_path / "users") as address:
            async with Registry(f"{address}/shop", SHOP) as registry:
                await registry.push(layout.directory(packed[0]), packed[1], "v1")
            assert (await resolve_tag(f"{address}/shop:v1", SHOP)).digest == packed[1]
            with pytest.raises(Refused, match="none are declared"):
                await resolve_tag(f"{address}/shop:v1")
            with pytest.raises(Refused, match="denies access"):
                await resolve_tag(f"{address}/shop:v1", Access(credentials=Credentials("shop", "wrong")))
    except harness.NoRegistry as reason:
        pytest.skip(str(reason))


# -- hostile ones ---------------------------------------------------------------------------------------------------

BODY = json.dumps({"mediaType": manifest.MANIFEST, "config": None, "layers": []}).encode()
PART = {"mediaType": manifest.LAYER, "digest": digest.of_bytes(b""), "size": 0}
IMAGE = json.dumps({"mediaType": manifest.MANIFEST, "config": PART, "layers": []}).encode()


@contextlib.asynccontextmanager
async def _saying(*answers: bytes, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    """A server whose requests are answered in turn, the last answer again and again."""
    rest = list(answers)

    async def respond(asked: Asked, stream: ByteStream) -> None:
        await stream.send(rest.pop(0) if len(rest) > 1 else rest[0])

    async with serving(respond, host) as server:
        yield server


async def test_a_digest_is_computed_and_not_taken_from_the_answer() -> None:
    lie = "sha256:" + "e" * 64
    async with _saying(answer(body=IMAGE, docker_content_digest=lie)) as server:
        assert (await resolve_tag(f"{server.address}/shop:v1")).digest == digest.of_bytes(IMAGE)


async def test_another_manifest_than_asked_for_is_refused() -> None:
    async with _saying(answer(body=IMAGE)) as server, Registry(f"{server.address}/shop") as registry:
        with pytest.raises(Refused, match="other content"):
            await registry.manifest("sha256:" + "e" * 64)


async def test_a_tag_of_something_that_is_no_image_is_refused() -> None:
    async with _saying(answer(body=b"<html>")) as server:
        with pytest.raises(Refused, match="not JSON"):
            await resolve_tag(f"{server.address}/shop:v1")


@pytest.mark.parametrize(
    ("sent", "said"), [(b"other", "other content"), (b"longer", "longer than"), (b"less", "ends after 4 of 5")]
)
async def test_another_blob_than_asked_for_is_refused_and_leaves_no_file(
    sent: bytes, said: str, tmp_path: Path
) -> None:
    blob = Descriptor(media_type=manifest.LAYER, digest=digest.of_bytes(b"asked"), size=5)
    async with _saying(answer(body=sent)) as server, Registry(f"{server.address}/shop") as registry:
        with pytest.raises(Refused, match=said):
            await registry.copy(blob, tmp_path / "layer")
    assert os.listdir(tmp_path) == []


async def _endless(asked: Asked, stream: ByteStream) -> None:
    await stream.send(b"HTTP/1.1 200 X\r\n\r\n")
    while True:
        await stream.send(b"{" * 65536)


async def _dripping(asked: Asked, stream: ByteStream) -> None:
    await stream.send(b"HTTP/1.1 200 X\r\ncontent-length: 100000\r\n\r\n")
    while True:
        await stream.send(b" ")
        await anyio.sleep(0.02)


async def _silent(asked: Asked, stream: ByteStream) -> None:
    await anyio.sleep_forever()


async def _cut(asked: Asked, stream: ByteStream) -> None:
    await stream.send(b"HTTP/1.1 200 X\r\ncontent-length: 100\r\n\r\nhalf")
    await stream.aclose()


async def _babble(asked: Asked, stream: ByteStream) -> None:
    await stream.send(b"\0\1\2 what is HTTP\r\n\r\n")
    await stream.aclose()


Respond = Callable[[Asked, ByteStream], Awaitable[None]]


@pytest.mark.parametrize(
    ("respond", "error", "said"),
    [
        (_endless, Refused, "more than the 4194304 bytes"),
        (_dripping, Unreachable, "did not answer in time"),
        (_silent, Unreachable, "did not answer in time"),
        (_cut, Unreachable, "does not answer"),
        (_babble, Unreachable, "does not answer"),
    ],
)
async def test_a_manifest_is_bounded_in_size_and_time(respond: Respond, error: type[DriverError], said: str) -> None:
    async with serving(respond) as server:
        with pytest.raises(error, match=said):
            await resolve_tag(f"{server.address}/shop:v1", QUICK)


@pytest.mark.parametrize(
    ("respond", "error", "said"),
    [
        (_endless, Refused, "is longer than the 1000 bytes"),
        (_dripping, Unreachable, "did not answer in time"),
        (_cut, Unreachable, "does not answer"),
    ],
)
async def test_a_blob_is_bounded_in_size_and_time(
    respond: Respond, error: type[DriverError], said: str, tmp_path: Path
) -> None:
    blob = Descriptor(media_type=manifest.LAYER, digest=digest.of_bytes(b"asked"), size=1000)
    async with serving(respond) as server, Registry(f"{server.address}/shop", QUICK) as registry:
        with pytest.raises(error, match=said):
            await registry.copy(blob, tmp_path / "layer")
    assert os.listdir(tmp_path) == []


async def test_nobody_at_the_address_is_unreachable() -> None:
    async with _saying(b"") as server:
        gone = server.address
    with pytest.raises(Unreachable, match="does not answer"):
        await resolve_tag(f"{gone}/shop:v1")


@pytest.mark.parametrize(
    ("status", "error"), [(403, Refused), (404, Refused), (418, Refused), (429, Unreachable), (503, Unreachable)]
)
async def test_an_error_status_is_final_or_worth_another_try(status: int, error: type[DriverError]) -> None:
    async with _saying(answer(status)) as server:
        with pytest.raises(error):
            await resolve_tag(f"{server.address}/shop:v1")


async def test_an_error_never_repeats_what_the_server_said() -> None:
    async with _saying(answer(500, b"\x1b]0;owned\x07 s3cret")) as server:
        with pytest.raises(Unreachable) as caught:
            await resolve_tag(f"{server.address}/shop:v1", SHOP)
    assert "owned" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


# -- credentials ----------------------------------------------------------------------------------------------------


async def test_credentials_are_not_sent_before_they_are_asked_for() -> None:
    async with _saying(answer(body=IMAGE)) as server:
        await resolve_tag(f"{server.address}/shop:v1", SHOP)
        assert "authorization" not in server.asked[0].headers


async def test_basic_credentials_answer_a_basic_challenge_once() -> None:
    async with _saying(answer(401, www_authenticate='Basic realm="shop"')) as server:
        with pytest.raises(Refused, match="denies access"):
            await resolve_tag(f"{server.address}/shop:v1", SHOP)
        assert [asked.headers.get("authorization") for asked in server.asked] == [None, BASIC]


async def test_a_token_is_fetched_with_credentials_and_sent_without_them() -> None:
    async def respond(asked: Asked, stream: ByteStream) -> None:
        if asked.path.startswith("/token"):
            await stream.send(answer(body=b'{"token": "abc"}'))
        elif "authorization" in asked.headers:
            await stream.send(answer(body=IMAGE))
        else:
            challenge = f'Bearer realm="http://{server.address}/token",service="it",scope="repository:shop:pull"'
            await stream.send(answer(401, www_authenticate=challenge))

    async with serving(respond) as server:
        await resolve_tag(f"{server.address}/shop:v1", SHOP)
        assert [(asked.path, asked.headers.get("authorization")) for asked in server.asked] == [
            ("/v2/shop/manifests/v1", None),
            ("/token?service=it&scope=repository%3Ashop%3Apull", BASIC),
            ("/v2/shop/manifests/v1", "Bearer abc"),
        ]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"token": 3}', b'{"token": "a\\r\\nb: c"}', b"x" * 100_000])
async def test_an_answer_without_token_is_refused(body: bytes) -> None:
    async def respond(asked: Asked, stream: ByteStream) -> None:
        challenge = f'Bearer realm="http://{server.address}/token"'
        token = asked.path.startswith("/token")
        await stream.send(answer(body=body) if token else answer(401, www_authenticate=challenge))

    async with serving(respond) as server:
        with pytest.raises(Refused, match=r"no token|more than the"):
            await resolve_tag(f"{server.address}/shop:v1", SHOP)


async def test_credentials_are_not_sent_to_another_host_that_a_challenge_names() -> None:
    async with _saying(answer(body=b'{"token": "x"}'), host="127.0.0.2") as thief:
        challenge = f'Bearer realm="http://{thief.address}/token"'
        async with _saying(answer(401, www_authenticate=challenge)) as server:
            with pytest.raises(Refused, match="another host"):
                await resolve_tag(f"{server.address}/shop:v1", SHOP)
        assert thief.connections == 0


@pytest.mark.parametrize("realm", ["http://login.example.com/", "ftp://127.0.0.1/", "//", "", "http://[bad/"])
async def test_a_login_that_is_not_https_is_refused(realm: str) -> None:
    async with _saying(answer(401, www_authenticate=f'Bearer realm="{realm}"')) as server:
        with pytest.raises(Refused):
            await resolve_tag(f"{server.address}/shop:v1", SHOP)


async def test_a_redirect_to_another_host_is_followed_without_credentials(tmp_path: Path) -> None:
    blob = Descriptor(media_type=manifest.LAYER, digest=digest.of_bytes(b"asked"), size=5)
    async with _saying(answer(body=b"asked"), host="127.0.0.2") as store:
        challenge = answer(401, www_authenticate='Basic realm="shop"')
        elsewhere = answer(307, location=f"http://{store.address}/bucket?signed=1")
        async with _saying(challenge, elsewhere) as server, Registry(f"{server.address}/shop", SHOP) as registry:
            await registry.copy(blob, tmp_path / "layer")
            assert server.asked[1].headers["authorization"] == BASIC
        assert [(asked.path, asked.headers.get("authorization")) for asked in store.asked] == [
            ("/bucket?signed=1", None)
        ]
    assert (tmp_path / "layer").read_bytes() == b"asked"


async def test_a_challenge_of_the_host_redirected_to_is_not_answered(tmp_path: Path) -> None:
    blob = Descriptor(media_type=manifest.LAYER, digest=digest.of_bytes(b"asked"), size=5)
    async with _saying(answer(401, www_authenticate='Basic realm="mine"'), host="127.0.0.2") as thief:
        elsewhere = answer(307, location=f"http://{thief.address}/")
        async with _saying(elsewhere) as server, Registry(f"{server.address}/shop", SHOP) as registry:
            with pytest.raises(Refused, match="denies access"):
                await registry.copy(blob, tmp_path / "layer")
        assert [asked.headers.get("authorization") for asked in thief.asked] == [None]


@pytest.mark.parametrize("location", ["http://example.com/", "file:///etc/passwd", "http://[bad/"])
async def test_a_redirect_that_is_not_https_is_refused(location: str) -> None:
    async with _saying(answer(302, location=location)) as server:
        with pytest.raises(Refused):
            await resolve_tag(f"{server.address}/shop:v1")


async def test_redirects_end() -> None:
    async with _saying(answer(302, location="/again")) as server:
        with pytest.raises(Refused, match="more than 5 times"):
            await resolve_tag(f"{server.address}/shop:v1")
        assert len(server.asked) == 6


async def test_nothing_is_uploaded_to_another_host(packed: tuple[Path, Digest]) -> None:
    async with _saying(answer(201), host="127.0.0.2") as thief:
        begin = answer(202, location=f"http://{thief.address}/upload")
        missing = answer(404)
        async with _saying(missing, begin) as server, Registry(f"{server.address}/shop", SHOP) as registry:
            with pytest.raises(Refused, match="another host"):
                await registry.push(layout.directory(packed[0]), packed[1])
        assert thief.connections == 0


@pytest.mark.parametrize(
    ("realm", "registry", "related"),
    [
        ("registry.example.com", "registry.example.com", True),
        ("gitlab.example.com", "registry.example.com", True),
        ("example.com", "registry.example.com", True),
        ("auth.docker.io", "registry-1.docker.io", True),
        ("evil.com", "registry.example.com", False),
        ("evilexample.com", "registry.example.com", False),
        ("registry.example.com.evil.com", "registry.example.com", False),
        ("other.io", "ghcr.io", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("6.0.0.2", "10.0.0.2", False),
        ("::2", "::1", False),
    ],
)
def test_logging_in_stays_in_the_registrys_own_domain(realm: str, registry: str, related: bool) -> None:
    assert registry_module._is_related(realm, registry) is related


def test_credentials_do_not_show_their_password() -> None:
    assert "s3cret" not in repr(SHOP)


@pytest.mark.parametrize("text", ["", "token", ":password"])
def test_credentials_are_username_and_password(text: str) -> None:
    with pytest.raises(Refused, match="username:password"):
        Credentials.parse(text)
    assert Credentials.parse("a:b:c\n") == Credentials("a", "b:c")


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reference",
    [
        "registry.example.com/shop",
        "registry.example.com:5000/shop",
        "registry.example.com/shop@sha256:" + "0" * 64,
        "registry.example.com/shop:v1@sha256:" + "0" * 64,
        "registry.example.com/shop:",
        "registry.example.com/shop:../v1",
        "registry.example.com/Shop:v1",
        "registry.example.com/../shop:v1",
        "registry.example.com@evil.example.com/shop:v1",
        "nginx:1.27",
        "shop/api:v1",
    ],
)
async def test_a_reference_names_registry_repository_and_tag(reference: str) -> None:
    with pytest.raises(Refused, match=r"names no|not a repository"):
        await resolve_tag(reference)


@pytest.mark.parametrize(
    ("repository", "insecure", "begins"),
    [
        ("registry.example.com/shop/api", frozenset(), "https://registry.example.com/v2/shop/api/"),
        ("registry.example.com:5000/shop", frozenset(), "https://registry.example.com:5000/v2/shop/"),
        ("registry.example.com:5000/shop", {"registry.example.com:5000"}, "http://registry.example.com:5000/v2/shop/"),
        ("registry.example.com:5001/shop", {"registry.example.com:5000"}, "https://registry.example.com:5001/v2/shop/"),
        ("localhost/shop", frozenset(), "http://localhost/v2/shop/"),
        ("[::1]:5000/shop", frozenset(), "http://[::1]:5000/v2/shop/"),
        ("127.evil.example.com/shop", frozenset(), "https://127.evil.example.com/v2/shop/"),
        ("docker.io/nginx", frozenset(), "https://registry-1.docker.io/v2/library/nginx/"),
        ("docker.io/shop/api", frozenset(), "https://registry-1.docker.io/v2/shop/api/"),
    ],
)
async def test_https_is_spoken_but_to_loopback_and_to_listed_hosts(
    repository: str, insecure: frozenset[str], begins: str
) -> None:
    async with Registry(repository, Access(insecure=frozenset(insecure))) as registry:
        assert str(registry.base) == begins


async def test_a_certificate_nobody_vouches_for_is_not_accepted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(registry_module, "_is_loopback", lambda host: False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_self_signed(tmp_path))
    plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
    listener, port = TLSListener(plain, context), plain.extra(SocketAttribute.local_port)

    async def respond(stream: ByteStream) -> None:
        await stream.receive()
        await stream.send(answer(body=IMAGE))

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, respond)
        with pytest.raises(Unreachable, match=r"(?i)certificate"):
            await resolve_tag(f"127.0.0.1:{port}/shop:v1")
        tasks.cancel_scope.cancel()


def _self_signed(directory: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    now = datetime.now(UTC)
    dated = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    certificate = dated.add_extension(here, critical=False).sign(key, hashes.SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = directory / "server.pem"
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    return path
