"""WinRM by Kerberos: a realm of our own, tickets by password or from a cache, and what it means to have none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from drivers.errors import Unreachable
from drivers.winrm import kerberos
from drivers.winrm.connection import WinRm
from drivers.winrm.errors import NotAdmitted
from tests.drivers.winrm.test_shell import Hall
from tests.harness import kdc, wsman

WHO, SECRET = f"deployer@{kdc.REALM}", "a password of the realm"


@pytest.fixture(scope="module")
def realm() -> Iterator[kdc.Realm]:
    if (lacks := kdc.lacking()) is not None:
        pytest.skip(f"no Kerberos here: {lacks}")
    with kdc.running() as realm:
        realm.add("deployer", SECRET)
        realm.add_server("host/127.0.0.1")
        yield realm


@pytest.fixture
def hall(realm: kdc.Realm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hall]:
    for name, value in realm.environment.items():
        monkeypatch.setenv(name, value)
    hall = Hall()
    with wsman.running(hall.start) as server:
        hall.server, server.speaks = server, "kerberos"
        yield hall
    realm.sign_out()


def by_password(**said: Any) -> dict[str, Any]:
    return {"auth": "kerberos", "user": WHO, "secrets": {"password": SECRET}} | said


def by_ticket(**said: Any) -> dict[str, Any]:
    return {"auth": "kerberos", "user": None, "password": None, "secrets": {}} | said


def test_a_password_brings_a_ticket_and_leaves_none_behind(hall: Hall, realm: kdc.Realm) -> None:
    with hall.shell(**by_password()) as shell:
        assert shell.exchange(b"one\n", 5) == b"heard one"
    assert hall.server.clients == [WHO]
    assert not (realm.directory / "tickets").exists()


def test_the_ticket_of_whoever_runs_the_daemon_admits_without_a_password(hall: Hall, realm: kdc.Realm) -> None:
    realm.sign_in("deployer", SECRET)
    with hall.shell(**by_ticket()) as shell:
        assert shell.exchange(b"one\n", 5) == b"heard one"
    assert hall.server.clients == [WHO]


def test_a_key_file_of_the_daemons_admits_without_anybody_signing_in(hall: Hall, realm: kdc.Realm) -> None:
    realm.hand_key("deployer")
    with hall.shell(**by_ticket()) as shell:
        assert shell.exchange(b"one\n", 5) == b"heard one"
    assert hall.server.clients == [WHO]


def test_messages_are_sealed_within_tls_where_that_is_asked(hall: Hall) -> None:
    with hall.shell(**by_password(message_encryption=True)) as shell:
        assert shell.exchange(b"one\n", 5) == b"heard one"
    assert hall.server.sealed >= 6


def test_a_ticket_is_bound_to_the_tls_channel(hall: Hall) -> None:
    hall.server.binds_to = b"another channel"
    with pytest.raises(NotAdmitted), hall.shell(**by_password()):
        pass
    assert not hall.programs


def test_without_a_ticket_and_a_password_nobody_is_admitted(hall: Hall) -> None:
    with pytest.raises(NotAdmitted, match="auth: kerberos"), hall.shell(**by_ticket()):
        pass


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({"secrets": {"password": "wrong"}}, "the password is wrong"),
        ({"user": f"nobody@{kdc.REALM}"}, "the realm does not know the user"),
    ],
)
def test_who_the_realm_does_not_know_is_not_admitted(hall: Hall, said: dict[str, Any], meant: str) -> None:
    with pytest.raises(NotAdmitted, match=f"auth: kerberos: {meant}") as refused, hall.shell(**by_password(**said)):
        pass
    assert SECRET not in repr(refused.value)
    assert not hall.programs


def test_a_host_that_the_realm_does_not_know_is_not_spoken_to(hall: Hall, realm: kdc.Realm) -> None:
    realm.forget("host/127.0.0.1")
    try:
        with (
            pytest.raises(NotAdmitted, match="the realm does not know the host by this name"),
            hall.shell(**by_password()),
        ):
            pass
    finally:
        realm.add_server("host/127.0.0.1")
    assert not hall.programs


@pytest.mark.parametrize("signed_in", [False, True], ids=["by password", "by ticket"])
def test_a_realm_that_does_not_answer_leaves_the_host_unreachable_in_time(
    hall: Hall, realm: kdc.Realm, signed_in: bool
) -> None:
    if signed_in:
        realm.sign_in("deployer", SECRET)
    realm.stop()
    try:
        began = time.monotonic()
        with pytest.raises(Unreachable) as lost, hall.shell(**(by_ticket() if signed_in else by_password())):
            pass
        assert "no KDC of its realm answers" in str(lost.value)
        assert time.monotonic() - began < 10
    finally:
        realm.start()


def test_a_host_that_speaks_ntlm_alone_is_not_given_a_ticket(hall: Hall) -> None:
    hall.server.offers = "NTLM"
    with pytest.raises(NotAdmitted, match="it does not take auth: kerberos"), hall.shell(**by_password()):
        pass


# -- what the numbers mean, without a realm ----------------------------------------------------------------------------


class OfKrb5(Exception):
    err_code = -1765328353


class OfGssApi(Exception):
    """Whose number has lost its sign, wrapped as pyspnego does it."""

    base_error: Exception | None = None
    min_code = (1 << 32) - 1765328228


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (OfKrb5("Decrypt integrity check failed -1765328353"), NotAdmitted, "wrong: Decrypt integrity check failed"),
        (
            OfGssApi("Major (851968): Unspecified.  Minor (2529639068): Cannot contact"),
            Unreachable,
            "answers: Cannot contact",
        ),
    ],
)
def test_errors_are_told_by_their_numbers(error: Exception, kind: type[Exception], sentence: str) -> None:
    said = WinRm(host="win-1", auth="kerberos")
    wrapped = OfGssApi("SpnegoError")
    wrapped.base_error = error
    for one in (error, wrapped):
        found = kerberos.translated(said, one)
        assert type(found) is kind
        assert str(found).endswith(sentence)
    assert kerberos.translated(said, RuntimeError("another")) is None
