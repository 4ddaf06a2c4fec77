"""https checks against real servers on loopback: the certificate is judged, and nothing else is asked."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from desired_state.health import CheckTls, HttpCheck
from drivers import probes, tls
from stickers.observation import HealthState
from tests.harness.wire import answer

HEALTHY, UNHEALTHY, UNKNOWN = HealthState.HEALTHY, HealthState.UNHEALTHY, HealthState.UNKNOWN
WITHIN = timedelta(seconds=10)
NAME = "shop.example.com"


class Authority:
    """One that issues certificates into a directory; `file` is what trusts it."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory, self.file = directory, directory / f"{name}-ca.pem"
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(self._name, self._key, timedelta(hours=1))
        constraint = x509.BasicConstraints(ca=True, path_length=0)
        made = builder.add_extension(constraint, critical=True).sign(self._key, hashes.SHA256())
        self.file.write_bytes(made.public_bytes(Encoding.PEM))

    def issued(self, *sans: x509.GeneralName, life: timedelta = timedelta(hours=1)) -> ssl.SSLContext:
        """A server's context with a certificate for these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "workload")])
        builder = self._builder(subject, key, life).add_extension(x509.SubjectAlternativeName(sans), critical=False)
        content = builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)
        content += key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path = self.directory / "server.pem"
        path.write_bytes(content)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _builder(self, subject: x509.Name, key: Any, life: timedelta) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=2))
            .not_valid_after(now + life)
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


ADDRESS = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


class Server(ThreadingHTTPServer):
    """Shakes hands in the thread of each connection, and takes nobody's leaving for an error of its own."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextlib.contextmanager
def serving(context: ssl.SSLContext, *answers: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A server that says the answers to whoever asks; its port, and what was asked."""
    asked: list[bytes] = []

    class Saying(StreamRequestHandler):
        def handle(self) -> None:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                if not (line := self.rfile.readline()):
                    return
                head += line
            asked.append(head)
            for piece in answers:
                self.wfile.write(piece)

    with listening(Saying, context) as port:
        yield port, asked


@contextlib.contextmanager
def listening(handler: type[StreamRequestHandler], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port of a server whose connections are handled so."""
    with Server(("127.0.0.1", 0), handler) as server:  # type: ignore[arg-type]
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


async def health(port: int, declared: CheckTls, **check: Any) -> tuple[HealthState, str]:
    asked = HttpCheck(port=8443, path="/health", tls=declared, **check)
    found = await probes.ask(asked, "127.0.0.1", port, WITHIN)
    said = f"https GET :8443/health answers {asked.status}"
    assert found.detail.startswith(said)
    return found.state, found.detail.removeprefix(said).removeprefix(": ")


async def test_a_trusted_certificate_for_the_address_is_healthy(authority: Authority) -> None:
    with serving(authority.issued(ADDRESS), answer(200, b"fine")) as (port, asked):
        assert await health(port, CheckTls(ca=str(authority.file))) == (HEALTHY, "")
        assert f"host: 127.0.0.1:{port}".encode() in asked[0].lower()


async def test_a_certificate_for_the_declared_name_is_healthy_and_the_name_is_sent(authority: Authority) -> None:
    context = authority.issued(x509.DNSName(NAME))
    seen: list[str | None] = []
    context.sni_callback = lambda _, name, __: seen.append(name)  # type: ignore[assignment]
    with serving(context, answer(200)) as (port, asked):
        declared = CheckTls(ca=str(authority.file), server_name=NAME)
        assert await health(port, declared) == (HEALTHY, "")
    assert f"host: {NAME}\r\n".encode() in asked[0].lower()
    assert seen == [NAME]


async def test_the_name_moves_no_connection(authority: Authority) -> None:
    """The name may lead elsewhere, or nowhere: only the address is asked."""
    with serving(authority.issued(x509.DNSName("nowhere.invalid")), answer(200)) as (port, _):
        declared = CheckTls(ca=str(authority.file), server_name="nowhere.invalid")
        assert await health(port, declared) == (HEALTHY, "")


async def test_a_certificate_for_another_name_or_address_is_unhealthy(authority: Authority) -> None:
    with serving(authority.issued(x509.DNSName("other.example.com")), answer(200)) as (port, asked):
        for declared in (CheckTls(ca=str(authority.file), server_name=NAME), CheckTls(ca=str(authority.file))):
            state, said = await health(port, declared)
            assert state is UNHEALTHY
            assert "its certificate is not accepted" in said
            assert "mismatch" in said
    assert asked == []


async def test_a_certificate_of_another_authority_is_unhealthy(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "theirs")
    with serving(authority.issued(ADDRESS), answer(200)) as (port, asked):
        for declared in (CheckTls(ca=str(other.file)), CheckTls()):
            state, said = await health(port, declared)
            assert state is UNHEALTHY
            assert "its certificate is not accepted: unable to get local issuer certificate" in said
    assert asked == []


async def test_an_expired_certificate_is_unhealthy(authority: Authority) -> None:
    with serving(authority.issued(ADDRESS, life=-timedelta(hours=1)), answer(200)) as (port, _):
        said = await health(port, CheckTls(ca=str(authority.file)))
    assert said == (UNHEALTHY, "its certificate is not accepted: certificate has expired")


async def test_what_does_not_speak_tls_is_unhealthy() -> None:
    class Refusing(StreamRequestHandler):
        def handle(self) -> None:
            self.request.recv(10_000)
            self.wfile.write(answer(400))

    with listening(Refusing) as port:
        assert await health(port, CheckTls()) == (UNHEALTHY, "it does not speak TLS")


async def test_a_handshake_that_is_cut_off_is_unhealthy() -> None:
    class Leaving(StreamRequestHandler):
        def handle(self) -> None:
            self.request.recv(10_000)

    with listening(Leaving) as port:
        assert await health(port, CheckTls()) == (UNHEALTHY, "the connection ended early")


async def test_a_handshake_that_hangs_ends_in_time() -> None:
    class Hanging(StreamRequestHandler):
        def handle(self) -> None:
            while self.request.recv(1000):
                pass

    with listening(Hanging) as port:
        check = HttpCheck(port=8443, tls=CheckTls())
        found = await probes.ask(check, "127.0.0.1", port, timedelta(seconds=0.3))
    assert found.state is UNHEALTHY
    assert found.detail.endswith("no answer within 0.3 s")


async def test_a_server_that_wants_a_certificate_of_ours_is_unhealthy(authority: Authority) -> None:
    context = authority.issued(ADDRESS)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.file)
    with serving(context, answer(200)) as (port, asked):
        state, _ = await health(port, CheckTls(ca=str(authority.file)))
    assert state is UNHEALTHY
    assert asked == []


async def test_authorities_that_cannot_be_read_are_our_own_fault(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("no certificate")
    with serving(authority.issued(ADDRESS), answer(200)) as (port, _):
        for name, said in (("none.pem", "No such file or directory"), ("empty.pem", "holds no certificates")):
            state, detail = await health(port, CheckTls(ca=str(tmp_path / name)))
            assert state is UNKNOWN
            assert "could not be asked" in detail
            assert said in detail


async def test_new_authorities_are_read_when_their_file_changes(authority: Authority, tmp_path: Path) -> None:
    other, file = Authority(tmp_path, "theirs"), tmp_path / "trusted.pem"
    file.write_bytes(other.file.read_bytes())
    with serving(authority.issued(ADDRESS), answer(200)) as (port, _):
        assert (await health(port, CheckTls(ca=str(file))))[0] is UNHEALTHY
        file.write_bytes(other.file.read_bytes() + authority.file.read_bytes())
        assert (await health(port, CheckTls(ca=str(file))))[0] is HEALTHY
        kept = tls._contexts[str(file)][1]
        assert (await health(port, CheckTls(ca=str(file))))[0] is HEALTHY
        assert tls._contexts[str(file)][1] is kept


async def test_the_body_is_matched_and_the_status_judged(authority: Authority) -> None:
    declared = CheckTls(ca=str(authority.file))
    large = b"x" * 40_000 + b"version 2"
    with serving(authority.issued(ADDRESS), answer(200, large)) as (port, _):
        assert (await health(port, declared, body="version 2"))[0] is HEALTHY
        assert (await health(port, declared, body="version 3"))[0] is UNHEALTHY
    with serving(authority.issued(ADDRESS), answer(503)) as (port, _):
        assert await health(port, declared) == (UNHEALTHY, "answered 503")


async def test_an_answer_that_is_cut_off_is_unhealthy(authority: Authority) -> None:
    half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"
    with serving(authority.issued(ADDRESS), half) as (port, _):
        state, said = await health(port, CheckTls(ca=str(authority.file)))
    assert (state, said) == (UNHEALTHY, "the connection ended early")


async def test_no_redirect_is_followed(authority: Authority) -> None:
    with serving(authority.issued(ADDRESS), answer(200)) as (elsewhere, asked):
        away = answer(302, location=f"https://127.0.0.1:{elsewhere}/health")
        with serving(authority.issued(ADDRESS), away) as (port, _):
            assert await health(port, CheckTls(ca=str(authority.file))) == (UNHEALTHY, "answered 302")
        assert asked == []
