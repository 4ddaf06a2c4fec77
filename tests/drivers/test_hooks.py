"""Hooks run for real: what they get, how they fail, and that nothing of them is left."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from desired_state.hooks import Hook
from desired_state.secrets import SecretRef
from drivers import hooks
from drivers.errors import Refused
from drivers.hooks import Runner
from drivers.process import host
from stickers.redaction import Redactor

ABOUT = {"key": "abc", "release": "shop@2"}


@pytest.fixture
def runner() -> Runner:
    redactor = Redactor()

    async def secret(reference: SecretRef) -> str:
        if reference.path == "missing":
            raise Refused("there is none")
        redactor.add("hunter2secret")
        return "hunter2secret"

    return Runner(redactor, secret)


def python(code: str, *, deadline: float = 20, **environment: str | SecretRef) -> Hook:
    argv = (sys.executable, "-S", "-c", code)
    return Hook(argv=argv, environment=tuple(sorted(environment.items())), deadline=timedelta(seconds=deadline))


async def test_a_hook_that_exits_well_says_nothing(runner: Runner) -> None:
    assert await runner(python("print('fine')"), ABOUT) is None


async def test_a_hook_gets_what_is_declared_what_it_is_about_and_nothing_else(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "not theirs")
    code = "import os, sys; sys.exit(','.join(sorted(set(os.environ) - {'LC_CTYPE', 'PWD'})))"
    failed = await runner(python(code, LEVEL="info", PASSWORD=SecretRef(reference="env:X")), ABOUT)
    assert failed is not None
    assert failed.endswith("HOLDFAST_KEY,HOLDFAST_RELEASE,LEVEL,PASSWORD,PATH")


async def test_a_failing_hook_says_its_code_and_what_it_printed(runner: Runner) -> None:
    failed = await runner(python("import sys; print('no table shop'); sys.exit(3)"), ABOUT)
    assert failed is not None
    assert failed.endswith("exit code 3: no table shop")


async def test_what_a_hook_prints_of_a_secret_is_masked(runner: Runner) -> None:
    code = "import os, sys; sys.exit('cannot log in with ' + os.environ['PASSWORD'])"
    failed = await runner(python(code, PASSWORD=SecretRef(reference="env:X")), ABOUT)
    assert failed is not None
    assert failed.endswith("cannot log in with ***")


async def test_a_secret_that_cannot_be_had_is_an_error_of_its_own(runner: Runner) -> None:
    with pytest.raises(Refused):
        await runner(python("pass", PASSWORD=SecretRef(reference="env:missing")), ABOUT)


async def test_a_program_that_is_not_there_is_a_failure(runner: Runner) -> None:
    failed = await runner(Hook(argv=("/nowhere/migrate",)), ABOUT)
    assert failed is not None
    assert "/nowhere/migrate" in failed


async def test_an_endless_print_is_not_kept(runner: Runner) -> None:
    failed = await runner(python("import sys\nfor n in range(40000): print('x' * 100)\nsys.exit(1)"), ABOUT)
    assert failed is not None
    assert len(failed) < 2 * hooks.SHOWN


async def test_at_its_deadline_a_hook_and_all_it_has_started_end(runner: Runner, tmp_path: Path) -> None:
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    code = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-S', '-c', {child!r}])\n"
        "print('child', child.pid, flush=True)\n"
        "time.sleep(60)"
    )
    began = time.monotonic()
    failed = await runner(python(code, deadline=1), ABOUT)
    assert failed is not None
    assert "did not end within 1 s" in failed
    assert time.monotonic() - began < 15
    if not host.sandboxed():  # else the number is one of its own namespace
        with pytest.raises(ProcessLookupError):
            os.kill(int(failed.rpartition(" ")[2]), 0)


async def test_whoever_leaves_the_group_and_holds_the_output_open_holds_up_nothing(runner: Runner) -> None:
    child = "import time; time.sleep(15)"
    code = (
        f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-S', '-c', {child!r}], start_new_session=True)\n"
    )
    with anyio.fail_after(13):
        assert await runner(python(code), ABOUT) is None
