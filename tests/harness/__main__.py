"""The test command: installs what is missing, starts a Docker engine, a registry and PostgreSQL on private sockets and
ports, runs every test in parallel while style, types and contracts are checked, and ends what it started.

Whatever cannot be had here (no root, no apt) is named, and the tests that need it are skipped with that reason. When a
few tests have failed, they are run once more, alone, and what passes only then is named at the end.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.harness import again

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
WORKERS = str(2 + max(2, os.cpu_count() or 2))  # much of it is waiting

CHECKS = (
    ("style", ("ruff", "check", ".")),
    ("format", ("ruff", "format", "--check", "-q", ".")),
    ("types", ("mypy",)),
    ("contracts", ("lint-imports", "--no-logo")),
)


@dataclass(frozen=True)
class Need:
    """A program the tests use, the Debian package it comes in, and whether it is there."""

    package: str
    there: Callable[[], bool]


def _on_path(program: str) -> Callable[[], bool]:
    return lambda: shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is not None


NEEDS = (
    Need("docker.io", _on_path("dockerd")),
    Need("docker-compose", _on_path("docker-compose")),
    Need("openssh-server", _on_path("sshd")),
    Need("openssh-client", _on_path("ssh-agent")),
    Need("mmdebstrap", _on_path("mmdebstrap")),
    Need("iptables", _on_path("iptables")),
    Need("docker-registry", _on_path("docker-registry")),
    Need("busybox-static", lambda: _is_static_busybox()),
    Need("pgbouncer", _on_path("pgbouncer")),
    Need("postgresql", lambda: any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))),
    Need("nginx", _on_path("nginx")),
    Need("iproute2", _on_path("ip")),
    Need("chromium", _on_path("chromium")),
    Need("krb5-kdc", lambda: not _speaks_kerberos() or _on_path("krb5kdc")()),
    Need("krb5-admin-server", lambda: not _speaks_kerberos() or _on_path("kadmin.local")()),
    Need("krb5-user", lambda: not _speaks_kerberos() or _on_path("kinit")()),
)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    with ThreadPoolExecutor(1) as beside:  # the tests wait for much, and the checks for nothing
        passed = {name: beside.submit(_passes, name, words) for name, words in _checks(arguments)}
        alone = () if arguments.check else _tested(arguments.pytest)
        failed = [name for name, future in passed.items() if not future.result()]
    if alone is None:
        failed.append("tests")
    elif alone:
        print(again.told(alone), flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.harness", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only style, types and contracts")
    parser.add_argument("--tests-only", action="store_true", help="only the tests")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    return parser.parse_args(argv)


def _checks(arguments: argparse.Namespace) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return () if arguments.tests_only else CHECKS


def _tested(more: Sequence[str]) -> tuple[str, ...] | None:
    """The tests that passed only when they were run again, alone; None when the tests have failed."""
    _install_missing()
    with ExitStack() as stack:
        environment = os.environ | _services(stack)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling all of it anew costs each command a second
        run = partial(_run_tests, environment)
        failures = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-tests-"))) / "failed"
        status = run("-n", WORKERS, "--dist", "worksteal", "-p", "tests.harness.again", "--failures", failures, *more)
        return again.passed_alone(status, again.read(failures), lambda failed: run("-n", "0", *failed))


def _passes(name: str, command: Sequence[str]) -> bool:
    began = time.monotonic()
    done = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True)
    verdict = "ok" if done.returncode == 0 else "FAILED"
    print(f"{name:<10} {verdict} ({time.monotonic() - began:.1f} s)", flush=True)
    if done.returncode != 0:
        print(done.stdout + done.stderr, flush=True)
    return done.returncode == 0


def _install_missing() -> None:
    missing = [need.package for need in NEEDS if not need.there()]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"not here, and not installed without root and apt: {', '.join(missing)}", flush=True)
        return
    print(f"installing {', '.join(missing)}", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # their daemons stay down
    for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-qy", "--no-install-recommends", *missing]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            print(f"{' '.join(command)} failed: {(done.stderr or done.stdout)[-400:]}", flush=True)


def _run_tests(environment: Mapping[str, str], *words: object) -> int:
    command = [sys.executable, "-m", "pytest", "-q", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def _services(stack: ExitStack) -> dict[str, str]:
    """The addresses of what could be started, as the tests read them."""
    from tests.harness.engine import running_engine
    from tests.harness.postgres import running_postgres
    from tests.harness.registry import running_registry

    offered: tuple[tuple[str, Callable[[], AbstractContextManager[Any]]], ...] = (
        ("HOLDFAST_TEST_REGISTRY", running_registry),
        ("HOLDFAST_TEST_ENGINE", running_engine),
        ("HOLDFAST_TEST_POSTGRES", running_postgres),
    )
    addresses = {}
    for name, service in offered:
        try:
            addresses[name] = str(stack.enter_context(service()))
        except Exception as error:  # whatever keeps a service from starting is a reason to be printed, not a failure
            print(f"{name} is not set: {type(error).__name__}: {error}", flush=True)
    return addresses


def _speaks_kerberos() -> bool:
    """Only who has installed the extra `kerberos`, which takes minutes to compile, has tests of it."""
    return importlib.util.find_spec("gssapi") is not None


def _is_static_busybox() -> bool:
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        return False
    ldd = subprocess.run(["ldd", str(busybox)], capture_output=True, text=True)
    return "not a dynamic executable" in ldd.stdout + ldd.stderr


if __name__ == "__main__":
    sys.exit(main())
