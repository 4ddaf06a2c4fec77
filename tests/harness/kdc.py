"""A Kerberos realm of our own: MIT's KDC on loopback with its own files and an unprivileged port, nothing kept."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

REALM = "HOLDFAST.TEST"
START = 20.0  # seconds
STOP = 5.0
NEEDED = ("krb5kdc", "kdb5_util", "kadmin.local", "kinit")
_ADMINISTRATORS = "/usr/sbin:/sbin"

_CLIENTS = """\
[libdefaults]
  default_realm = {realm}
  dns_lookup_realm = false
  dns_lookup_kdc = false
  dns_canonicalize_hostname = false
  rdns = false
  udp_preference_limit = 1
  ticket_lifetime = 10m
[realms]
  {realm} = {{
    kdc = 127.0.0.1:{port}
  }}
"""

_SERVERS = """\
[kdcdefaults]
  kdc_listen = ""
  kdc_tcp_listen = 127.0.0.1:{port}
[realms]
  {realm} = {{
    database_name = {directory}/principals
    key_stash_file = {directory}/stash
    max_life = 1h
    supported_enctypes = aes256-cts-hmac-sha1-96:normal
  }}
[logging]
  kdc = FILE:{directory}/kdc.log
"""


class NoRealm(RuntimeError):
    """Why no realm can be had here."""


def lacking() -> str | None:
    """What has to be installed before Kerberos can be spoken here; None when nothing lacks."""
    for name in ("gssapi", "krb5"):
        if importlib.util.find_spec(name) is None:
            return f"Python's {name} is not installed (pip install 'holdfast[kerberos]', with gcc and libkrb5-dev)"
    for name in NEEDED:
        if _found(name) is None:
            return f"{name} is not installed (apt install krb5-kdc krb5-admin-server krb5-user)"
    return None


def _found(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":" + _ADMINISTRATORS)


class Realm:
    """A realm and its KDC. `environment` is what a program has to be given to be in it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory, _free_port()
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> Mapping[str, str]:
        """The realm's configuration, and a cache of tickets and keys of its own: none of whoever runs the tests."""
        return {
            "KRB5_CONFIG": str(self.directory / "krb5.conf"),
            "KRB5_KDC_PROFILE": str(self.directory / "kdc.conf"),
            "KRB5CCNAME": f"FILE:{self.directory}/tickets",
            "KRB5_KTNAME": f"FILE:{self.directory}/keys",
            "KRB5_CLIENT_KTNAME": f"FILE:{self.directory}/client-keys",
            "KRB5RCACHENAME": f"dfl:{self.directory}",
        }

    def initialise(self) -> None:
        said = {"realm": REALM, "port": self.port, "directory": self.directory}
        (self.directory / "krb5.conf").write_text(_CLIENTS.format(**said))
        (self.directory / "kdc.conf").write_text(_SERVERS.format(**said))
        self._run("kdb5_util", "create", "-s", "-r", REALM, "-P", "of no use to anybody")

    def add(self, principal: str, password: str) -> None:
        self._ask(f'add_principal -pw "{password}" {principal}')

    def add_server(self, principal: str) -> None:
        """One that has its key in a file, as a host of a domain has."""
        self._ask(f"add_principal -randkey {principal}")
        self._ask(f"ktadd -k {self.directory}/keys {principal}")

    def forget(self, principal: str) -> None:
        self._ask(f"delete_principal -force {principal}")

    def sign_in(self, principal: str, password: str) -> None:
        """A ticket in the cache, as `kinit` brings it."""
        self._run("kinit", principal, answer=password + "\n")

    def hand_key(self, principal: str) -> None:
        """Its key in the file that programs without a ticket look into, as `ktutil` makes it."""
        self._ask(f"ktadd -norandkey -k {self.directory}/client-keys {principal}")

    def sign_out(self) -> None:
        for name in ("tickets", "client-keys"):
            (self.directory / name).unlink(missing_ok=True)

    def start(self) -> None:
        libc = ctypes.CDLL(None)
        with open(self.directory / "output", "ab") as log:
            self._server = subprocess.Popen(
                [str(_found("krb5kdc")), "-n", "-r", REALM, "-P", str(self.directory / "pid")],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: libc.prctl(1, signal.SIGKILL),  # no server outlives the tests that started it
            )
        self._await_answer()

    def stop(self) -> None:
        if self._server is None:
            return
        self._server.terminate()
        try:
            self._server.wait(STOP)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server = None

    def _await_answer(self) -> None:
        assert self._server is not None
        until = time.monotonic() + START
        while time.monotonic() < until and self._server.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise NoRealm("krb5kdc did not answer: " + (self.directory / "output").read_text(errors="replace")[-400:])

    def _ask(self, query: str) -> None:
        self._run("kadmin.local", "-r", REALM, "-q", query)

    def _run(self, name: str, *arguments: str, answer: str = "") -> None:
        done = subprocess.run(
            [_found(name) or name, *arguments],
            env={**os.environ, **self.environment},
            input=answer,
            capture_output=True,
            text=True,
            timeout=START,
        )
        if done.returncode != 0:
            raise NoRealm(f"{name} failed: {done.stderr[-400:]}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as ear:
        return int(ear.getsockname()[1])


@contextlib.contextmanager
def running() -> Iterator[Realm]:
    """A realm whose KDC answers; `NoRealm` says why there cannot be one."""
    if (lacks := lacking()) is not None:
        raise NoRealm(lacks)
    with tempfile.TemporaryDirectory(prefix="hf-kdc-") as directory:
        realm = Realm(Path(directory))
        realm.initialise()
        try:
            realm.start()
            yield realm
        finally:
            realm.stop()
