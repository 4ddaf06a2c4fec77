"""A private Docker engine: its own sockets, directories, bridge and address pool; ended with all that it started.

It writes no packet filter rules and moves no setting of the host, so it stands beside another engine without
disturbing it. Published ports are served by the engine's own proxy processes.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

GIVEN = "HOLDFAST_TEST_ENGINE"
START = 30.0  # seconds
STOP = 20.0


class NoEngine(RuntimeError):
    """Why no engine can be had here."""


class Engine:
    """An engine on directories of its own. `str` is its address as a target's connection takes it."""

    def __init__(self, directory: Path, bridge: str, pool: str, flags: Sequence[str]) -> None:
        self.directory, self.address = directory, f"unix://{directory}/docker.sock"
        self._argv = _argv(directory, self.address, bridge, pool, flags)
        self._daemon: subprocess.Popen[bytes] | None = None

    def __str__(self) -> str:
        return self.address

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def start(self) -> None:
        """To be called by a thread that lives as long as the tests do: the engine ends with it."""
        libc = ctypes.CDLL(None)
        with open(self.directory / "log", "ab") as log:
            self._daemon = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: libc.prctl(1, signal.SIGTERM),  # no engine outlives the tests that started it
            )
        deadline = time.monotonic() + START
        while time.monotonic() < deadline and self._daemon.poll() is None:
            if _answers(self.address):
                return
            time.sleep(0.05)
        raise NoEngine("dockerd did not answer: " + self.log[-400:])

    def send(self, number: signal.Signals) -> None:
        """A signal to the daemon: SIGSTOP makes it hang, SIGKILL is a crash."""
        assert self._daemon is not None
        self._daemon.send_signal(number)
        while number == signal.SIGSTOP and not _is_stopped(self._daemon.pid):
            time.sleep(0.001)  # on a busy machine its threads still answer for a moment

    def configure(self, settings: Mapping[str, object]) -> None:
        """As the daemon's file has them when it is started next."""
        (self.directory / "daemon.json").write_text(json.dumps(settings))

    @property
    def pid(self) -> int:
        assert self._daemon is not None
        return self._daemon.pid

    @property
    def runs(self) -> bool:
        return self._daemon is not None and self._daemon.poll() is None

    def crash(self) -> None:
        """Killed, if nobody has done so already: the daemon alone, and whatever dies of that."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon = None

    def stop(self) -> None:
        if self._daemon is None:
            return
        self._daemon.send_signal(signal.SIGCONT)
        self._daemon.terminate()
        try:
            self._daemon.wait(STOP)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()
        self._daemon = None

    def restart(self) -> None:
        """Stop and start the daemon on the same directories, as an upgrade or a reboot of the host would."""
        self.stop()
        self.start()


@contextlib.contextmanager
def running_engine(*flags: str) -> Iterator[Engine]:
    """An engine of our own; `NoEngine` says why there cannot be one."""
    missing = [program for program in ("dockerd", "containerd", "runc", "ip", "iptables") if not _which(program)]
    if missing or os.geteuid() != 0:
        raise NoEngine(f"needs root and {', '.join(missing) or 'nothing else'}")
    directory = Path(tempfile.mkdtemp(prefix="holdfast-engine-"))
    with _bridge(directory.name[-8:]) as (bridge, pool):
        engine = Engine(directory, bridge, pool, flags)
        try:
            engine.start()
            yield engine
        finally:
            _end(engine)


@contextlib.contextmanager
def given_or_running() -> Iterator[str]:
    """The address of the engine the test command started for all workers, or of one of our own."""
    if given := os.environ.get(GIVEN):
        yield given
        return
    with running_engine() as engine:
        yield str(engine)


def _which(program: str) -> str | None:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _argv(directory: Path, address: str, bridge: str, pool: str, flags: Sequence[str]) -> list[str]:
    (directory / "daemon.json").write_text("{}")
    return [
        _which("dockerd") or "dockerd",
        f"--config-file={directory}/daemon.json",
        f"--data-root={directory}/data",
        f"--exec-root={directory}/exec",
        f"--pidfile={directory}/pid",
        f"--host={address}",
        "--storage-driver=overlay2",
        f"--bridge={bridge}",
        f"--default-address-pool=base={pool},size=24",
        *("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"),
        "--shutdown-timeout=5",
        *flags,
    ]


@contextlib.contextmanager
def _bridge(suffix: str) -> Iterator[tuple[str, str]]:
    """A bridge for containers without networks, and an address pool that nobody on this host uses."""
    name = f"hf{suffix}"
    with open("/tmp/holdfast-engine.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two engines that start at once must not choose the same pool
        second = _free_second_octet()
        _ip("link", "add", name, "type", "bridge")
        _ip("addr", "add", f"10.{second}.255.1/24", "dev", name)
        _ip("link", "set", name, "up")
    try:
        yield name, f"10.{second}.0.0/17"
    finally:
        _ip("link", "del", name)


def _free_second_octet() -> int:
    listed = subprocess.run([_which("ip") or "ip", "-j", "-4", "addr"], capture_output=True, text=True, check=True)
    used = {info["local"] for link in json.loads(listed.stdout) for info in link.get("addr_info", ())}
    taken = {int(address.split(".")[1]) for address in used if address.startswith("10.")}
    return next(octet for octet in range(128, 255) if octet not in taken)


def _ip(*argv: str) -> None:
    subprocess.run([_which("ip") or "ip", *argv], check=True, capture_output=True)


def _answers(address: str) -> bool:
    """Asked without the SDK, which leaves its socket open when nobody answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        try:
            connection.connect(address.removeprefix("unix://"))
            connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
            return b" 200 " in connection.recv(64)
        except OSError:
            return False


def _end(engine: Engine) -> None:
    if _answers(engine.address):
        empty(engine.address)
    engine.stop()
    for pid in processes_of(engine.directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for mount in _mounts_below(engine.directory):
        subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
    shutil.rmtree(engine.directory, ignore_errors=True)


def empty(address: str) -> None:
    """Take every container and network off the engine; only for one of our own."""
    import docker

    client = docker.APIClient(base_url=address, version="auto", timeout=60)
    for container in client.containers(all=True):
        with contextlib.suppress(docker.errors.APIError):
            client.remove_container(container["Id"], v=True, force=True)
    for network in client.networks(filters={"type": "custom"}):
        with contextlib.suppress(docker.errors.APIError):
            client.remove_network(network["Id"])
    client.close()


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def processes_of(directory: Path) -> list[int]:
    """What an engine or a containerd left running: it and its shims name that directory on their command lines."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str(directory).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


def _mounts_below(directory: Path) -> list[str]:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return sorted((mount for mount in mounts if mount.startswith(f"{directory}/")), reverse=True)
