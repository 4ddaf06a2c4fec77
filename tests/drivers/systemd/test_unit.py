"""What a unit and an environment file say, letter by letter; that systemd reads them so is held by `test_dialects`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from drivers.systemd import unit
from drivers.systemd.unit import Marks, Paths, Unfit

GOLDEN = Path(__file__).parent / "golden"
RELEASE = "/srv/shop/inst-1/web/releases/aaaaaaaaaaaa-bbbbbbbbbbbb"
MARKS = Marks(
    installation="inst-1",
    target="default/web-1",
    component="web",
    slot="live",
    artifact="registry.example.com/shop/web@sha256:" + "a" * 64,
    configuration="sha256:" + "b" * 64,
    release=RELEASE,
)
PATHS = Paths(
    program=f"{RELEASE}/tree/bin/serve",
    tree=f"{RELEASE}/tree",
    environment=f"{RELEASE}/environment",
    secrets="/run/holdfast/12345678/aaaaaaaaaaaa-bbbbbbbbbbbb",
)
PLAIN: dict[str, Any] = {"restart": "unless-stopped", "stop_grace": 10000}
WHOLE: dict[str, Any] = {
    "restart": "on-failure",
    "stop_grace": 2500,
    "user": "www-data:adm",
    "memory": 256 << 20,
    "cpus": 1250,
}
NASTY = {
    "PATH": "/usr/bin:/bin",
    "TEXT": 'say "hi", it\'s `x` for $HOME and ${USER}',
    "BACK": "C:\\new\\\\dir\\",
    "LINES": "first\nsecond\n",
    "SPACE": "  # not a comment ; ",
    "EMPTY": "",
    "UMLAUT": "Grüße %h",
}


def golden(name: str, text: str) -> None:
    assert text == (GOLDEN / name).read_bytes().decode(), f"{name} is rendered otherwise:\n{text}"


def test_the_unit_of_a_plain_release() -> None:
    paths = PATHS._replace(secrets=None, program="/usr/bin/python3")
    golden("plain.service", unit.unit(MARKS, paths, ["python3", "app.py"], PLAIN))


def test_the_unit_of_a_release_with_all_that_can_be_declared() -> None:
    command = ["bin/serve", "--greeting", 'a "b" $HOME 100%', "", ";", "x\ny"]
    golden("whole.service", unit.unit(MARKS, PATHS, command, WHOLE, ["holdfast-web-12345678-old.service"]))


def test_the_environment_file() -> None:
    golden("nasty.env", unit.environment(NASTY))


def test_no_grace_is_not_for_ever() -> None:
    assert "TimeoutStopSec=1ms\n" in unit.unit(MARKS, PATHS, ["x"], {**PLAIN, "stop_grace": 0})


def test_the_unit_bears_its_marks() -> None:
    assert unit.marks(unit.unit(MARKS, PATHS, ["x"], PLAIN)) == MARKS._asdict()


@pytest.mark.parametrize("text", ["", "[Unit]\nFormat=holdfast.systemd/v1\n", "[X-Holdfast]\nFormat=another/v1\n"])
def test_a_unit_without_our_marks_is_not_ours(text: str) -> None:
    assert unit.marks(text) == {}


@pytest.mark.parametrize("path", ["/srv/a b", "/srv/*", "/srv/[a]", "/srv/a%h", "relative", '/srv/"', "/srv/a\n"])
def test_a_path_that_a_setting_would_read_otherwise_is_unfit(path: str) -> None:
    with pytest.raises(Unfit):
        unit.plain(path)


@pytest.mark.parametrize("program", ['/bin/a"b', "/bin/a'b", "/bin/a\\b", "/bin/a\nb", "bin/a"])
def test_a_program_that_systemd_would_not_start_is_unfit(program: str) -> None:
    with pytest.raises(Unfit):
        unit.command_line(program, ["x"])


@pytest.mark.parametrize(("name", "value"), [("A.B", "x"), ("1A", "x"), ("A-B", "x"), ("A", "x\x1b"), ("A", "\0")])
def test_a_variable_that_systemd_would_drop_is_unfit(name: str, value: str) -> None:
    with pytest.raises(Unfit):
        unit.environment({name: value})


def test_an_unfit_value_is_not_shown() -> None:
    with pytest.raises(Unfit) as caught:
        unit.environment({"TOKEN": "hunter2\x07"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["plain.service", "whole.service"])
def test_systemd_finds_no_fault_with_a_unit(name: str, tmp_path: Path) -> None:
    """Its verifier answers 0 to keys that it does not know, so what it prints is held against it."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze on this machine")
    program = tmp_path / "serve"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = (GOLDEN / name).read_text().replace(f"{RELEASE}/tree/bin/serve", str(program))
    (tmp_path / name).write_text(text.replace("/usr/bin/python3", str(program)))
    argv = ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert [line for line in done.stderr.splitlines() if name in line] == []
