"""The image that the Dockerfile makes, on the machine's own image as its base and from wheels that were fetched before:
the build itself has no network."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.harness import machine
from tests.harness.machine import NoMachine

ROOT: Final = Path(__file__).resolve().parents[2]
LOCK: Final = ROOT / "requirements.lock"
PACKAGES: Final = ("stickers", "desired_state", "drivers", "reconciler", "api")
FILES: Final = ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "requirements.lock")
FETCHING, BUILDING, ASKING = 180, 300, 60  # seconds; where nothing else runs it is 10, 30 and less than 1


class NoImage(RuntimeError):
    """Why it cannot be built here."""


def docker(engine: str, *argv: str, check: bool = True, within: float = ASKING) -> str:
    words = ["docker", f"--host={engine}", *argv]
    done = subprocess.run(words, capture_output=True, text=True, timeout=within, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"docker {argv[0]}: {done.stdout[-2000:]}{done.stderr.strip()[-2000:]}")
    return done.stdout


def image(engine: str) -> str:
    """Its tag; it is built unless the engine has it."""
    tag = f"holdfast-shipped:{_digest()}"
    with _alone("build"):
        if tag not in docker(engine, "images", "--format={{.Repository}}:{{.Tag}}"):
            try:
                base = machine.image(engine)
            except NoMachine as error:
                raise NoImage(str(error)) from None
            with tempfile.TemporaryDirectory(prefix="hf-context-") as context:
                _fill(Path(context), _wheels())
                argv = ["--network=none", f"--build-arg=BASE={base}", f"--tag={tag}", context]
                docker(engine, "build", *argv, within=BUILDING)
    return tag


def _digest() -> str:
    """Of everything the image is made of."""
    found = hashlib.sha256()
    for path in sorted(_sources()):
        found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return found.hexdigest()[:12]


def _sources() -> Iterator[Path]:
    yield from (ROOT / name for name in FILES)
    for name in (*PACKAGES, "deploy"):
        yield from (path for path in (ROOT / name).rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _fill(context: Path, wheels: Path) -> None:
    for path in _sources():
        to = context / path.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
    shutil.copytree(wheels, context / "dist" / "wheels")


def _wheels() -> Path:
    """Those of the lock, and pip's own; what was fetched stays for the next run."""
    kept = _kept() / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    if kept.exists():
        return kept
    pip = _pip()
    with tempfile.TemporaryDirectory(dir=_kept()) as scratch:
        common = ["download", "-q", "--only-binary=:all:", "--python-version=3.11", f"--dest={scratch}/wheels"]
        _fetched([*pip, *common, "--no-deps", "--require-hashes", f"--requirement={LOCK}"])
        _fetched([*pip, *common, "pip"])
        os.rename(f"{scratch}/wheels", kept)
    return kept


def _pip() -> Sequence[str]:
    own = [sys.executable, "-m", "pip"]
    if subprocess.run([*own, "--version"], capture_output=True, check=False).returncode == 0:
        return own
    if (found := shutil.which("pip3")) is None:
        raise NoImage("there is no pip to fetch wheels with")
    return [found]


def _fetched(argv: Sequence[str]) -> None:
    try:
        subprocess.run(argv, capture_output=True, text=True, timeout=FETCHING, check=True)
    except subprocess.TimeoutExpired:
        raise NoImage(f"the wheels were not fetched within {FETCHING} s") from None
    except subprocess.CalledProcessError as error:
        raise NoImage(f"the wheels cannot be fetched: {error.stderr.strip()[-300:]}") from None


def _kept() -> Path:
    kept = Path(tempfile.gettempdir()) / f"holdfast-wheels-{os.getuid()}"
    kept.mkdir(mode=0o700, exist_ok=True)
    return kept


@contextmanager
def _alone(what: str) -> Iterator[None]:
    """Of several test processes one at a time."""
    with open(_kept() / f"{what}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
