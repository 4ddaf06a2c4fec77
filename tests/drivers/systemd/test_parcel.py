"""The host's side as one file runs on any Python that we promise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from drivers.systemd.parcel import parcel
from tests.drivers.process.conftest import python

__all__ = ["python"]  # a fixture: this interpreter, and the oldest one


def test_the_file_answers_requests_on_its_own(python: str, tmp_path: Path) -> None:
    file = tmp_path / "holdfast.py"
    file.write_bytes(parcel())
    argv = [python, "-I", "-S", str(file), "session"]
    done = subprocess.run(
        argv, input='{"do": "nothing"}\n', capture_output=True, text=True, cwd="/", env={}, timeout=30
    )
    assert json.loads(done.stdout)["error"]["code"] == "invalid", done.stderr


def test_the_source_can_be_executed_as_a_module(python: str) -> None:
    """As a host does that was brought the source and keeps no file of it."""
    loader = (
        "import sys; source = sys.stdin.buffer.read(); module = type(sys)('far');"
        "exec(compile(source, 'far.py', 'exec'), module.__dict__); module.SOURCE = source;"
        "from drivers.process import host;"
        "print(module.main(['help']), host.SOURCE == source)"
    )
    argv = [python, "-I", "-S", "-c", loader]
    done = subprocess.run(argv, input=parcel(), capture_output=True, cwd="/", env={}, timeout=30)
    assert done.stdout.split() == [b"2", b"True"], done.stderr


def test_the_file_brings_nothing_that_a_host_lacks() -> None:
    """Only modules of the standard library are imported by what it holds."""
    code = "import sys; exec(sys.stdin.read(), {'__name__': 'far'}); print(*sys.modules)"
    argv = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(argv, input=parcel(), capture_output=True, cwd="/", env={}, timeout=30)
    tops = {name.partition(".")[0] for name in done.stdout.decode().split()}
    assert "drivers" in tops, done.stderr
    assert tops - set(sys.stdlib_module_names) <= {"drivers", "__main__"}
