"""Which key a host must show: what `known_hosts` and `host_ca` say of it, and what is said when it shows another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncssh
from asyncssh.public_key import get_default_certificate_algs, get_default_public_key_algs

from drivers.errors import DriverError, Refused
from drivers.ssh.connection import Hop
from drivers.ssh.errors import HostKeyChanged, HostUnknown

LARGEST: Final = 16 << 20  # bytes of a known_hosts file

Match = tuple[Sequence[Any], ...]  # as asyncssh words it: host keys, authorities, revoked keys, and those of X.509


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What vouches for one host. `hosts` is asked by the host's name alone: an address that another name once had
    vouches for nothing."""

    hop: Hop
    hosts: asyncssh.SSHKnownHosts

    @property
    def match(self) -> Match:
        port = self.hop.port if self.hop.port != 22 else None
        return self.hosts.match(self.hop.host, "", port)

    @property
    def asked(self) -> Callable[[str, str, int | None], Match]:
        """For asyncssh, which checks nothing at all where it is given None: this is never None and never empty."""
        found = self.match
        return lambda host, address, port: found

    @property
    def algorithms(self) -> list[str]:
        """Those of the keys it is known by first, and then all others, so that a host that shows another kind of key
        is told apart by that key."""
        keys, authorities, *_ = self.match
        known = [name for key in keys for name in key.sig_algorithms]
        certified = get_default_certificate_algs() if authorities else []
        names = [*certified, *known, *get_default_public_key_algs()]
        return [name.decode() for name in dict.fromkeys(names)]

    def broken(self, shown: asyncssh.SSHKey | None, reason: str) -> DriverError:
        """Why the host is not spoken to."""
        keys, authorities, revoked, *_ = self.match
        found = "nothing that can be read" if shown is None else fingerprint(shown)
        if "revoked" in reason:
            known = " or ".join(fingerprint(key) for key in revoked)
            return HostKeyChanged(f"{self.hop}: the host shows a key that is revoked, one of {known}")
        if keys:
            expected = " or ".join(fingerprint(key) for key in keys)
            return HostKeyChanged(f"{self.hop}: the host key has changed: expected {expected}, found {found}")
        if authorities:
            expected = " or ".join(fingerprint(key) for key in authorities)
            return HostKeyChanged(
                f"{self.hop}: no certificate of {expected} vouches for this host: found {found} ({reason})"
            )
        return HostUnknown(f"{self.hop}: nothing in known_hosts or host_ca is about this host: found {found}")


def trust(hop: Hop) -> Trust:
    """Blocking. A file is read anew for every connection, so that a corrected one counts at once."""
    lines = [f"@cert-authority * {key}" for key in hop.host_ca or ()]
    if isinstance(hop.known_hosts, str):
        lines += _read(hop.known_hosts).splitlines()
    else:
        lines += [_of_host(hop, line) for line in hop.known_hosts or ()]
    try:
        return Trust(hop=hop, hosts=asyncssh.import_known_hosts("\n".join(lines)))
    except ValueError as error:
        raise Refused(f"{hop}: known_hosts: {error}") from None


def _read(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise Refused(f"known_hosts {path} cannot be read: {error.strerror}") from None
    if len(content) > LARGEST:
        raise Refused(f"known_hosts {path} is larger than {LARGEST >> 20} MiB")
    return content.decode(errors="replace")


def _of_host(hop: Hop, line: str) -> str:
    """A public key alone is this host's."""
    first = line.split(None, 1)[0]
    alone = not first.startswith("@") and "," not in first and first.startswith(("ssh-", "ecdsa-", "sk-"))
    if not alone:
        return line
    name = hop.host if hop.port == 22 else f"[{hop.host}]:{hop.port}"
    return f"{name} {line}"


def fingerprint(key: asyncssh.SSHKey) -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"
