"""Each example of the series is run as a reader runs it: its documents hold, and it shows what it is there to show."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import engine as engines

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

SHOWN = {
    "01-one-process": (
        r"3 documents, no findings",
        r"web: deploy nothing -> shop@1\.0\.0",
        r"completed: 1 targets stand as wanted",
        r"Nothing to do\.",
        r"shop 1\.0\.0 on web-1",
        r"sticker verify .*\n(.*\n)*?.*valid",
    ),
    "02-rolling-waves": (r"wave 2 of 2\n.*web-3", r"staging:2 completed: 4 targets", r"shop 1\.1\.0 on web-4"),
    "03-overrides": (
        r"web-1  web: deploy nothing",
        r"worker-1  worker: deploy nothing",
        r"wave 1 of 1\n  default/web-2  web: deploy .*\n(?!  default/web-1)",
        r"staging:2 completed: 1 targets",
    ),
    "04-after": (r"wave 1 of 2\n.*api-1.*\n.*api-2", r"wave 2 of 2\n.*web-1", r"completed: 3 targets"),
    "05-secrets": (
        r"completed: 1 targets",
        r"no secret in database, stickers, logs",
        r"web-1  web: deploy shop@1\.0\.0",
    ),
    "06-policies": (
        r"\[PLAN_MOVED\]\n\(exit 2\)",
        r"staging:2 completed",
        r"database migration\n.*is suspended",
        r"shop 1\.1\.0 on web-1\n\$ holdfast resume",
        r"shop 1\.0\.0 on web-1\n$",
    ),
    "07-rolled-back": (
        r"staging:2 rolled_back: .*answered 500",
        r"\(exit 1\)\nshop 1\.0\.0 on web-1\nshop 1\.0\.0 on web-2",
        r"It is refused.*\n\$ holdfast plan staging\nNothing to do\.",
        r"1 refused placements may be tried again",
        r"deploy shop@1\.0\.0 .* -> shop@1\.1\.0-broken",
    ),
    "09-hooks": (
        r"staging:1 failed: .*HOLDFAST_HOOKS=on",
        r"staging:2 rolled_back: .*nothing was changed.*shop has no table for shop@1\.0\.0, which comes after nothing",
        r"staging:3 completed: 1 targets",
        r"staging:4 rolled_back: .*the cart is empty; shop@1\.0\.0 stands again",
        r"shop 1\.0\.0 on web-1\n$",
    ),
    "11-ssh": (
        r"✓ python .*\n(.*\n)*?  . hooks +(run in bubblewrap|hooks) on the target",
        r"staging:1 completed: 1 targets",
        r"staging:2 rolled_back: .*on the target: ended with exit code 1: the cart is empty; shop@1\.0\.0 stands again",
        r"the host key has changed: expected ssh-ed25519",
        r"shop 1\.0\.0 on web-1\n$",
    ),
    "12-script": (
        r"✓ deploy .*can be run",
        r"staging:1 completed: 1 targets",
        r"lying .*web-1",
        r"staging:2 completed",
        r"the deploy command ended with exit code 1: the disk of north is full",
        r"staging:3 rolled_back: .*shop@1\.0\.0 stands again",
        r"staging:4 completed: 1 targets",
    ),
    "14-agent": (
        r"agent web-1 of .* serves default/web-1",
        r"web-1 +online .*process .*default/web-1\nshop 1\.0\.0 on web-1",
        r"1 in sync .*\n(.*\n)*?.*1 online",
        r"the signer refused \(UNDECLARED\)",
        r"shop 1\.1\.0 on web-1\n$",
    ),
}
ON_AN_ENGINE = {
    "08-docker": (
        r"staging:1 completed: 2 targets",
        r"staging:2 completed: 2 targets",
        r"--confirm-removal [0-9a-f]+",
        r"staging:3 completed",
    ),
    "10-compose": (
        r"staging:1 completed: 1 targets",
        r'"image": ".*/shop/api@sha256:.*\n.*"image": ".*/shop/web@sha256:',
        r"\.yaml: OK\n\$ holdfast plan staging\nNothing to do",
        r"staging:2 completed: 1 targets",
        r"\$ holdfast plan staging\n(.*\n)*?.*api: deploy(?!(.*\n)*?.*web: deploy)",
        r"staging:3 completed: 1 targets",
        r"services\.api\.privileged: found true; expected no privileged services",
        r"staging:4 completed",
    ),
    "13-engines-behind-ssh": (
        r"✓ engine .*by way of ssh",
        r"✓ program ",
        r"staging:1 completed: 2 targets",
        r"\.yaml: OK",
        r"staging:2 completed: 2 targets.*\n\$ holdfast plan staging\nNothing to do",
        r"staging:3 completed",
    ),
}


def test_every_example_is_run_here_and_listed() -> None:
    directories = sorted(path.parent.name for path in EXAMPLES.glob("*/fleet.yaml"))
    assert directories == sorted([*SHOWN, *ON_AN_ENGINE])
    listed = re.findall(r"\| \[(.+?)\]\(\1/fleet\.yaml\)", (EXAMPLES / "README.md").read_text())
    assert listed == directories


@pytest.mark.parametrize("example", SHOWN)
def test_an_example_shows_what_it_is_there_for(example: str, tmp_path: Path) -> None:
    _skip_without_sshd(example)
    _check(_run(example, tmp_path), SHOWN[example])
    _holds(tmp_path)
    assert _left(tmp_path) == ""


@pytest.fixture
def engine() -> Iterator[str]:
    if not Path("/bin/busybox").exists():
        pytest.skip("no /bin/busybox (Debian package busybox-static)")
    try:
        with engines.given_or_running() as address:
            yield address
    except engines.NoEngine as reason:
        pytest.skip(f"no Docker engine: {reason}")


@pytest.mark.parametrize("example", ON_AN_ENGINE)
def test_an_example_on_an_engine_shows_it_and_leaves_nothing_there(example: str, engine: str, tmp_path: Path) -> None:
    _skip_without_sshd(example)
    if example in ("10-compose", "13-engines-behind-ssh") and not (shutil.which("docker-compose") or _is_plugin()):
        pytest.skip("neither docker compose nor docker-compose is installed")
    _check(_run(example, tmp_path, DOCKER_HOST=engine), ON_AN_ENGINE[example])
    _holds(tmp_path)
    assert _left(tmp_path) == ""
    import docker

    client = docker.APIClient(base_url=engine, version="auto")
    try:
        registry = (tmp_path / "registry").read_text().strip()
        assert [one["Names"] for one in client.containers(all=True) if one["Image"].startswith(registry)] == []
    finally:
        client.close()


def _skip_without_sshd(example: str) -> None:
    if "ssh" in example and shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        pytest.skip("no sshd (Debian package openssh-server)")


def _is_plugin() -> bool:
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "compose", "version"], capture_output=True).returncode == 0


def _run(example: str, work: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """As a reader would, with the interpreter of the tests first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [str(EXAMPLES / example / "run"), str(work)]
    own = {"PATH": path, **environment}
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}  # in the order in which they were said
    return subprocess.run(command, **both, text=True, timeout=300, env=os.environ | own)


def _check(done: subprocess.CompletedProcess[str], shown: tuple[str, ...]) -> None:
    assert done.returncode == 0, done.stdout
    for line in shown:
        assert re.search(line, done.stdout), f"{line}\n{done.stdout}"


def _holds(work: Path) -> None:
    command = [sys.executable, "-m", "api.cli.main", "validate", str(work / "holdfast")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def _left(work: Path) -> str:
    return subprocess.run(["pgrep", "-af", str(work)], capture_output=True, text=True).stdout
