"""Engines, examined: real ones, and sockets behind which there is none."""

from __future__ import annotations

import os
import pwd
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest

from desired_state.model import Configuration, Placement, Target
from desired_state.secrets import SecretFile, SecretRef
from drivers.conformance import proper_tools
from drivers.contract import Diagnosis, Examiner, Grade, Look
from drivers.docker import examine
from drivers.docker.connection import Connection, Tls
from drivers.docker.driver import DockerDriver
from drivers.docker.engine import Engine
from stickers.names import Artifact, Digest, EnvironmentId
from tests.drivers.docker import certificates, samples
from tests.drivers.docker.yard import Yard
from tests.harness import images

TARGET = Target(id=samples.ID.target, environment=EnvironmentId("shop/prod"), driver="docker")
NONE = Digest("sha256:" + "0" * 64)


async def examined(yard: Yard, *placements: Placement) -> dict[str, Diagnosis]:
    driver = DockerDriver(yard.tools)
    assert isinstance(driver, Examiner)
    try:
        found = await driver.examine(Look(target=yard.target, placements=placements))
    finally:
        await driver.aclose()
    return {each.about: each for each in found}


def placement(artifact: Artifact, **declared: Any) -> Placement:
    return replace(samples.placement(Configuration(**declared)), artifact=artifact)


async def reached(**connection: Any) -> Diagnosis:
    return await examine._reached(Connection.model_validate(connection))


# -- real engines ---------------------------------------------------------------------------------------------------


async def test_an_engine_that_has_all_is_ok(yard: Yard) -> None:
    found = await examined(yard, placement(yard.artifact(images.ONE)))
    assert {"engine", "version", "storage", "disk", "clock", "artifact"} <= set(found)
    assert found["engine"].grade is found["version"].grade is found["clock"].grade is Grade.OK
    assert found["artifact"].grade is Grade.OK
    assert "can fetch" in found["artifact"].sentence
    assert yard.containers() == []


async def test_an_image_that_is_there_needs_no_registry(yard: Yard) -> None:
    artifact = yard.pulled(images.ONE)
    assert "is on the engine" in (await examined(yard, placement(artifact)))["artifact"].sentence


async def test_an_image_that_the_registry_has_not_is_missing(yard: Yard) -> None:
    gone = Artifact(yard.artifact(images.ONE).repository, NONE)
    assert (await examined(yard, placement(gone)))["artifact"].grade is Grade.MISSING


async def test_a_registry_that_the_engine_does_not_reach_is_not_ok(yard: Yard) -> None:
    found = (await examined(yard, placement(Artifact("127.0.0.1:1/shop/web", NONE))))["artifact"]
    assert found.grade in (Grade.UNKNOWN, Grade.MISSING)
    assert found.remedy


# -- what stands in the way -----------------------------------------------------------------------------------------


async def test_no_socket_says_what_to_install(tmp_path: Path) -> None:
    found = await reached(engine=f"unix://{tmp_path}/none.sock")
    assert found.grade is Grade.MISSING
    assert "there is no socket" in found.sentence
    assert "install Docker" in (found.remedy or "")


@contextmanager
def listening(path: Path, answer: bytes | None) -> Iterator[None]:
    """A socket that answers this once asked, or never."""
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(path))
        line.listen()
        held: list[socket.socket] = []

        def serve() -> None:
            try:
                one, _ = line.accept()
            except OSError:
                return
            held.append(one)
            if answer is not None:
                one.recv(4096)
                one.sendall(answer)
                one.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            line.shutdown(socket.SHUT_RDWR)
            thread.join()
            for one in held:
                one.close()


async def test_a_socket_that_nobody_listens_at_is_told(tmp_path: Path) -> None:
    path = tmp_path / "d.sock"
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(path))
    found = await reached(engine=f"unix://{path}")
    assert found.grade is Grade.MISSING
    assert "nobody listens" in found.sentence


async def test_an_engine_that_hangs_is_unknown_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "PING", 0.2)
    with listening(tmp_path / "d.sock", None), anyio.fail_after(20):
        found = await reached(engine=f"unix://{tmp_path}/d.sock")
    assert found.grade is Grade.UNKNOWN
    assert "does not answer within" in found.sentence


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 404 Not Found\r\n\r\n", b""])
async def test_what_is_no_engine_is_told(tmp_path: Path, answer: bytes) -> None:
    with listening(tmp_path / "d.sock", answer):
        found = await reached(engine=f"unix://{tmp_path}/d.sock")
    assert found.grade is Grade.MISSING
    assert "is no Docker engine" in found.sentence


def test_a_socket_that_is_not_ours_to_use_is_told(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody who may not")
    nobody = pwd.getpwnam("nobody").pw_uid
    code = (
        "import os, sys, anyio; sys.path.insert(0, os.getcwd())\n"
        "from drivers.docker import examine\n"
        "from drivers.docker.connection import Connection\n"
        f"os.setuid({nobody})\n"
        "print(anyio.run(examine._reached, Connection(engine='unix://' + sys.argv[1])))\n"
    )
    with listening(tmp_path / "d.sock", None):
        os.chmod(tmp_path / "d.sock", 0o600)
        for folder in (tmp_path, *tmp_path.parents[:2]):
            os.chmod(folder, 0o755)
        argv = [sys.executable, "-c", code, str(tmp_path / "d.sock")]
        said = anyio.run(lambda: anyio.run_process(argv)).stdout.decode()
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(tmp_path / "d.sock"))
    assert "we may not speak to it" in said
    assert "MISSING" in said


async def test_an_engine_whose_certificate_is_another_is_told(tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        certificates.write(tmp_path / name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "theirs" / "engine.pem", tmp_path / "theirs" / "engine-key.pem")
    ours = {"ca": "ca", "cert": "client", "key": "client-key"}
    files = {name: f"{tmp_path}/ours/{file}.pem" for name, file in ours.items()}
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        found = await reached(engine=f"tcp://127.0.0.1:{server.server_address[1]}", tls=files)
        await anyio.to_thread.run_sync(thread.join)
    assert found.grade is Grade.MISSING
    assert "TLS fails" in found.sentence


async def test_files_of_tls_that_are_not_there_are_told() -> None:
    files = dict.fromkeys(("ca", "cert", "key"), "/nowhere.pem")
    assert "a file of `tls` cannot be read" in (await reached(engine="tcp://127.0.0.1:1", tls=files)).sentence


# -- what an engine says --------------------------------------------------------------------------------------------


def test_an_old_engine_is_missing() -> None:
    assert examine._version({"ApiVersion": "1.40", "ServerVersion": "19.03"}).grade is Grade.MISSING
    assert examine._version({"ApiVersion": "1.41", "ServerVersion": "20.10"}).grade is Grade.OK
    assert examine._version({"ApiVersion": "2.0"}).grade is Grade.OK


@pytest.mark.parametrize(
    ("driver", "grade"), [("overlay2", Grade.OK), ("vfs", Grade.WARNING), ("devicemapper", Grade.WARNING)]
)
def test_a_storage_driver_is_judged(driver: str, grade: Grade) -> None:
    assert examine._storage({"Driver": driver}).grade is grade


def test_the_engines_time_is_read_from_its_word_or_its_head() -> None:
    now = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
    said = {"SystemTime": "2026-11-21T12:00:00.123456789Z"}
    assert examine._clock(said, now, now).grade is Grade.OK
    assert examine._clock({"Date": "Sat, 21 Nov 2026 12:00:00 GMT"}, now, now).grade is Grade.OK
    assert examine._clock(said, now + timedelta(hours=1), now + timedelta(hours=1)).grade is Grade.WARNING
    assert examine._clock({}, now, now).grade is Grade.UNKNOWN


def test_limits_that_would_not_hold_are_told() -> None:
    one = Look(target=None, placements=(samples.placement(),))  # type: ignore[arg-type]
    (found,) = examine._limits({"MemoryLimit": False, "CpuCfsQuota": False}, one)
    assert "memory and cpus cannot be limited" in found.sentence
    assert examine._limits({"MemoryLimit": True, "CpuCfsQuota": True}, one) == ()


async def test_an_engine_behind_something_else_is_not_sought_on_this_host(tmp_path: Path) -> None:
    known = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    far = Connection(
        via="ssh", host="far", user="somebody", agent=True, known_hosts=(known,), engine=f"unix://{tmp_path}/none.sock"
    )

    class Answering:
        connection = far

        async def about(self) -> dict[str, Any]:
            return {"ApiVersion": "1.41", "ServerVersion": "20.10", "Driver": "overlay2", "DockerRootDir": "/"}

    one = Look(target=None, placements=())  # type: ignore[arg-type]
    found = {each.about: each for each in await examine.examine(Answering(), one, proper_tools())}  # type: ignore[arg-type]
    assert found["engine"].sentence.endswith("by way of ssh")
    assert found["disk"].grade is Grade.UNKNOWN


async def test_a_remote_engine_does_not_tell_its_room() -> None:
    tls = dict.fromkeys(("ca", "cert", "key"), "/nowhere.pem")
    connection = Connection.model_validate({"engine": "tcp://127.0.0.1:1", "tls": tls})
    assert (await examine._disk(connection, {"DockerRootDir": "/var/lib/docker"})).grade is Grade.UNKNOWN


# -- secrets as files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("directory", "grade"), [("/dev/shm/holdfast", Grade.OK), ("/proc/holdfast", Grade.MISSING)], ids=["memory", "not"]
)
def test_where_secrets_would_lie_is_seen_on_this_host(directory: str, grade: Grade) -> None:
    placed = samples.placement(
        Configuration(secrets=(SecretFile(name="a", secret=SecretRef(reference="env:A")),)),
    )
    near = Engine(Connection(secrets_directory=directory))
    [found] = examine._secrets(near, Look(target=TARGET, placements=(placed,)))
    assert (found.about, found.grade) == ("secrets", grade)
    assert examine._secrets(near, Look(target=TARGET)) == ()


def test_where_they_would_lie_behind_tls_is_not_known() -> None:
    tls = Tls(ca="/ca.pem", cert="/cert.pem", key="/key.pem")
    far = Engine(Connection(engine="tcp://engine.example.com:2376", tls=tls))
    placed = samples.placement(
        Configuration(secrets=(SecretFile(name="a", secret=SecretRef(reference="env:A")),)),
    )
    [found] = examine._secrets(far, Look(target=TARGET, placements=(placed,)))
    assert found.grade is Grade.UNKNOWN
    assert "findmnt -T /run/holdfast" in (found.remedy or "")
