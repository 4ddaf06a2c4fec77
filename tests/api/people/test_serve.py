"""The first start of a server, as a person meets it: a password on the terminal, a login, no other start like it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

WAITED = 30.0
QUICK = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@pytest.fixture
def home(blank: Path, tmp_path: Path) -> Path:
    shutil.copytree(blank, tmp_path / "state")
    (tmp_path / "documents").mkdir()
    return tmp_path


def command(home: Path, *words: str) -> list[str]:
    places = ["--state", str(home / "state"), "--documents", str(home / "documents")]
    return [sys.executable, "-m", "api.cli.main", *words, *places]


@contextlib.contextmanager
def serving(home: Path) -> Iterator[tuple[str, Path]]:
    """Its address, and the file with what it says on the terminal."""
    log = home / f"log-{time.monotonic_ns()}"
    with log.open("w") as said:
        process = subprocess.Popen(
            command(home, "serve", "--listen", "127.0.0.1:0"), stderr=said, stdout=said, env=QUICK
        )
    try:
        yield told(log, r"listening +url=(\S+)"), log
    finally:
        process.terminate()
        try:
            process.wait(WAITED)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def told(log: Path, pattern: str) -> str:
    until = time.monotonic() + WAITED
    while (found := re.search(pattern, log.read_text())) is None:
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.05)
    return found[1]


def asked(home: Path, server: str, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    environ = QUICK | {"HOLDFAST_SERVER": server, "XDG_CONFIG_HOME": str(home / "config")}
    return subprocess.run(
        command(home, *words), input=given, env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_first_admin_logs_in_with_what_the_first_start_printed_and_no_other_start_prints_it(home: Path) -> None:
    with serving(home) as (server, log):
        password = told(log, r"the password (\S+) \(shown this once")
        assert asked(home, server, "login", "--user", "admin", given=password + "\n").returncode == 0
        assert asked(home, server, "whoami").stdout.startswith("admin\n")
    with serving(home) as (_, log):
        assert "password" not in log.read_text()
        assert password not in log.read_text()


def test_a_login_with_a_wrong_password_keeps_nothing_and_a_logout_forgets(home: Path) -> None:
    with serving(home) as (server, log):
        password = told(log, r"the password (\S+) \(shown this once")
        wrong = asked(home, server, "login", "--user", "admin", given=f"{password}x\n")
        assert (wrong.returncode, "UNAUTHENTICATED" in wrong.stderr) == (2, True)
        assert asked(home, server, "status").returncode == 2
        assert asked(home, server, "login", "--user", "admin", given=f"{password}\n").returncode == 0
        assert password not in (home / "config" / "holdfast").joinpath("tokens.json").read_text()
        assert asked(home, server, "status").returncode == 0
        assert asked(home, server, "logout").returncode == 0
        refused = asked(home, server, "status")
        assert (refused.returncode, "holdfast login" in refused.stderr) == (2, True)
