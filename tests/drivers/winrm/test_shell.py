"""One WinRS shell through pypsrp: who is admitted, who is believed, and what it means when it fails."""

from __future__ import annotations

import base64
import importlib.util
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from desired_state.secrets import SecretRef
from drivers.errors import DriverError, Refused, Unreachable
from drivers.ssh.connection import Secret
from drivers.winrm.connection import WinRm
from drivers.winrm.errors import Cut, ExtraMissing, NotAdmitted, NotBelieved, NotWindows, Silent
from drivers.winrm.shell import Shell
from tests.harness import wsman


class Echo:
    """A program that answers each line with it, and to some words otherwise."""

    def __init__(self, line: str) -> None:
        self.line, self.ended = line, threading.Event()
        self._heard, self._out, self._err = b"", b"", b""
        self._code: int | None = None
        self._changed = threading.Condition()

    def feed(self, data: bytes) -> None:
        with self._changed:
            self._heard += data
            *lines, self._heard = self._heard.split(b"\n")
            for line in lines:
                self._do(line)
            self._changed.notify_all()

    def _do(self, line: bytes) -> None:
        if line == b"die":
            self._code, self._err = 7, b"Access is denied.\r\nmore\r\n"
        elif line == b"flood":
            self._out += b"x" * (17 << 20)
        elif line != b"hang":
            self._out += b"heard " + line + b"\r\n"

    def read(self, within: float) -> tuple[bytes, bytes, int | None]:
        with self._changed:
            self._changed.wait_for(lambda: self._out or self._err or self._code is not None, within)
            found = self._out, self._err, self._code
            self._out, self._err = b"", b""
            return found

    def end(self) -> None:
        with self._changed:
            self.ended.set()
            self._code = 1
            self._changed.notify_all()


class Hall:
    """A listener and the programs that were begun there."""

    def __init__(self) -> None:
        self.programs: list[Echo] = []
        self.server: wsman.Server

    def start(self, line: str) -> Echo:
        self.programs.append(Echo(line))
        return self.programs[-1]

    def winrm(self, **said: Any) -> WinRm:
        password = Secret(secret="env:PASSWORD")
        known = {
            "user": wsman.USER,
            "password": password,
            "connect_timeout": "2s",
            "ca": str(self.server.certificates.ca),
        }
        return WinRm(**{"host": "127.0.0.1", "port": self.server.port, **known, **said})

    @contextmanager
    def shell(self, secrets: dict[str, str] | None = None, **said: Any) -> Iterator[Shell]:
        shell = Shell(self.winrm(**said), {"password": wsman.PASSWORD} if secrets is None else secrets)
        try:
            shell.open("program.exe", ["one", "two"], 5.0)
            yield shell
        finally:
            shell.close(2.0)


@pytest.fixture(scope="module")
def listener() -> Iterator[Hall]:
    hall = Hall()
    with wsman.running(hall.start) as server:
        hall.server = server
        yield hall


@pytest.fixture
def hall(listener: Hall) -> Iterator[Hall]:
    listener.programs.clear()
    listener.server.seen.clear()
    listener.server.sealed = 0
    yield listener
    listener.server.offers = "Negotiate"
    listener.server.silent.clear()


def test_lines_go_there_and_come_back(hall: Hall) -> None:
    with hall.shell() as shell:
        assert shell.exchange(b"one\n", 5) == b"heard one"
        assert shell.exchange(b"two\n", 5) == b"heard two"
        long = b"x" * 300_000
        assert shell.exchange(long + b"\n", 5) == b"heard " + long
    assert hall.programs[0].line == "program.exe one two"
    assert hall.server.seen[:2] == ["Create", "Command"]
    assert hall.server.seen[-2:] == ["Signal", "Delete"]
    assert not hall.server.shells


def test_messages_are_sealed_within_tls_where_that_is_asked(hall: Hall) -> None:
    with hall.shell(message_encryption=True) as shell:
        assert shell.exchange(b"one\n", 5) == b"heard one"
    assert hall.server.sealed >= 6


def test_a_client_certificate_admits_and_leaves_no_key_behind(hall: Hall, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    certificate, key = hall.server.certificates.client
    named = {"auth": "certificate", "user": None, "password": None}
    named |= {"certificate": Secret(secret="file:/c"), "key": Secret(secret="file:/k")}
    with hall.shell({"certificate": certificate.read_text(), "key": key.read_text()}, **named) as shell:
        assert shell.exchange(b"one\n", 5) == b"heard one"
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_password_is_not_admitted(hall: Hall) -> None:
    with pytest.raises(NotAdmitted, match="not admitted with auth: ntlm"), hall.shell({"password": "wrong"}):
        pass
    assert not hall.programs


def test_a_host_that_takes_basic_alone_is_not_given_the_password(hall: Hall) -> None:
    hall.server.offers = "Basic realm=WSMAN"
    with pytest.raises(NotAdmitted), hall.shell():
        pass


@pytest.mark.parametrize(
    ("said", "reason"),
    [({"host": "localhost"}, "hostname mismatch"), ({"ca": "other"}, "no authority that is believed")],
)
def test_a_certificate_that_is_not_the_hosts_is_refused(hall: Hall, said: dict[str, Any], reason: str) -> None:
    if said.get("ca"):
        said = {"ca": str(hall.server.certificates.other)}
    with pytest.raises(NotBelieved, match=reason), hall.shell(**said):
        pass
    assert not hall.server.seen


def test_the_authorities_of_the_environment_are_not_asked(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(hall.server.certificates.ca))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with pytest.raises(NotBelieved), hall.shell(ca=str(hall.server.certificates.other)):
        pass
    with hall.shell() as shell:
        assert shell.exchange(b"one\n", 5) == b"heard one"


def test_a_file_of_authorities_that_is_not_there_is_named(hall: Hall) -> None:
    with pytest.raises(Refused, match=r"ca /nowhere\.pem cannot be read"), hall.shell(ca="/nowhere.pem"):
        pass


def test_a_host_that_does_not_listen_is_unreachable(hall: Hall) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ear:
        port = ear.getsockname()[1]
    with pytest.raises(Unreachable, match="it cannot be reached"), hall.shell(port=port):
        pass


def test_a_host_that_takes_the_line_and_says_nothing_is_given_up_in_time(hall: Hall) -> None:
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as ear, pytest.raises(Silent):
        shell = Shell(hall.winrm(port=ear.getsockname()[1]), {"password": wsman.PASSWORD})
        shell.open("program.exe", [], 1.0)
    assert time.monotonic() - began < 5


def test_a_program_that_hangs_is_given_up_in_time_and_ended(hall: Hall) -> None:
    with hall.shell() as shell:
        began = time.monotonic()
        with pytest.raises(Silent, match="did not answer in time"):
            shell.exchange(b"hang\n", 1.2)
        assert time.monotonic() - began < 5
    assert hall.programs[0].ended.is_set()


def test_a_server_that_stalls_is_given_up_in_time(hall: Hall) -> None:
    with hall.shell() as shell:
        hall.server.silent.set()
        began = time.monotonic()
        with pytest.raises(Silent):
            shell.exchange(b"one\n", 1.2)
        assert time.monotonic() - began < 6
        hall.server.silent.clear()


def test_a_shell_that_is_lost_is_a_cut(hall: Hall) -> None:
    with hall.shell() as shell:
        hall.server.lose_shells()
        with pytest.raises(Cut, match=r"the shell is lost: .*shell was not found"):
            shell.exchange(b"one\n", 5)


def test_a_program_that_ends_is_reported_in_its_own_words(hall: Hall) -> None:
    with hall.shell() as shell, pytest.raises(NotWindows, match=r"ended with exit code 7: Access is denied\.$"):
        shell.exchange(b"die\n", 5)


def test_a_flood_is_bounded(hall: Hall) -> None:
    with hall.shell() as shell, pytest.raises(Refused, match="answers with more than 16 MiB"):
        shell.exchange(b"flood\n", 20)


def test_a_missing_sdk_is_named_with_its_extra(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExtraMissing, match=r"needs the extra `winrm`: pip install 'holdfast\[winrm\]'"), hall.shell():
        pass


def test_kerberos_that_is_not_installed_is_named(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gssapi" else found(name))
    said = {"auth": "kerberos", "password": None}
    with pytest.raises(ExtraMissing, match=r"pip install 'holdfast\[kerberos\]'"), hall.shell(**said):
        pass


def test_what_is_sent_is_in_no_log(hall: Hall, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with hall.shell() as shell:
        shell.exchange(b"hunter2\n", 5)
    assert not [one for one in caplog.records if one.name.startswith("pypsrp")]
    assert base64.b64encode(b"hunter2\n").decode() not in caplog.text


def test_no_error_bears_the_password(hall: Hall) -> None:
    errors: list[DriverError] = []
    for said in ({"host": "localhost"}, {"port": 1}):
        with pytest.raises(DriverError) as found, hall.shell(**said):
            pass
        errors.append(found.value)
    assert not [error for error in errors if wsman.PASSWORD in f"{error!r} {error.__cause__!r}"]
    assert SecretRef(reference="env:PASSWORD").reference not in str(errors)
