"""Docker Compose as a peer: what is installed, and else version 2, fetched from Debian for the one run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

FETCH: Final = 60  # seconds
RELEASE: Final = "trixie"  # the first Debian whose `docker-compose` is version 2
PLUGIN: Final = "usr/libexec/docker/cli-plugins/docker-compose"

Command = tuple[str, ...]


def found(home: Path) -> dict[str, Command]:
    """Version -> how it is called. What cannot be had is said on a line of its own."""
    peers: dict[str, Command] = {}
    for command in _candidates(home):
        version = _version(command)
        if version is not None:
            peers.setdefault(version.partition(".")[0], command)
        if {"1", "2"} <= peers.keys():
            break
    for absent in sorted({"1", "2"} - peers.keys()):
        print(f"\nDocker Compose {absent} cannot be had here and is not measured")
    return {f"compose {_version(peers[one])}": peers[one] for one in sorted(peers)}


def _candidates(home: Path) -> Iterator[Command]:
    yield ("docker-compose",)
    yield ("docker", "compose")
    with suppress(OSError, subprocess.SubprocessError):
        yield (str(_fetched(home)),)


def _version(command: Command) -> str | None:
    """Of the first line that names one; None where the command is not that of Compose."""
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=True, timeout=20)
        return said.stdout.strip().removeprefix("v") or None
    return None


def _fetched(home: Path) -> Path:
    """The program out of Debian's package, from the mirror this host is set to use; nothing is installed."""
    directory = home / "apt"
    (directory / "lists" / "partial").mkdir(parents=True)
    (directory / "sources").write_text(f"deb {_mirror()} {RELEASE} main\n")
    options = {"Dir::Etc::sourcelist": "sources", "Dir::Etc::sourceparts": "-", "Dir::State::lists": "lists"}
    apt = ["apt-get", *(f"-o{name}={_below(directory, value)}" for name, value in options.items())]
    for words in (["update"], ["download", "docker-compose"]):
        _run([*apt, f"-oDir::Cache={directory}", *words], directory)
    (package,) = directory.glob("docker-compose_*.deb")
    _run(["dpkg", "-x", str(package), str(directory / "tree")], directory)
    return directory / "tree" / PLUGIN


def _below(directory: Path, value: str) -> str:
    return value if value == "-" else str(directory / value)


def _mirror() -> str:
    if shutil.which("apt-get") is None:
        raise FileNotFoundError("apt-get")
    wanted = ["indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"]
    said = subprocess.run(["apt-get", *wanted], capture_output=True, text=True, check=True, timeout=FETCH)
    places = [line.split()[1] for line in said.stdout.splitlines() if line.startswith("Debian ")]
    mirrors = [place for place in places if "security" not in place]
    if not mirrors:
        raise FileNotFoundError("no mirror of Debian is set")
    return mirrors[0]


def _run(argv: Sequence[str], directory: Path) -> None:
    subprocess.run(argv, cwd=directory, check=True, capture_output=True, timeout=FETCH)
