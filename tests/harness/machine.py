"""A machine that systemd has booted: a container of our own, made from Debian packages and from nothing else.

The container has the network of this machine and no sshd listens in it, so that its workloads are asked over loopback
and nothing is opened. One directory has the same path inside and outside. The root file system is made once for an
engine, which is its only cache: with the engine it is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from drivers.systemd.parcel import parcel
from tests.harness.engine import NoEngine, given_or_running

IMAGE: Final = "holdfast-machine:1"
PACKAGES: Final = "systemd,dbus,python3,util-linux,openssh-server"
MAKING, BOOTING = 600.0, 60.0  # seconds; where nothing else runs it is 30 and 3
FLAGS: Final = (
    *("--network=host", "--cgroupns=host", "--cap-add=SYS_ADMIN", "--cap-add=SYS_PTRACE"),
    *("--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined", "--stop-signal=SIGRTMIN+3"),
    "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw",
    *("--tmpfs=/run:exec,mode=755", "--tmpfs=/run/lock"),
)
LEAN: Final = (
    *("--variant=essential", "--aptopt=Acquire::Languages none"),
    *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "man", "locale", "info")),
)
QUIET: Final = ("ssh.service", "ssh.socket", "systemd-timesyncd.service", "systemd-logind.service", "getty.target")
SURROUNDINGS: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"}
CLEAR: Final = """\
cd /etc/systemd/system
systemctl kill --signal=KILL 'holdfast-*' 'foreign-*' 2>/dev/null
systemctl stop 'holdfast-*' 'foreign-*' 2>/dev/null
rm -rf holdfast-* foreign-* multi-user.target.wants/holdfast-* /run/holdfast
systemctl reset-failed 'holdfast-*' 'foreign-*' 2>/dev/null
true
"""
DOOR: Final = """\
import os, signal, socket, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from parcel import main
ear = socket.socket(socket.AF_UNIX)
ear.bind(sys.argv[2])
ear.listen(64)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    line, _ = ear.accept()
    if os.fork() == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        sys.stdin, sys.stdout = line.makefile("r"), line.makefile("w")
        os._exit(main(["session"]))
    line.close()
"""  # sessions of the host's side, each a process of its own, without what it costs to enter the container for each


class NoMachine(RuntimeError):
    """Why there is none here."""


class Machine:
    """One booted container. `shared` is a directory of this machine and of that one."""

    def __init__(self, engine: str, shared: Path) -> None:
        self.engine, self.shared = engine, shared
        self.name = f"holdfast-machine-{uuid4().hex[:8]}"
        self._pid = 0

    def start(self) -> None:
        argv = ["run", "--detach", f"--name={self.name}", *FLAGS, f"--volume={self.shared}:{self.shared}", IMAGE]
        _docker(self.engine, *argv, "/lib/systemd/systemd")
        self._enter()

    def _enter(self) -> None:
        self._pid = int(_docker(self.engine, "inspect", "--format={{.State.Pid}}", self.name))
        until, state = time.monotonic() + BOOTING, ""
        while time.monotonic() < until:
            state = self.run("systemctl", "is-system-running", check=False).strip()
            if state in ("running", "degraded"):
                self._open()
                return
            time.sleep(0.1)
        raise NoMachine(f"systemd did not come up within {BOOTING:g} s: {state}")

    def _open(self) -> None:
        (self.shared / "parcel.py").write_bytes(parcel())
        self.door.unlink(missing_ok=True)
        argv = ["systemd-run", "--quiet", "--unit=door", "python3", "-I", "-S", "-c", DOOR]
        self.run(*argv, str(self.shared / "parcel.py"), str(self.door))
        until = time.monotonic() + 10
        while not self.door.exists():
            if time.monotonic() > until:
                raise NoMachine("no session can be had: " + self.run("journalctl", "--unit=door", "--output=cat"))
            time.sleep(0.02)

    @property
    def door(self) -> Path:
        return self.shared / "door"

    def run(self, *argv: str, check: bool = True) -> str:
        """A command on the machine, by root's own hands; entered without the engine, which takes ten times as long."""
        words = ["nsenter", f"--target={self._pid}", "--mount", "--uts", "--ipc", "--pid", "--", *argv]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=SURROUNDINGS)
        if check and done.returncode != 0:
            raise NoMachine(f"{argv[0]}: {(done.stderr or done.stdout).strip()[-400:]}")
        return done.stdout

    def clear(self) -> None:
        """Everything of ours away, whatever a test left."""
        self.run("sh", "-c", CLEAR)
        for path in self.shared.iterdir():
            if path.is_dir():
                shutil.rmtree(path)

    def reboot(self) -> None:
        """As a power cut does: nothing in memory is left."""
        _docker(self.engine, "kill", self.name)
        _docker(self.engine, "start", self.name)
        self._enter()

    def stop(self) -> None:
        _docker(self.engine, "rm", "--force", self.name, check=False)


class Door:
    """A session on the machine with the face of one in this process."""

    def __init__(self, machine: Machine) -> None:
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(str(machine.door))
        self._file = self._line.makefile("rw")
        self._lock = threading.Lock()

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        import json

        with self._lock:
            self._file.write(json.dumps(request) + "\n")
            self._file.flush()
            line = self._file.readline()
        if not line:
            return {"error": {"code": "unknown", "text": "the session is gone", "missing": []}}
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """Waits until the other side has let go, as a local session does."""
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_WR)
        with self._lock, contextlib.suppress(OSError):
            while self._file.readline():
                pass
        self._file.close()
        self._line.close()


@contextlib.contextmanager
def running_machine() -> Iterator[Machine]:
    """A machine of our own; `NoMachine` says why there cannot be one."""
    if os.geteuid() != 0 or shutil.which("docker") is None:
        raise NoMachine("needs root and a Docker engine")
    try:
        with given_or_running() as engine, _shared() as shared:
            _make(engine)
            machine = Machine(engine, shared)
            try:
                machine.start()
                yield machine
            finally:
                machine.stop()
    except NoEngine as error:
        raise NoMachine(str(error)) from None


@contextlib.contextmanager
def _shared() -> Iterator[Path]:
    """Not below /tmp, which a booting systemd empties."""
    directory = Path(tempfile.mkdtemp(prefix="hf-machine-", dir="/var/tmp"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def image(engine: str) -> str:
    """What a machine is started from, and what others may build upon; it is made unless the engine has it."""
    if os.geteuid() != 0:
        raise NoMachine("needs root")
    _make(engine)
    return IMAGE


def _make(engine: str) -> None:
    """The image, unless the engine has it; of several test processes one makes it and the others wait."""
    with open(Path(tempfile.gettempdir()) / "holdfast-machine.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if IMAGE in _docker(engine, "images", "--format={{.Repository}}:{{.Tag}}"):
            return
        with tempfile.TemporaryDirectory(prefix="hf-machine-") as directory:
            archive = Path(directory) / "root.tar"
            _bootstrap(archive)
            _docker(engine, "import", str(archive), IMAGE)


def _bootstrap(archive: Path) -> None:
    program = shutil.which("mmdebstrap")
    if program is None:
        raise NoMachine("there is no mmdebstrap")
    hook = f'--customize-hook=systemctl --quiet --root="$1" mask {" ".join(QUIET)}'
    argv = [program, "--quiet", *LEAN, f"--include={PACKAGES}", hook, "bookworm", str(archive)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=MAKING, check=False)
    except subprocess.TimeoutExpired:
        raise NoMachine(f"mmdebstrap was not done within {MAKING:g} s") from None
    if done.returncode != 0:
        raise NoMachine(f"mmdebstrap: {(done.stderr or done.stdout)[-400:]}")


def _docker(engine: str, *argv: str, check: bool = True) -> str:
    words: Sequence[str] = ["docker", f"--host={engine}", *argv]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if check and done.returncode != 0:
        raise NoMachine(f"docker {argv[0]}: {done.stderr.strip()[-400:]}")
    return done.stdout
