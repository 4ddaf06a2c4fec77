"""What a document may say of a Windows host, and what it is told when that does not fit."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from drivers import registry
from drivers.windows.connection import Connection

SAID: dict[str, Any] = {
    "host": "win-1",
    "user": r"CORP\deployer",
    "password": {"secret": "env:PASSWORD"},
    "root": r"C:\holdfast\web",
}
CERTIFICATE = {"certificate": {"secret": "file:/etc/cert.pem"}, "key": {"secret": "file:/etc/key.pem"}}


def test_winrm_is_the_way_where_none_is_said() -> None:
    found = Connection.model_validate(SAID)
    assert found.ssh is None
    assert found.winrm is not None
    assert (found.winrm.port, found.winrm.auth, str(found.winrm)) == (5986, "ntlm", r"winrm CORP\deployer@win-1")


def test_equal_hosts_share_what_is_kept() -> None:
    one, two = Connection.model_validate(SAID), Connection.model_validate(SAID | {"root": r"D:\other"})
    assert one.winrm == two.winrm
    assert hash(one.winrm) == hash(two.winrm)


def test_ssh_is_the_other_way() -> None:
    said = {"via": "ssh", "host": "win-1", "user": "deployer", "agent": True, "root": r"C:\holdfast"}
    found = Connection.model_validate(said | {"known_hosts": "/etc/ssh/known_hosts"})
    assert found.winrm is None
    assert str(found.ssh) == "deployer@win-1"


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"password": None}, "user and password are needed for auth: ntlm"),
        ({"host": None}, "host is needed for via: winrm"),
        ({"auth": "basic"}, "Input should be 'ntlm', 'kerberos' or 'certificate'"),
        ({"auth": "certificate"}, "certificate and key are needed for auth: certificate"),
        (CERTIFICATE, "certificate and key are for auth: certificate only"),
        ({"auth": "certificate", **CERTIFICATE}, "password and message_encryption are not for auth: certificate"),
        ({"known_hosts": "/etc/hosts"}, "known_hosts is not for via: winrm"),
        ({"via": "ssh"}, "password is not for via: ssh"),
        ({"via": "local", "host": None, "user": None, "password": None}, "Windows is always another machine"),
        ({"root": "/srv/web"}, "expected a directory below a drive"),
        ({"root": "C:\\a\\..\\b"}, "expected a directory below a drive"),
        ({"verify": False}, "Extra inputs are not permitted"),
        ({"user": "a\nb"}, "expected an account"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Connection.model_validate({name: value for name, value in (SAID | said).items() if value is not None})
    assert sentence in str(refused.value)


def test_nothing_of_the_sdk_is_imported_before_a_host_is_spoken_to() -> None:
    script = (
        "import sys; from drivers.windows.driver import WindowsDriver; import drivers.windows.connection;"
        "sys.exit(str([name for name in ('pypsrp', 'requests', 'spnego', 'asyncssh') if name in sys.modules] or ''))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.stderr == "\n", ran.stderr


@pytest.mark.parametrize("kind", ["docker", "process", "systemd"])
def test_what_does_not_run_over_winrm_says_what_does(kind: str) -> None:
    model = registry.connection_model(kind)
    with pytest.raises(ValidationError, match="Windows behind WinRM is for the drivers windows and script"):
        model.model_validate({"via": "winrm", "host": "win-1", "root": "/srv"})
