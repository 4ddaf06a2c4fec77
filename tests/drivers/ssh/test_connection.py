"""What a document may say of a host that is reached over SSH."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from drivers.ssh.connection import Reach, Ssh

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH"
PLAIN = {"via": "ssh", "host": "web-1", "user": "deploy", "key": {"secret": "file:/keys/id"}, "known_hosts": [KEY]}

HOP = {"host": "gate", "user": "jump", "agent": True, "known_hosts": "/etc/ssh/ssh_known_hosts"}


def said(**more: Any) -> dict[str, Any]:
    return {name: value for name, value in (PLAIN | more).items() if value is not None}


def test_a_host_is_said_in_one_flat_map() -> None:
    ssh = Reach.model_validate(said()).ssh
    assert ssh is not None
    assert (ssh.host, ssh.port, ssh.user, ssh.connects_within) == ("web-1", 22, "deploy", 10.0)


def test_this_machine_is_reached_by_nothing() -> None:
    assert Reach.model_validate({}).ssh is None


def test_what_was_read_is_read_again_from_what_is_kept_of_it() -> None:
    read = Reach.model_validate(said(jump=[HOP], port=2222))
    kept = read.model_dump(mode="json", exclude_defaults=True)
    assert Reach.model_validate(kept) == read


def test_equal_hosts_are_one() -> None:
    assert len({Reach.model_validate(said()).ssh, Reach.model_validate(said(port=22)).ssh}) == 1


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"host": None}, "host"),
        ({"user": None}, "user"),
        ({"key": None}, "key or agent"),
        ({"known_hosts": None}, "known_hosts or host_ca"),
        ({"known_hosts": []}, "known_hosts"),
        ({"known_hosts": "none"}, "known_hosts"),
        ({"known_hosts": False}, "known_hosts"),
        ({"host_ca": []}, "host_ca"),
        ({"host_ca": ["*"]}, "host_ca"),
        ({"host": "-oProxyCommand=x"}, "host"),
        ({"user": "-l"}, "user"),
        ({"user": "a b"}, "user"),
        ({"password": "x"}, "password"),
        ({"port": 0}, "port"),
        ({"certificate": {"secret": "file:/c"}, "key": None, "agent": True}, "certificate"),
        ({"connect_timeout": "soon"}, "connect_timeout"),
        ({"via": "local"}, "host is for via: ssh only"),
        ({"strict_host_key_checking": False}, "strict_host_key_checking"),
    ],
)
def test_what_is_wrong_is_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Reach.model_validate(said(**wrong))
    assert named in str(caught.value)


def test_no_field_turns_the_check_of_the_host_off() -> None:
    """A jump host is checked like any other, too."""
    hop = {"host": "gate", "user": "jump", "agent": True}
    with pytest.raises(ValidationError, match="known_hosts or host_ca"):
        Reach.model_validate(said(jump=[hop]))
    with pytest.raises(ValidationError, match="known_hosts or host_ca"):
        Ssh(host="web-1", user="deploy", agent=True)


def test_the_model_needs_no_sdk() -> None:
    code = "import sys, drivers.ssh.connection; sys.exit('asyncssh' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_is_wrong_is_said_in_our_own_words() -> None:
    with pytest.raises(ValidationError) as wrong:
        Reach.model_validate(said(key=None))
    assert str(wrong.value.errors()[0]["ctx"]["error"]) == "key or agent is needed: passwords are not sent"
