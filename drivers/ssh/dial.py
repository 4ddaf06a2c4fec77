"""One SSH connection: who we are, whom we believe, and what it means when it fails."""

from __future__ import annotations

import asyncio
import copy
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, Final, Literal

import asyncssh
from asyncssh.constants import MSG_IGNORE

from desired_state.secrets import SecretRef
from drivers.errors import DriverError, Refused, Unreachable
from drivers.ssh.connection import AGENT_VARIABLE, Hop, Secret, Ssh
from drivers.ssh.errors import NotAdmitted, Silent
from drivers.ssh.trust import Match, Trust, trust

Resolve = Callable[[SecretRef], Awaitable[str]]

MISSED: Final = 3  # signs of life that may fail to come before a connection counts as lost
CIPHERS: Final = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes256-ctr",
)  # the cheapest first, and none without authentication of its own but behind a MAC


async def dial(
    ssh: Ssh, resolve: Resolve, through: asyncssh.SSHClientConnection | None = None
) -> asyncssh.SSHClientConnection:
    """A connection that stands and is admitted, within the deadline, or a `DriverError`. `through` is the one to the
    last jump host, where there is any."""
    try:
        async with asyncio.timeout(ssh.connects_within):
            return await _connected(ssh, resolve, through)
    except TimeoutError:
        raise Silent(f"{ssh}: no connection within {ssh.connects_within:g} s") from None


async def _connected(
    ssh: Ssh, resolve: Resolve, through: asyncssh.SSHClientConnection | None
) -> asyncssh.SSHClientConnection:
    believed = await asyncio.to_thread(trust, ssh) if isinstance(ssh.known_hosts, str) else trust(ssh)
    witness = _Witness()
    async with _keys(ssh, resolve) as keys:
        options = _options(ssh, believed, keys, witness)
        line = None if through is not None else await _line(ssh)
        try:
            return await _admitted(options, line, through)
        except TimeoutError:
            raise
        except (asyncssh.Error, OSError, ValueError) as error:
            raise _translated(ssh, believed, witness, error) from None


async def _admitted(
    options: Any, line: socket.socket | None, through: asyncssh.SSHClientConnection | None
) -> asyncssh.SSHClientConnection:
    """What `asyncssh.connect` does, without a thread for each host that works all options out anew, twice."""
    loop = asyncio.get_running_loop()
    options.waiter = loop.create_future()
    made: Any = lambda: _Straight(loop, options, wait="auth")  # noqa: E731 - asyncssh takes a factory
    if through is None:
        _, connection = await loop.create_connection(made, sock=line)
    else:
        _, connection = await through.create_connection(made, options.host, options.port)
    connection.set_extra_info(host=options.host, port=options.port)
    try:
        await options.waiter
    except BaseException:
        connection.abort()
        await connection.wait_closed()
        raise
    return connection  # type: ignore[no-any-return]


class _Straight(asyncssh.SSHClientConnection):
    """Sends what is to be sent. asyncssh puts an empty packet before each one, which guards ciphers in CBC mode against
    guessed initialisation vectors; `CIPHERS` has none of them, and the packets would be half of all that are sent."""

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:
        if pkttype != MSG_IGNORE:
            super().send_packet(pkttype, *args, handler=handler)


async def _line(hop: Hop) -> socket.socket:
    """A TCP connection of our own, so that only a host that answers is given a key exchange."""
    loop = asyncio.get_running_loop()
    try:
        try:  # an address needs no resolver, and no thread for it
            flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            found = socket.getaddrinfo(hop.host, hop.port, type=socket.SOCK_STREAM, flags=flags)
        except socket.gaierror:
            found = await loop.getaddrinfo(hop.host, hop.port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        raise Unreachable(f"{hop}: the name of the host is not known here") from None
    refused: OSError | None = None
    for family, kind, protocol, _, address in found:
        line = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
        try:
            await loop.sock_connect(line, address)
            return line
        except OSError as error:
            line.close()
            refused = error
        except BaseException:
            line.close()
            raise
    raise _unreached(hop, refused or OSError("no address"))


def _options(ssh: Ssh, believed: Trust, keys: list[Any], witness: _Witness) -> Any:
    """All that is said to this host: what is said to many, and what is its own."""
    found = copy.copy(_said(ssh.user, tuple(believed.algorithms), ssh.connects_within, ssh.beats_every))
    found.host = found.orig_host = ssh.host
    found.port = ssh.port
    found.known_hosts = believed.asked
    found.protocol_factory = lambda: witness
    found.client_keys = asyncssh.load_keypairs(keys) if keys else None
    return found


@lru_cache(maxsize=64)
def _said(user: str, algorithms: tuple[str, ...], seconds: float, beats_every: float) -> Any:
    """Everything is said, so that nothing of whoever runs the daemon leaks in: no configuration file, no default key,
    no agent that was not named, no password, no forwarding. It vouches for no host and holds no key of ours."""
    return asyncssh.SSHClientConnectionOptions(
        config=None,
        username=user,
        known_hosts=_nobody,
        server_host_key_algs=list(algorithms),
        client_keys=None,
        agent_path=None,
        agent_forwarding=False,
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        public_key_auth=True,
        gss_host=None,
        x509_trusted_certs=None,
        preferred_auth=("publickey",),
        encryption_algs=CIPHERS,
        compression_algs=("none",),
        login_timeout=seconds,
        keepalive_interval=beats_every,
        keepalive_count_max=MISSED,
    )


def _nobody(host: str, address: str, port: int | None) -> Match:
    """Asked about no host: each connection brings its own."""
    return [], [], []


@asynccontextmanager
async def _keys(hop: Hop, resolve: Resolve) -> AsyncIterator[list[Any]]:
    """What we are admitted by, as asyncssh takes it: the key that is named, then those of the agent that is named,
    which is asked to sign for as long as this lasts."""
    keys = [] if hop.key is None else [await _key(hop, hop.key, resolve)]
    if hop.agent is None:
        yield keys
        return
    path = _agent(hop, hop.agent)
    try:
        agent = await asyncssh.connect_agent(path)
    except OSError as error:
        raise Refused(f"{hop}: the agent at {path} does not answer: {error.strerror}") from None
    async with agent:
        yield [*keys, *await agent.get_keys()]


async def _key(hop: Hop, named: Secret, resolve: Resolve) -> Any:
    text = await resolve(named.reference)
    passphrase = await resolve(hop.passphrase.reference) if hop.passphrase else None
    try:
        key = asyncssh.import_private_key(text, passphrase)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise Refused(f"{hop}: key {named.secret}: {error}") from None
    if hop.certificate is None:
        return key
    try:
        return key, asyncssh.import_certificate((await resolve(hop.certificate.reference)).strip())
    except asyncssh.KeyImportError as error:
        raise Refused(f"{hop}: certificate {hop.certificate.secret}: {error}") from None


def _agent(hop: Hop, named: Literal[True] | str) -> str:
    path = os.environ.get(AGENT_VARIABLE) if named is True else named
    if not path:
        raise Refused(f"{hop}: agent is true and {AGENT_VARIABLE} is not set where the daemon runs")
    return path


class _Witness(asyncssh.SSHClient):
    """Remembers which key a host showed that nothing vouches for. It never vouches for one itself."""

    def __init__(self) -> None:
        self.shown: asyncssh.SSHKey | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.shown = key
        return False

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.shown = key
        return False


def _translated(hop: Hop, believed: Trust, witness: _Witness, error: Exception) -> DriverError:
    match error:
        case asyncssh.HostKeyNotVerifiable():
            return believed.broken(witness.shown, str(error.reason))
        case asyncssh.PermissionDenied():
            offered = "the agent's keys" if hop.key is None else f"the key {hop.key.secret}"
            return NotAdmitted(f"{hop}: the host does not take {offered}")
        case asyncssh.KeyExchangeFailed():
            return Refused(f"{hop}: {error.reason}")
        case asyncssh.ChannelOpenError():
            return Unreachable(f"{hop}: the jump host does not get there: {error.reason}")
        case asyncssh.ConnectionLost() | asyncssh.DisconnectError():
            return Unreachable(f"{hop}: the host ended the connection: {error.reason}")
        case OSError():
            return _unreached(hop, error)
        case _:
            return Refused(f"{hop}: {type(error).__name__}: {error}")


def _unreached(hop: Hop, error: OSError) -> DriverError:
    if isinstance(error, ConnectionRefusedError):
        return Unreachable(f"{hop}: the connection is refused")
    return Unreachable(f"{hop}: {error.strerror or error}")
