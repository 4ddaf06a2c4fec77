"""The demo on a Docker engine, as `make demo-docker` runs it: each scene must have happened, and nothing is left."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import docker
import pytest

from tests.harness import engine as engines

SCENES = (
    r"nine targets in sync after",
    r"staging runs 1\.1\.0 after",
    r"detected as stopped",
    r"sticker called forged: the signature does not fit the content",
    r"proven again and labelled anew; nothing was restarted",
    r"called lying: the sticker says shop@1\.1\.0",
    r"stopped after its first wave and rolled back",
    r"staging-4: shop 1\.1\.0 on staging-4",
    r"refused +not healthy within",
)
STATIC = Path("/bin/busybox").exists()


@pytest.mark.skipif(not STATIC, reason="no /bin/busybox (Debian package busybox-static)")
def test_the_demo_on_an_engine_shows_every_scene_and_leaves_nothing_there(tmp_path: Path) -> None:
    try:
        with engines.given_or_running() as engine:
            _run_and_check(engine, tmp_path)
    except engines.NoEngine as reason:
        pytest.skip(f"no Docker engine: {reason}")


def _run_and_check(engine: str, home: Path) -> None:
    done = _demo(home, engine)
    assert done.returncode == 0, done.stdout + done.stderr
    for scene in SCENES:
        assert re.search(scene, done.stdout), f"{scene}\n{done.stdout}"
    assert _left(engine, (home / "demo" / "registry").read_text()) == []


def test_the_demo_says_in_one_line_that_no_engine_answers(tmp_path: Path) -> None:
    done = _demo(tmp_path, f"unix://{tmp_path}/none.sock")
    assert done.returncode == 1
    assert re.fullmatch(r"(no Docker engine answers at|the demo's images need a static) .*\n", done.stderr)


def test_the_demo_takes_no_engine_of_another_machine(tmp_path: Path) -> None:
    done = _demo(tmp_path, "tcp://engine.invalid:2376")
    assert done.returncode == 1
    assert re.fullmatch(r"the demo (takes an engine of this machine|'s images need a static).*\n", done.stderr)


def _demo(home: Path, engine: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.demo", "--docker", "--once", "--home", str(home / "demo")]
    environment = os.environ | {"DOCKER_HOST": engine}
    root = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root, env=environment)


def _left(engine: str, repository: str) -> list[str]:
    """The containers and images of this demo's own repository; others may use the engine at the same time."""
    client = docker.APIClient(base_url=engine, version="auto")
    try:
        containers = [one["Image"] for one in client.containers(all=True)]
        images = [reference for image in client.images() for reference in image["RepoDigests"] or ()]
    finally:
        client.close()
    return [name for name in containers + images if name.startswith(repository)]
