"""A private PostgreSQL: a cluster of its own on a socket in a short directory, ended by process id, nothing kept."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg

GIVEN = "HOLDFAST_TEST_POSTGRES"
START = 30.0  # seconds
STOP = 20.0
# nothing has to survive the machine here, and the tests pay for every fsync
SETTINGS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "listen_addresses=", "max_connections=200")


class NoPostgres(RuntimeError):
    """Why no PostgreSQL can be had here."""


class Postgres:
    """A server on a directory of its own. `str` is the address of its administrative database."""

    def __init__(self, directory: Path, binaries: Path) -> None:
        self.directory, self._binaries = directory, binaries
        self._server: subprocess.Popen[bytes] | None = None

    def __str__(self) -> str:
        return self.address("postgres")

    def address(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.directory}"

    def initialise(self) -> None:
        command = [str(self._binaries / "initdb"), "-D", str(self.directory / "data"), "-U", "postgres", "-A", "trust"]
        done = subprocess.run(
            [*command, "--no-sync", "-E", "UTF8", "--locale=C"], user=_user(), cwd="/", capture_output=True, text=True
        )
        if done.returncode != 0:
            raise NoPostgres(f"initdb failed: {done.stderr[-400:]}")

    def start(self) -> None:
        libc = ctypes.CDLL(None)
        settings = [part for setting in SETTINGS for part in ("-c", setting)]
        command = [str(self._binaries / "postgres"), "-D", str(self.directory / "data"), "-k", str(self.directory)]
        with open(self.directory / "log", "ab") as log:
            self._server = subprocess.Popen(
                [*command, *settings],
                user=_user(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: libc.prctl(1, signal.SIGQUIT),  # no server outlives the tests that started it
            )
        self._await_answer()

    def stop(self) -> None:
        if self._server is None:
            return
        self._server.send_signal(signal.SIGINT)  # its word for: now, and in order
        try:
            self._server.wait(STOP)
        except subprocess.TimeoutExpired:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait()
        self._server = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def _await_answer(self) -> None:
        assert self._server is not None
        deadline = time.monotonic() + START
        while time.monotonic() < deadline and self._server.poll() is None:
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(str(self)):
                return
            time.sleep(0.02)
        raise NoPostgres("postgres did not answer: " + (self.directory / "log").read_text(errors="replace")[-400:])


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server of our own; `NoPostgres` says why there cannot be one."""
    binaries = _binaries()
    directory = Path(tempfile.mkdtemp(prefix="hf-pg-", dir="/tmp"))  # a socket's path has room for 107 bytes
    if (user := _user()) is not None:
        shutil.chown(directory, user, user)
    server = Postgres(directory, binaries)
    try:
        server.initialise()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def given_postgres() -> Iterator[str]:
    """The address of the server that the test command started for all workers, else of one for this process."""
    if address := os.environ.get(GIVEN):
        yield address
    else:
        with running_postgres() as server:
            yield str(server)


@contextlib.contextmanager
def database(server: str, template: str = "template1") -> Iterator[str]:
    """The address of a fresh database, copied from a template in some 20 ms, and dropped afterwards."""
    name = f"holdfast_{uuid.uuid4().hex}"
    _administer(server, f"create database {name} template {template}")
    try:
        yield server.replace("/postgres?", f"/{name}?")
    finally:
        _administer(server, f"drop database {name} with (force)")


def _administer(server: str, statement: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(statement.encode())


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if not found:
        raise NoPostgres("no /usr/lib/postgresql/*/bin/initdb (Debian's package is called postgresql)")
    return found[-1].parent


def _user() -> str | None:
    """A server refuses to run as root."""
    return "postgres" if os.geteuid() == 0 else None
