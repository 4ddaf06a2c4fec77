"""Installed as it is shipped: the image, the systemd unit and the compose file."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from tests.harness import compose, machine, shipped
from tests.harness.compose import NoCompose
from tests.harness.engine import NoEngine, given_or_running
from tests.harness.shipped import NoImage, docker
from tests.harness.sshd import free_port

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SYSTEMD = "/lib/systemd/systemd"
UNITS = "/etc/systemd/system"
FLEET = """\
apiVersion: holdfast/v1
kind: Release
name: shop
version: 1.0.0
components:
  web: registry.example.com/shop/web@sha256:1111111111111111111111111111111111111111111111111111111111111111
---
apiVersion: holdfast/v1
kind: Environment
name: staging
release: shop@1.0.0
sync: {interval: 1s}
components: {web: {}}
---
apiVersion: holdfast/v1
kind: Target
name: web-1
environment: staging
driver: script
connection:
  via: local
  root: /var/lib/holdfast/shop
  version: [/bin/sh, -c, "cat stands 2>/dev/null || true"]
  deploy:
    - /opt/holdfast/bin/python
    - -c
    - |
      import json, sys
      json.dump({"artifact": json.load(sys.stdin)["placement"]["artifact"]}, open("stands", "w"))
  remove: [/bin/rm, -f, stands]
"""


class Shipped:
    """The image on its engine, and what was started from it."""

    def __init__(self, engine: str, image: str, directory: Path) -> None:
        self.engine, self.image, self.directory = engine, image, directory
        self.volume, self.container = (f"holdfast-{what}-{uuid4().hex[:8]}" for what in ("state", "shipped"))

    def docker(self, *argv: str, check: bool = True) -> str:
        return docker(self.engine, *argv, check=check)

    def holdfast(self, *words: str) -> Any:
        argv = ["exec", "--user=holdfast", self.container, "holdfast", *words, "--state=/var/lib/holdfast"]
        return json.loads(self.docker(*argv, "--output=json"))

    def in_sync(self) -> bool:
        environments = self.holdfast("status")["environments"]
        return [each["verdicts"] for each in environments] == [{"in sync": 1}]

    def end(self) -> None:
        self.docker("rm", "--force", "--volumes", self.container, check=False)
        self.docker("volume", "rm", "--force", self.volume, check=False)


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    try:
        with given_or_running() as address:
            yield address
    except NoEngine as error:
        pytest.skip(f"no Docker engine: {error}")


@pytest.fixture
def made(engine: str, tmp_path: Path) -> Iterator[Shipped]:
    try:
        image = shipped.image(engine)
    except NoImage as error:
        pytest.skip(f"the image cannot be built here: {error}")
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "fleet.yaml").write_text(FLEET)
    for path in (tmp_path, tmp_path / "documents", tmp_path / "documents" / "fleet.yaml"):
        path.chmod(0o755)
    one = Shipped(engine, image, tmp_path / "documents")
    try:
        yield one
    finally:
        one.end()


def eventually(what: str, holds: Callable[[], bool], within: float = 90.0) -> None:
    until, last = time.monotonic() + within, ""
    while time.monotonic() < until:
        try:
            if holds():
                return
        except (OSError, AssertionError, http.client.HTTPException) as error:
            last = str(error)
        time.sleep(0.1)
    raise AssertionError(f"not within {within:g} s: {what}; {last}")


def lives(port: int) -> bool:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        line.request("GET", "/livez")
        return line.getresponse().status == 200
    finally:
        line.close()


def test_the_image_holds_what_is_declared_and_knows_it_again_after_a_restart(made: Shipped) -> None:
    state, port = f"--volume={made.volume}:/var/lib/holdfast", free_port()
    made.docker("run", "--rm", state, made.image, "keys", "init")
    made.docker(
        *("run", "--detach", "--init", f"--name={made.container}", "--network=host", "--read-only", "--tmpfs=/tmp"),
        *(
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges:true",
            state,
            f"--volume={made.directory}:/srv/holdfast:ro",
        ),
        *(f"--env=HOLDFAST_LISTEN=127.0.0.1:{port}", made.image),
    )
    eventually("it lives", lambda: lives(port))
    eventually("what is declared stands", made.in_sync)
    assert made.docker("exec", made.container, "id", "-u").strip() == "10001"
    before = made.holdfast("status")["installation"]
    made.docker("restart", "--time=20", made.container)
    eventually("it lives again", lambda: lives(port))
    eventually("what stood stands", made.in_sync)
    assert made.holdfast("status")["installation"] == before
    assert [job["state"] for job in made.holdfast("job", "list")["jobs"]] == ["completed"]
    health = json.loads(made.docker("inspect", "--format={{json .Config.Healthcheck.Test}}", made.container))
    assert health[0] == "CMD"
    made.docker("exec", made.container, *health[1:])
    with pytest.raises(AssertionError, match="no answer"):
        made.docker("exec", "--env=HOLDFAST_STATE=/tmp", made.container, *health[1:])


def test_the_image_listens_to_others_only_with_tls_or_when_told(made: Shipped) -> None:
    made.docker("run", "--rm", f"--volume={made.volume}:/var/lib/holdfast", made.image, "keys", "init")
    with pytest.raises(AssertionError, match="HOLDFAST_TLS_CERTIFICATE"):
        made.docker("run", "--rm", "--network=none", f"--volume={made.volume}:/var/lib/holdfast", made.image)


def test_the_unit_holds_what_is_declared_inside_its_walls(made: Shipped) -> None:
    run = ["run", "--detach", f"--name={made.container}", "--user=0", f"--entrypoint={SYSTEMD}", *machine.FLAGS]
    made.docker(*run, made.image)
    port, settings = free_port(), made.directory.parent / "settings.yaml"
    settings.write_text(
        "apiVersion: holdfast/v1\nkind: Settings\ndocuments: /etc/holdfast/documents\n"
        f"listen: 127.0.0.1:{port}\nlog_format: json\n"
    )

    def do(*argv: str, check: bool = True) -> str:
        return made.docker("exec", made.container, *argv, check=check)

    eventually(
        "systemd is up", lambda: do("systemctl", "is-system-running", check=False).strip() in ("running", "degraded")
    )
    do("mkdir", "-p", "/etc/holdfast")
    units = [DEPLOY / f"{name}.service" for name in ("holdfast", "holdfast-signer", "holdfast-agent")]
    for path, to in (
        (settings, "/etc/holdfast/"),
        (made.directory, "/etc/holdfast/documents"),
        *((unit, UNITS) for unit in units),
    ):
        made.docker("cp", str(path), f"{made.container}:{to}")
    do("systemd-analyze", "verify", *(f"{UNITS}/{unit.name}" for unit in units))
    do("runuser", "-u", "holdfast", "--", "/opt/holdfast/bin/holdfast", "keys", "init", "--state=/var/lib/holdfast")
    do("systemctl", "daemon-reload")
    do("systemctl", "start", "holdfast")
    eventually("it lives", lambda: lives(port))
    eventually("what is declared stands", made.in_sync)
    do("systemctl", "stop", "holdfast")
    assert do("systemctl", "show", "--property=Result", "--value", "holdfast").strip() == "success"
    signs(do)


def signs(do: Callable[..., str]) -> None:
    """The signer's unit signs, as a user of its own, and ends when it is told to."""
    home, name = "/var/lib/holdfast-signer", "holdfast-signer"
    do("useradd", "--system", f"--home-dir={home}", "--shell=/usr/sbin/nologin", name)
    do("install", "-d", "-m", "0711", "-o", name, "-g", name, home)
    do("runuser", "-u", name, "--", "/opt/holdfast/bin/holdfast", "signer", "init", f"--directory={home}")
    do("systemctl", "start", name)
    eventually("it listens", lambda: do("stat", "--format=%a %G", f"{home}/signer.sock").strip() == "660 holdfast")
    do("systemctl", "stop", name)
    assert do("systemctl", "show", "--property=Result", "--value", name).strip() == "success"


def test_the_image_names_no_base_of_its_own() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"^ARG (.*)$", text, re.MULTILINE) == ["BASE", "EXTRAS="]
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE}"}


GIVEN = {"HOLDFAST_IMAGE": "holdfast", "POSTGRES_IMAGE": "postgres", "HOLDFAST_DATABASE_PASSWORD": "hunter2"}


@pytest.fixture(params=[compose.first, compose.second], ids=["1.29", "2"])
def program(request: pytest.FixtureRequest) -> str:
    try:
        path: str = request.param()
    except NoCompose as error:
        pytest.skip(str(error))
    return path


def composed(program: str, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    argv = [program, "-f", str(DEPLOY / "compose.yaml"), "config", *words]
    home = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nowhere"}
    return subprocess.run(argv, env=home | environment, capture_output=True, text=True, timeout=60, check=False)


def test_compose_takes_the_file(program: str) -> None:
    done = composed(program, GIVEN)
    assert (done.returncode, done.stderr) == (0, "")
    found = yaml.safe_load(done.stdout)
    replicas = {name: service for name, service in found["services"].items() if service["image"] == "holdfast"}
    assert set(replicas) == {"first", "second"}
    mounts = {name: _mounts(service) for name, service in replicas.items()}
    states, keys = ({each[to] for each in mounts.values()} for to in ("/var/lib/holdfast", "/var/lib/holdfast/keys"))
    assert (len(states), len(keys)) == (2, 1), "each has a state of its own, and the keys are those of both"


def _mounts(service: dict[str, Any]) -> dict[str, str]:
    """Destination -> source, as either version of compose writes them."""
    volumes = [
        each if isinstance(each, dict) else dict(zip(("source", "target"), each.split(":"), strict=False))
        for each in service["volumes"]
    ]
    return {each["target"]: each["source"] for each in volumes}


@pytest.mark.parametrize("missing", GIVEN)
def test_compose_starts_nothing_that_was_not_named(program: str, missing: str) -> None:
    done = composed(program, {name: value for name, value in GIVEN.items() if name != missing}, "-q")
    assert done.returncode != 0
    assert missing in done.stderr
