"""The daemon's doors as processes and sockets have them: TLS, tokens, drains, and death at the worst moment."""

from __future__ import annotations

import contextlib
import datetime
import io
import ipaddress
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import anyio
import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from api import client, tokens
from api.cli import login as line
from api.cli.main import main
from api.http.app import gated
from api.http.caps import Caps
from api.http.serving import on_port
from api.problem import Problem
from api.settings import Settings
from examples.demo.fleet import Fleet
from tests.api.fleets import built
from tests.api.http.doors import opened
from tests.reconciler.rig import declared, rig

# -- a server with TLS, and the command line as its client ------------------------------------------------------------


def certificate(place: Path) -> tuple[Path, Path]:
    """Self-signed, for this host's loopback."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "holdfast test")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = place / "cert.pem", place / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files[1].write_bytes(private)
    return files


@contextlib.contextmanager
def tls_server(place: Path) -> Iterator[Settings]:
    """A house behind TLS on a thread of its own; the settings of a client that trusts it."""
    certificate_file, key_file = certificate(place)
    listens, stop, urls = Event(), Event(), list[str]()

    async def serve() -> None:
        async with rig(declared("1.0.0", targets=2)) as made, opened(made, Caps()) as door:
            app = gated(door.app, Caps(hosts=frozenset()))
            server = on_port(app, "127.0.0.1", 0, certificate=certificate_file, key=key_file)
            async with anyio.create_task_group() as group:
                urls.append(f"https://127.0.0.1:{await group.start(server.run_until_stopped)}")
                listens.set()
                await anyio.to_thread.run_sync(stop.wait)
                door.house.bell.close()
                server.should_exit = True

    thread = Thread(target=lambda: anyio.run(serve), daemon=True)
    thread.start()
    try:
        assert listens.wait(30)
        yield Settings(server=urls[0], server_ca=str(certificate_file))
    finally:
        stop.set()
        thread.join(30)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with tls_server(tmp_path_factory.mktemp("tls")) as settings:
        yield settings


@pytest.fixture(autouse=True)
def own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def shown(port: int) -> bytes:
    """The certificate that whoever connects now is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 10) as raw, context.wrap_socket(raw) as over:
        found = over.getpeercert(binary_form=True)
    assert found is not None
    return found


def der(file: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(file.read_text())


async def test_a_new_certificate_is_shown_to_whoever_connects_and_a_bad_one_is_not_taken(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    async with rig(declared("1.0.0", targets=1), running=False) as made, opened(made, Caps()) as door:
        server = on_port(gated(door.app, Caps()), "127.0.0.1", 0, certificate=files[0], key=files[1])
        async with anyio.create_task_group() as group:
            port = await group.start(server.run_until_stopped)
            first = der(files[0])
            assert await anyio.to_thread.run_sync(shown, port) == first
            key = files[1].read_bytes()
            certificate(tmp_path)
            second = der(files[0])
            files[1].write_bytes(key)  # of the other certificate
            with pytest.raises(ssl.SSLError):
                server.take_certificate()
            assert await anyio.to_thread.run_sync(shown, port) == first
            certificate(tmp_path)
            server.take_certificate()
            third = await anyio.to_thread.run_sync(shown, port)
            assert third == der(files[0])
            assert third not in (first, second)
            server.should_exit = True


def logged_in(settings: Settings, token: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(token + "\n"))
    return line.login(settings, Namespace(user=None))


def test_login_keeps_a_token_for_its_user_alone_and_commands_use_it(
    served: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Problem, match="holdfast login") as refused:
        client.ask(served, "status")
    assert refused.value.code == "UNAUTHENTICATED"
    assert logged_in(served, "viewer@default/prod", monkeypatch) == 0
    assert stat.S_IMODE(tokens.file().stat().st_mode) == 0o600
    assert client.ask(served, "status")["installation"] == "holdfast-sim"
    with pytest.raises(Problem) as forbidden:
        client.ask(served, "sync", environment="prod")
    assert forbidden.value.code == "FORBIDDEN"
    assert line.logout(served, Namespace()) == 0
    with pytest.raises(Problem, match="holdfast login"):
        client.ask(served, "status")


def test_a_token_that_nobody_knows_is_not_kept(served: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Problem, match="not known"):
        logged_in(served, "stranger", monkeypatch)
    assert not tokens.file().exists()


def test_tokens_that_others_can_read_are_not_used(served: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    logged_in(served, "viewer", monkeypatch)
    tokens.file().chmod(0o644)
    with pytest.raises(Problem, match="not yours alone"):
        client.ask(served, "status")


def test_a_server_that_no_authority_vouches_for_is_sent_no_token(served: Settings) -> None:
    with pytest.raises(Problem, match=r"self.signed") as refused:
        client.ask(Settings(server=served.server, token="viewer"), "status")
    assert refused.value.code == "DAEMON_LOST"


@pytest.mark.parametrize(
    "url", ["http://holdfast.example.com", "ftp://127.0.0.1", "holdfast", "https://", "https://a:b@c"]
)
def test_an_address_that_would_betray_the_token_is_refused(url: str) -> None:
    with pytest.raises(Problem) as refused:
        client.Server.of(Settings(server=url, token="viewer"))
    assert refused.value.code == "BAD_SETTING"


def test_the_command_line_speaks_to_the_server(
    served: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOLDFAST_SERVER", served.server)
    monkeypatch.setenv("HOLDFAST_SERVER_CA", served.server_ca)
    monkeypatch.setenv("HOLDFAST_TOKEN", "operator@default/prod")
    assert main(["sync", "prod", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["result"]["ok"] is True
    assert main(["status", "prod", "--output", "json"]) == 0
    assert main(["status", "other"]) == 2
    assert "no grant to read in default/other [FORBIDDEN]" in capsys.readouterr().err


# -- the daemon as a process ------------------------------------------------------------------------------------------


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = built(tmp_path / "fleet", targets=1)
    document = made.documents / "staging.yaml"
    document.write_text(document.read_text().replace("mode: automatic, heal: automatic", "mode: ask, heal: ask"))
    yield made
    made.end_workloads()


@contextlib.contextmanager
def process(fleet: Fleet, *words: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    with (fleet.home / "daemon.log").open("ab") as log:
        daemon = subprocess.Popen(fleet.command(*words), stdout=log, stderr=log, env=os.environ | environment)
    try:
        fleet.wait("the daemon", lambda: known(fleet))
        yield daemon
    finally:
        daemon.kill()
        daemon.wait()


def known(fleet: Fleet) -> bool:
    """The daemon answers and has read the documents."""
    with socket.socket(socket.AF_UNIX) as tried:
        try:
            tried.connect(str(fleet.state / "holdfast.sock"))
        except OSError:
            return False
    return bool(asked(fleet, "GET", "/environments").json()["environments"])


def socket_of(fleet: Fleet) -> httpx2.Client:
    transport = httpx2.HTTPTransport(uds=str(fleet.state / "holdfast.sock"))
    return httpx2.Client(transport=transport, base_url="http://holdfast/api/v1", timeout=60)


def asked(fleet: Fleet, method: str, path: str, **more: Any) -> httpx2.Response:
    with socket_of(fleet) as one:
        return one.request(method, path, **more)


def listening(fleet: Fleet) -> str:
    """Where the daemon says it listens."""
    text = (fleet.home / "daemon.log").read_text()
    return next(word.removeprefix("url=") for word in text.split() if word.startswith("url=http"))


def test_a_request_whose_answer_was_lost_with_the_daemon_is_answered_when_it_is_repeated(fleet: Fleet) -> None:
    key = {"Idempotency-Key": "lost-answer"}
    with process(fleet, "run", HOLDFAST_FAILPOINT="after_job:kill") as daemon:
        with pytest.raises(httpx2.HTTPError):
            asked(fleet, "POST", "/environments/default/staging/sync", headers=key)
        assert daemon.wait(30) == -signal.SIGKILL
    with process(fleet, "run"):
        again = asked(fleet, "POST", "/environments/default/staging/sync", headers=key)
        assert (again.status_code, again.json()["id"]) == (201, "default/staging:1")
        assert len(asked(fleet, "GET", "/jobs").json()["jobs"]) == 1
        differs = asked(fleet, "POST", "/environments/default/staging/rollback", headers=key)
        assert differs.json()["code"] == "IDEMPOTENCY_DIFFERS"


def test_serve_listens_and_drains_with_open_streams(fleet: Fleet) -> None:
    with process(fleet, "serve", "--listen", "127.0.0.1:0") as daemon:
        stranger = httpx2.get(f"{listening(fleet)}/api/v1/environments")
        assert (stranger.status_code, stranger.json()["code"]) == (401, "UNAUTHENTICATED")
        assert httpx2.get(f"{listening(fleet)}/api/v1/openapi.json").json()["info"]["title"] == "Holdfast"
        with socket_of(fleet) as one, one.stream("GET", "/events") as answer:
            lines = answer.iter_lines()
            assert any(text == "event: hello" for text in lines)
            daemon.send_signal(signal.SIGTERM)
            began = time.monotonic()
            assert any(text == "event: bye" for text in lines)
        assert daemon.wait(20) == 0
        assert time.monotonic() - began < 15


def test_what_a_client_asked_for_goes_on_when_it_dies(fleet: Fleet) -> None:
    with process(fleet, "run"):
        words = fleet.command("sync", "staging")
        follower = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        fleet.wait("the job", lambda: asked(fleet, "GET", "/jobs").json()["jobs"])
        follower.kill()
        follower.wait()
        fleet.wait("its end", lambda: asked(fleet, "GET", "/jobs").json()["jobs"][0]["ok"] is True)
