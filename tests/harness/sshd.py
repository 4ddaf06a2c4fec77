"""Real SSH servers on loopback, each with a host key, a configuration and a port of its own, ended by process id; and a
line in front of one that a test can cut, hold up or refuse."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

START = 20.0  # seconds
PRIVILEGES = Path("/run/sshd")  # where a root's sshd wants to lock its unprivileged half


class NoSshd(RuntimeError):
    """Why no SSH server can be had here."""


def program() -> str:
    found = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise NoSshd("there is no sshd on this machine: Debian's package is openssh-server")
    if os.geteuid() == 0:
        PRIVILEGES.mkdir(mode=0o755, exist_ok=True)
    return found


class Sshd:
    """One server, by itself one host. `said` goes into the configuration before everything else."""

    def __init__(self, directory: Path, *said: str, address: str = "127.0.0.1", port: int | None = None) -> None:
        self.directory, self.address, self.said = directory, address, said
        self.user = getpass.getuser()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.port = port or free_port(address)
        self.process: subprocess.Popen[bytes] | None = None

    # -- how it is reached -------------------------------------------------------------------------------------------

    @property
    def key_file(self) -> Path:
        return self.directory / "client"

    @property
    def public(self) -> str:
        return self.host_key.export_public_key().decode().strip()

    def connection(self, **said: Any) -> dict[str, Any]:
        """As a target's document would say it."""
        plain = {
            "via": "ssh",
            "host": self.address,
            "port": self.port,
            "user": self.user,
            "key": {"secret": f"file:{self.key_file}"},
            "known_hosts": [self.public],
        }
        return {name: value for name, value in {**plain, **said}.items() if value is not None}

    # -- its life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        configuration = self._written()
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [program(), "-D", "-e", "-f", str(configuration)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until = time.monotonic() + START
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise NoSshd(f"sshd does not start: {(self.directory / 'log').read_text()[-400:]}")
            time.sleep(0.02)

    def _written(self) -> Path:
        self._file("host", self.host_key.export_private_key())
        self._file("client", self.key.export_private_key())
        self._file("authorized", self.key.export_public_key())
        lines = (
            *self.said,
            f"ListenAddress {self.address}:{self.port}",
            f"HostKey {self.directory}/host",
            f"AuthorizedKeysFile {self.directory}/authorized",
            "PidFile none",
            "UsePAM no",
            "StrictModes no",
            "PermitRootLogin yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "MaxStartups 1000",
            "PrintMotd no",
            "UseDNS no",
            # what a person has set up for a shell of their own is neither waited for nor relied upon
            f"SetEnv HOME={self.directory} PATH={Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        )
        configuration = self.directory / "sshd_config"
        configuration.write_text("\n".join(lines) + "\n")
        return configuration

    def _file(self, name: str, content: bytes) -> None:
        path = self.directory / name
        path.write_bytes(content)
        path.chmod(0o600)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.address, self.port)) == 0

    def sessions(self) -> list[int]:
        """The processes that serve connections now, and all that runs in them."""
        return [] if self.process is None else descendants(self.process.pid)

    def kill_sessions(self) -> None:
        """As a network that is gone does, or an operator: connections end, and the server goes on."""
        for pid in reversed(self.sessions()):  # the unprivileged half first, which its monitor reaps
            if _is_sshd(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """The server and everybody's connection to it. What runs on the host sees the end of its input."""
        if self.process is None:
            return
        os.kill(self.process.pid, signal.SIGSTOP)  # takes nobody new meanwhile
        self.kill_sessions()
        os.kill(self.process.pid, signal.SIGCONT)
        until = time.monotonic() + 2
        while any(map(_is_sshd, self.sessions())) and time.monotonic() < until:
            time.sleep(0.01)  # it reaps those it has started; nobody else would
        self.process.kill()
        self.process.wait()
        self.process = None

    def change_host_key(self) -> None:
        self.stop()
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.start()


def _is_sshd(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip().startswith("sshd")
    return False


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b") ")[2].split()
            children.setdefault(int(fields[1]), []).append(int(name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running_sshd(*said: str, address: str = "127.0.0.1") -> Iterator[Sshd]:
    """A server for the length of the block, and nothing left of it."""
    directory = Path(tempfile.mkdtemp(prefix="hf-sshd-"))
    server = Sshd(directory, *said, address=address)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def sshd_or_skip(*said: str) -> contextlib.AbstractContextManager[Sshd]:
    try:
        program()
    except NoSshd as error:
        pytest.skip(str(error))
    return running_sshd(*said)


class Relay:
    """A line to a server: `cut` resets all that goes over it, `hold` lets nothing through, `shut` takes no more."""

    def __init__(self, server: Sshd) -> None:
        self.server = server
        self.passed = 0  # bytes towards the server
        self.cut_after: int | None = None
        self.taken = 0  # connections
        self._open: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._listener: asyncio.Server | None = None
        self.port = 0

    def connection(self, **said: Any) -> dict[str, Any]:
        return self.server.connection(**{"port": self.port, **said})

    def cut(self) -> None:
        for writer in list(self._open):
            line = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def hold(self) -> None:
        self._flows.clear()

    def let_through(self) -> None:
        self._flows.set()

    async def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        try:
            there, back = await asyncio.open_connection(self.server.address, self.server.port)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, back}
        self._open |= ends
        try:
            await asyncio.gather(self._pump(reader, back, counted=True), self._pump(there, writer, counted=False))
        except OSError:
            pass
        finally:
            self._open -= ends
            for end in ends:
                end.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, counted: bool) -> None:
        while piece := await source.read(1 << 16):
            await self._flows.wait()
            if counted:
                self.passed += len(piece)
                if self.cut_after is not None and self.passed >= self.cut_after:
                    self.cut_after = None
                    self.cut()
                    return
            sink.write(piece)
            await sink.drain()
        sink.close()

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[Relay]:
        self._listener = await asyncio.start_server(self._taken, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self._listener.close()
            self.let_through()
            self.cut()
            await asyncio.sleep(0)


def relayed(server: Sshd) -> contextlib.AbstractAsyncContextManager[Relay]:
    return Relay(server)._listening()


if __name__ == "__main__":
    with running_sshd(*sys.argv[1:]) as started:
        print(started.connection(), flush=True)
        signal.pause()
