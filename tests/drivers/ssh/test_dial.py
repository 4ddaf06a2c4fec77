"""Whom we believe and who believes us, on real servers."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.constants import MSG_DEBUG
from asyncssh.packet import String

from drivers.errors import Refused, Unreachable
from drivers.ssh.dial import CIPHERS, _said
from drivers.ssh.errors import HostKeyChanged, HostUnknown, NotAdmitted, Silent
from drivers.ssh.pool import Kept
from drivers.ssh.transport import Host
from tests.harness.sshd import Sshd, free_port, relayed, sshd_or_skip

Keep = Callable[..., Kept]


OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH"


def ways(server: Sshd) -> list[list[str]]:
    """The same trust in other words, which is another host to a pool."""
    return [[server.public], [f"[{server.address}]:{server.port} {server.public}"]]


def fingerprint(key: asyncssh.SSHKey) -> str:
    return f"ssh-ed25519 {key.get_fingerprint()}"


async def test_a_pinned_host_is_believed(standing: Sshd, kept: Keep) -> None:
    assert not (await kept(standing.connection()).connection()).is_closed()


async def test_a_changed_host_key_is_an_error_of_its_own_and_names_both_fingerprints(
    standing: Sshd, kept: Keep
) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519")
    pinned = other.export_public_key().decode().strip()
    with pytest.raises(HostKeyChanged) as caught:
        await kept(standing.connection(known_hosts=[pinned])).connection()
    assert caught.value.code == "HOST_KEY_CHANGED"
    for said in (f"127.0.0.1:{standing.port}", fingerprint(other), fingerprint(standing.host_key)):
        assert said in str(caught.value)


async def test_a_host_that_shows_a_key_of_another_kind_is_told_by_that_key(standing: Sshd, kept: Keep) -> None:
    pinned = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_public_key().decode().strip()
    with pytest.raises(HostKeyChanged, match=fingerprint(standing.host_key).replace("+", r"\+")):
        await kept(standing.connection(known_hosts=[pinned])).connection()


async def test_two_hosts_alike_in_all_else_are_each_believed_by_their_own_key(standing: Sshd, kept: Keep) -> None:
    """What is said to many hosts is worked out once, and none of it is whom to believe."""
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    believed = kept(standing.connection())
    assert not (await believed.connection()).is_closed()
    for _ in range(2):
        with pytest.raises(HostKeyChanged):
            await kept(standing.connection(known_hosts=[other], command_timeout="29s")).connection()
    assert not (await kept(standing.connection(command_timeout="28s")).connection()).is_closed()


async def test_what_is_shared_between_hosts_vouches_for_none_and_holds_no_key() -> None:
    shared = _said("deploy", ("ssh-ed25519",), 10.0, 15.0)
    assert shared is _said("deploy", ("ssh-ed25519",), 10.0, 15.0)
    assert shared.known_hosts("host", "10.0.0.1", None) == ([], [], [])
    assert not shared.client_keys


async def test_a_request_is_one_packet_and_no_cipher_would_need_another(standing: Sshd, kept: Keep) -> None:
    assert not [cipher for cipher in CIPHERS if "cbc" in cipher]
    host = kept(standing.connection())
    connection: Any = await host.connection()
    before = connection._send_seq
    connection.send_packet(MSG_DEBUG, b"\0", String(""), String(""))
    assert connection._send_seq == before + 1


async def test_a_host_that_nothing_is_known_of_is_not_spoken_to(
    standing: Sshd, kept: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where the file of whoever runs the daemon knows it."""
    home = tmp_path / "home/.ssh"
    home.mkdir(parents=True)
    (home / "known_hosts").write_text(f"[127.0.0.1]:{standing.port} {standing.public}\n")
    monkeypatch.setenv("HOME", str(home.parent))
    (tmp_path / "known").write_text("")
    with pytest.raises(HostUnknown, match="nothing in known_hosts"):
        await kept(standing.connection(known_hosts=str(tmp_path / "known"))).connection()


async def test_the_key_of_another_name_vouches_for_nothing(standing: Sshd, kept: Keep) -> None:
    """localhost is 127.0.0.1, and yet nobody said so."""
    lines = [f"[127.0.0.1]:{standing.port} {standing.public}"]
    with pytest.raises(HostUnknown):
        await kept(standing.connection(host="localhost", known_hosts=lines)).connection()


async def test_a_revoked_host_key_is_refused(standing: Sshd, kept: Keep) -> None:
    lines = [standing.public, f"@revoked * {standing.public}"]
    with pytest.raises(HostKeyChanged, match="revoked"):
        await kept(standing.connection(known_hosts=lines)).connection()


async def test_known_hosts_may_be_a_file(standing: Sshd, kept: Keep, tmp_path: Path) -> None:
    file = tmp_path / "known"
    file.write_text(f"# ours\n[127.0.0.1]:{standing.port} {standing.public}\n")
    await kept(standing.connection(known_hosts=str(file))).connection()


async def test_a_file_that_is_not_there_is_named(standing: Sshd, kept: Keep) -> None:
    with pytest.raises(Refused, match="/no/such/file cannot be read"):
        await kept(standing.connection(known_hosts="/no/such/file")).connection()


async def test_an_authority_vouches_for_the_hosts_it_has_certified(kept: Keep, tmp_path: Path) -> None:
    authority = asyncssh.generate_private_key("ssh-ed25519")
    vouches = authority.export_public_key().decode().strip()
    certificate = tmp_path / "host-cert.pub"
    certificate.write_text("")
    with sshd_or_skip(f"HostCertificate {certificate}") as server:
        server.stop()
        made = authority.generate_host_certificate(server.host_key, "host", principals=["127.0.0.1"])
        certificate.write_bytes(made.export_certificate())
        server.start()
        await kept(server.connection(known_hosts=None, host_ca=[vouches])).connection()
        with pytest.raises(HostKeyChanged, match="vouches for this host"):
            await kept(server.connection(host="localhost", known_hosts=None, host_ca=[vouches])).connection()
        other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
        with pytest.raises(HostKeyChanged, match="vouches for this host"):
            await kept(server.connection(known_hosts=None, host_ca=[other])).connection()


async def test_a_key_that_the_host_does_not_take_is_an_error_of_its_own(
    standing: Sshd, kept: Keep, tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger"
    stranger.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    with pytest.raises(NotAdmitted, match=f"the key file:{stranger}"):
        await kept(standing.connection(key={"secret": f"file:{stranger}"})).connection()


async def test_an_encrypted_key_needs_its_passphrase(standing: Sshd, kept: Keep, tmp_path: Path) -> None:
    locked, word = tmp_path / "locked", tmp_path / "word"
    locked.write_bytes(standing.key.export_private_key("pkcs8-pem", passphrase="open sesame"))
    word.write_text("open sesame")
    key = {"secret": f"file:{locked}"}
    with pytest.raises(Refused, match=f"key file:{locked}"):
        await kept(standing.connection(key=key)).connection()
    await kept(standing.connection(key=key, passphrase={"secret": f"file:{word}"})).connection()


async def test_a_certificate_is_shown_with_its_key(kept: Keep, tmp_path: Path) -> None:
    authority, ours = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    (tmp_path / "authority.pub").write_bytes(authority.export_public_key())
    (tmp_path / "ours").write_bytes(ours.export_private_key())
    with sshd_or_skip(f"TrustedUserCAKeys {tmp_path}/authority.pub") as server:
        made = authority.generate_user_certificate(ours, "us", principals=[server.user])
        (tmp_path / "ours-cert.pub").write_bytes(made.export_certificate())
        key = {"secret": f"file:{tmp_path}/ours"}
        with pytest.raises(NotAdmitted):
            await kept(server.connection(key=key)).connection()
        await kept(server.connection(key=key, certificate={"secret": f"file:{tmp_path}/ours-cert.pub"})).connection()


@pytest.fixture
def agent(standing: Sshd, tmp_path: Path) -> Iterator[Path]:
    """The socket of an agent that holds the server's client key."""
    if shutil.which("ssh-agent") is None:
        pytest.skip("there is no ssh-agent on this machine")
    ear = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(ear)], stdout=subprocess.DEVNULL)
    try:
        while not ear.exists():
            assert process.poll() is None
        environment = os.environ | {"SSH_AUTH_SOCK": str(ear)}
        subprocess.run(["ssh-add", "-q", str(standing.key_file)], env=environment, check=True)
        yield ear
    finally:
        process.terminate()
        process.wait()


async def test_an_agent_is_asked_only_where_it_is_named(
    standing: Sshd, kept: Keep, agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kept(standing.connection(key=None, agent=str(agent))).connection()
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
    await kept(standing.connection(key=None, agent=True)).connection()
    stranger = tmp_path / "stranger"
    stranger.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    with pytest.raises(NotAdmitted):
        await kept(standing.connection(key={"secret": f"file:{stranger}"})).connection()


def hop_of(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != "via"}


async def test_a_host_is_reached_through_others_each_with_its_own_trust(
    standing: Sshd, server: Sshd, kept: Keep
) -> None:
    through = kept(standing.connection(jump=[hop_of(server.connection())]))
    assert (await Host(through).run(["echo", "there"])).stdout == b"there\n"
    assert server.sessions()
    server.change_host_key()
    with pytest.raises(HostKeyChanged, match=f":{server.port}"):
        await kept(standing.connection(jump=[hop_of(server.connection(known_hosts=[OTHER]))])).connection()


async def test_all_hosts_behind_a_gate_share_its_connection(standing: Sshd, server: Sshd, kept: Keep) -> None:
    async with relayed(server) as line:
        gate = hop_of(line.connection(idle=None))
        behind = [kept(standing.connection(jump=[gate], idle="200ms", known_hosts=known)) for known in ways(standing)]
        await asyncio.gather(*(one.connection() for one in behind))
        assert line.taken == 1
        with behind[0].used():
            await asyncio.sleep(0.5)
            assert behind[0].stands, "a gate is in use while anybody is behind it"
        assert not behind[1].stands
        line.cut()
        await asyncio.sleep(0.1)
        assert (await Host(behind[0]).run(["echo", "again"])).stdout == b"again\n"


async def test_a_refused_connection_is_unreachable(standing: Sshd, kept: Keep) -> None:
    with pytest.raises(Unreachable, match="the connection is refused"):
        await kept(standing.connection(port=free_port())).connection()


async def test_a_name_that_nobody_knows_is_unreachable(standing: Sshd, kept: Keep) -> None:
    with pytest.raises(Unreachable, match="the name of the host is not known here"):
        await kept(standing.connection(host="no-such-host.invalid")).connection()


async def test_what_is_no_ssh_server_is_unreachable(standing: Sshd, kept: Keep) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        document = standing.connection(port=listener.getsockname()[1], connect_timeout="200ms")
        with pytest.raises(Silent, match=r"no connection within 0\.2 s"):
            await kept(document).connection()
