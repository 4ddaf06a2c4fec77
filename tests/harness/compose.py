"""The compose programs that drivers are tried with: version 1 of this machine, and version 2 fetched once from the next
Debian, whose package runs here by itself."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

GIVEN = "HOLDFAST_TEST_COMPOSE"  # the path of a version 2 that is there already
SOURCE = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main\n"
PLUGIN = "usr/libexec/docker/cli-plugins/docker-compose"
PATIENCE = 180  # seconds for one step of the fetch


class NoCompose(RuntimeError):
    """Why there is no such program here."""


def first() -> str:
    """docker-compose 1.29, as Debian 12 has it."""
    path = shutil.which("docker-compose")
    if path is None:
        raise NoCompose("docker-compose is not installed (Debian package docker-compose)")
    told = subprocess.run([path, "version", "--short"], capture_output=True, text=True, timeout=PATIENCE).stdout.strip()
    if not told.startswith("1."):
        raise NoCompose(f"docker-compose is version {told}, not 1")
    return path


def second() -> str:
    """Compose 2, given or fetched; what was fetched stays for the next run."""
    if given := os.environ.get(GIVEN):
        return given
    kept = Path(tempfile.gettempdir()) / f"holdfast-compose-{os.getuid()}"
    kept.mkdir(mode=0o700, exist_ok=True)
    with (kept / "hold").open("w") as hold:
        fcntl.flock(hold, fcntl.LOCK_EX)  # several test workers may want it at once
        program = kept / "docker-compose"
        if not program.exists():
            _fetch(kept, program)
    return str(program)


def _fetch(kept: Path, program: Path) -> None:
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise NoCompose("Compose 2 is fetched with apt-get, as root")
    with tempfile.TemporaryDirectory(dir=kept) as scratch:
        place = Path(scratch)
        (place / "source.list").write_text(SOURCE)
        for directory in ("lists/partial", "cache/archives/partial"):
            (place / directory).mkdir(parents=True)
        options = [
            f"Dir::Etc::sourcelist={place}/source.list",
            "Dir::Etc::sourceparts=-",
            f"Dir::State::lists={place}/lists",
            f"Dir::Cache={place}/cache",
        ]
        apt = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
        _run([*apt, "update"], place)
        _run([*apt, "download", "docker-compose"], place)
        (package,) = place.glob("*.deb")
        _run(["dpkg", "-x", str(package), "unpacked"], place)
        (place / "unpacked" / PLUGIN).rename(program)


def _run(command: list[str], place: Path) -> None:
    try:
        subprocess.run(command, cwd=place, check=True, capture_output=True, text=True, timeout=PATIENCE)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = str(error.stderr or error).strip().splitlines()
        raise NoCompose(f"Compose 2 cannot be fetched: {said[-1] if said else error}") from None
