"""A host of its own: a network namespace with one wire to this one, which can be cut."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

NEEDS: Final = ("ip", "iptables")


class NoNamespace(Exception):
    """This machine lets nobody make one; the text says why."""


@dataclass(frozen=True)
class Namespace:
    """`here` and `there` are the addresses at both ends of the wire."""

    name: str
    here: str
    there: str

    def command(self, *argv: str) -> list[str]:
        """The same, on that host; it becomes the process it starts."""
        return ["ip", "netns", "exec", self.name, *argv]

    def cut(self) -> None:
        """Nothing comes through any more, and nobody is told."""
        for chain, way in (("INPUT", "-i"), ("OUTPUT", "-o")):
            _run(*self.command("iptables", "-I", chain, way, "wire", "-j", "DROP"))

    def heal(self) -> None:
        for chain, way in (("INPUT", "-i"), ("OUTPUT", "-o")):
            _run(*self.command("iptables", "-D", chain, way, "wire", "-j", "DROP"))


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    """Raises `NoNamespace`. What runs in it is to be ended before."""
    if missing := [name for name in NEEDS if shutil.which(name) is None]:
        raise NoNamespace(f"there is no {missing[0]}")
    if os.geteuid() != 0:
        raise NoNamespace("only root makes them")
    mark, third = secrets.token_hex(3), secrets.randbelow(250)
    found = Namespace(f"hf-{mark}", f"10.213.{third}.1", f"10.213.{third}.2")
    _run("ip", "netns", "add", found.name)
    try:
        outside = f"hf{mark}"
        _run("ip", "link", "add", outside, "type", "veth", "peer", "name", "wire", "netns", found.name)
        _run("ip", "address", "add", f"{found.here}/30", "dev", outside)
        _run("ip", "link", "set", outside, "up")
        for words in (("address", "add", f"{found.there}/30", "dev", "wire"), ("link", "set", "wire", "up")):
            _run("ip", "-n", found.name, *words)
        _run("ip", "-n", found.name, "link", "set", "lo", "up")
        _run(*found.command("iptables", "-L", "-n"))  # says early when there is no packet filter
        yield found
    finally:
        subprocess.run(["ip", "netns", "delete", found.name], capture_output=True, check=False)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise NoNamespace(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")
    return done.stdout
