"""A private registry on a free loopback port, with a directory of its own; ended by its process id."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

GIVEN = "HOLDFAST_TEST_REGISTRY"
START = 20.0  # seconds
STOP = 10.0


class NoRegistry(RuntimeError):
    """Why no registry can be had here."""


@contextlib.contextmanager
def running_registry(users: Path | None = None) -> Iterator[str]:
    """The address, ``127.0.0.1:port``, of a registry of our own; with `users`, an htpasswd file, it asks who it is."""
    program = shutil.which("docker-registry") or shutil.which("registry")
    if program is None:
        raise NoRegistry("docker-registry is not installed")
    directory = Path(tempfile.mkdtemp(prefix="holdfast-registry-"))
    try:
        for _ in range(5):  # a free port may be taken again before the registry has it
            address = f"127.0.0.1:{_free_port()}"
            with _process(program, directory, _settings(directory, address, users)) as registry:
                if _answers(address, registry):
                    yield address
                    return
        raise NoRegistry(f"docker-registry does not start: {(directory / 'log').read_text(errors='replace')[-400:]}")
    finally:
        shutil.rmtree(directory)


@contextlib.contextmanager
def given_or_running() -> Iterator[str]:
    """The address of the registry the test command started for all workers, or of one of our own."""
    if given := os.environ.get(GIVEN):
        yield given
        return
    with running_registry() as address:
        yield address


def _settings(directory: Path, address: str, users: Path | None) -> str:
    text = (
        f"version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {directory}/data}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '{address}', secret: tests}}\n"
    )
    return text + (f"auth: {{htpasswd: {{realm: tests, path: {users}}}}}\n" if users else "")


@contextlib.contextmanager
def _process(program: str, directory: Path, settings: str) -> Iterator[subprocess.Popen[bytes]]:
    (directory / "settings.yml").write_text(settings)
    libc = ctypes.CDLL(None)
    with (directory / "log").open("ab") as log:
        registry = subprocess.Popen(
            [program, "serve", str(directory / "settings.yml")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: libc.prctl(1, signal.SIGTERM),  # no registry outlives the tests that started it
        )
    try:
        yield registry
    finally:
        registry.terminate()
        try:
            registry.wait(STOP)
        except subprocess.TimeoutExpired:
            registry.kill()
            registry.wait()


def _answers(address: str, registry: subprocess.Popen[bytes]) -> bool:
    ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and registry.poll() is None:
        try:
            with ask(f"http://{address}/v2/", timeout=2):
                return registry.poll() is None
        except urllib.error.HTTPError as answer:
            return answer.code == 401
        except OSError:
            time.sleep(0.02)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
