"""ansible-core and pyinfra at their best settings, in an environment of their own beside the project's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.benchmarks.table import children_cpu

PEERS: Final = ("ansible-core==2.19.*", "pyinfra==3.*")
PATIENCE: Final = 300.0  # seconds for an installation
FORKS: Final = 50
SSH: Final = (
    "-F none -o ControlMaster=auto -o ControlPersist=60s -o KexAlgorithms=curve25519-sha256 "
    "-o Ciphers=aes128-gcm@openssh.com -o Compression=no -o GSSAPIAuthentication=no -o IdentitiesOnly=yes"
)

Figures = tuple[float, float]  # wall and CPU seconds


class NoPeer(RuntimeError):
    """Why a peer is not measured."""


def installed() -> Path:
    """The programs of an environment that is made once and kept below the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "holdfast" / "bench-peers"
    if not (home / "complete").exists():
        try:
            venv.create(home, with_pip=True, clear=True)
            pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEERS]
            subprocess.run(pip, check=True, capture_output=True, timeout=PATIENCE)
        except (OSError, subprocess.SubprocessError) as error:
            raise NoPeer(f"ansible-core and pyinfra cannot be installed here: {error}") from None
        (home / "complete").touch()
    return home / "bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """Both, over one file of hosts. `home` is theirs to write into."""

    programs: Path
    hosts: Path
    home: Path

    def prepare(self) -> None:
        """What they read about the hosts: an inventory, a configuration, and the keys the hosts are known by."""
        hosts = json.loads(self.hosts.read_text())["hosts"]
        known = [f"[{host['host']}]:{host['port']} {host['known_hosts'][0]}\n" for host in hosts]
        self.known.write_text("".join(known))
        (self.home / "inventory").write_text("\n".join(["[all]", *map(_inventoried, hosts)]) + "\n")
        (self.home / "ansible.cfg").write_text(
            f"[defaults]\nforks = {FORKS}\ngathering = explicit\nhost_key_checking = True\n"
            f"[ssh_connection]\npipelining = True\nssh_args = {SSH} -o UserKnownHostsFile={self.known}\n"
            f"control_path_dir = {self.control}\ncontrol_path = {self.control}/%%h\n"
        )

    @property
    def known(self) -> Path:
        return self.home / "known_hosts"

    @property
    def control(self) -> Path:
        return self.home / "cm"

    # -- pyinfra -----------------------------------------------------------------------------------------------------

    def pyinfra_cold(self) -> Figures:
        return self._command([*self._pyinfra(), "0"])

    def pyinfra_warm(self, rounds: int) -> Figures:
        said = subprocess.run([*self._pyinfra(), str(rounds)], check=True, capture_output=True, text=True).stdout
        walls, cpus = zip(*json.loads(said.splitlines()[-1]), strict=True)
        return median(walls), median(cpus)

    def _pyinfra(self) -> list[str]:
        script = Path(__file__).with_name("read_by_pyinfra.py")
        return [str(self.programs / "python"), str(script), str(self.hosts), str(self.known)]

    # -- ansible -----------------------------------------------------------------------------------------------------

    def ansible_cold(self) -> Figures:
        """Its connections are kept by processes of their own, whose CPU is in no figure."""
        self.let_go()
        return self.ansible_warm()

    def ansible_warm(self) -> Figures:
        raw = ["-m", "ansible.builtin.raw", "-a", "cat {{ sticker }}"]
        ansible = [str(self.programs / "ansible"), "all", "-i", str(self.home / "inventory"), *raw]
        return self._command(ansible, ANSIBLE_CONFIG=str(self.home / "ansible.cfg"), ANSIBLE_HOME=str(self.home))

    def let_go(self) -> None:
        """End the processes that keep its connections."""
        for socket in self.control.glob("*"):
            leave = ["ssh", "-F", "none", "-o", f"ControlPath={socket}", "-O", "exit", "none"]
            subprocess.run(leave, capture_output=True, timeout=20)

    def _command(self, argv: list[str], **environment: str) -> Figures:
        began, cpu = time.perf_counter(), children_cpu()
        # a pipe would be waited for as long as those live that keep the connections
        with (self.home / "said").open("w+") as said:
            told = {**os.environ, **environment}
            code = subprocess.run(argv, stdout=said, stderr=subprocess.STDOUT, env=told).returncode
        if code:
            raise NoPeer(f"{Path(argv[0]).name} ended with {code}: {(self.home / 'said').read_text()[-400:]}")
        return time.perf_counter() - began, children_cpu() - cpu


def _inventoried(host: Mapping[str, Any]) -> str:
    key = host["key"]["secret"].removeprefix("file:")
    who = f"ansible_port={host['port']} ansible_user={host['user']} ansible_ssh_private_key_file={key}"
    sticker = f"{host['root']}/bench/web/sticker.json"
    return f"{host['host']} {who} ansible_python_interpreter={sys.executable} sticker={sticker}"
