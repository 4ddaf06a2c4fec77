"""Hooks on the target: run on its own host, here or over SSH, with what is declared and nothing else, and only where
both the daemon and the target let them."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from desired_state.hooks import Hook, Hooks, Where
from desired_state.model import Placement
from desired_state.secrets import SecretRef
from drivers.contract import Deploy, Look, Result
from drivers.errors import Busy, NotAllowed, Refused
from drivers.hooks import Runner
from drivers.process import journey
from drivers.process.driver import ProcessDriver
from stickers.redaction import Redactor
from tests.drivers.process.test_ssh import behind
from tests.drivers.process.yard import Yard
from tests.harness.sshd import Relay, Sshd, relayed, sshd_or_skip


@pytest.fixture(scope="module")
def standing() -> Iterator[Sshd]:
    with sshd_or_skip() as server:
        yield server


@pytest.fixture
async def relay(standing: Sshd) -> AsyncIterator[Relay]:
    async with relayed(standing) as line:
        yield line


def let(yard: Yard, *at: Where, way: Relay | None = None, **said: Any) -> Yard:
    """Hooks allowed by the daemon, and by the target unless it says otherwise."""
    redactor = Redactor()

    async def secret(reference: SecretRef) -> str:
        found = yard.secrets[reference.reference]
        redactor.add(found)
        return found

    said = {"hooks": True, **said}
    if way is not None:
        behind(yard, way, **said)
    else:
        yard.target = yard.target_at(yard.root, "web-1", **said)
    yard.tools = replace(yard.tools, hook=Runner(redactor, secret), hooks_at=frozenset(at or Where))
    yard.driver = ProcessDriver(yard.tools)
    return yard


def hook(code: str, *, deadline: float = 20, where: Where = Where.TARGET, **environment: str | SecretRef) -> Hook:
    argv = (sys.executable, "-S", "-c", code)
    variables = tuple(sorted(environment.items()))
    return Hook(argv=argv, environment=variables, deadline=timedelta(seconds=deadline), where=where)


def with_hooks(placement: Placement, pre: Hook | None = None, post: Hook | None = None) -> Placement:
    return replace(placement, hooks=Hooks(pre_deploy=pre, post_deploy=post))


@pytest.fixture(params=["here", "ssh"])
def there(request: pytest.FixtureRequest, yard: Yard, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> Yard:
    monkeypatch.setattr(journey, "PAUSE", 0.05)
    return let(yard, way=relay if request.param == "ssh" else None)


async def test_a_hook_gets_what_is_declared_what_it_is_about_and_nothing_else(
    there: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "not theirs")
    there.secrets["env:TOKEN"] = "battery-staple"
    names = "set(os.environ) - {'LC_CTYPE', 'PWD'}"
    code = f"import os; open({str(tmp_path / 'told')!r}, 'w').write(','.join(sorted({names})) + os.environ['TOKEN'])"
    wanted = with_hooks(there.placement("1.0"), pre=hook(code, TOKEN=SecretRef(reference="env:TOKEN")))
    assert (await there.deploy(wanted)).result is Result.CHANGED
    ours = ["ARTIFACT", "COMPONENT", "ENVIRONMENT", "HOOK", "KEY", "PREVIOUS_RELEASE", "RELEASE", "TARGET"]
    assert (tmp_path / "told").read_text() == ",".join([*(f"HOLDFAST_{name}" for name in ours), "PATH", "TOKEN"]) + (
        "battery-staple"
    )
    assert there.says(b"battery-staple") == []


async def test_a_hook_that_fails_before_the_first_change_stops_it_in_its_own_words(there: Yard) -> None:
    there.secrets["env:TOKEN"] = "battery-staple"
    code = "import os, sys; print('no table for', os.environ['TOKEN']); sys.exit(3)"
    wanted = with_hooks(there.placement("1.0"), pre=hook(code, TOKEN=SecretRef(reference="env:TOKEN")))
    with pytest.raises(
        Refused, match=r"nothing was changed.*on the target: ended with exit code 3: no table"
    ) as failed:
        await there.deploy(wanted)
    assert "battery-staple" not in str(failed.value)
    assert await there.standing() is None or (await there.standing()).workload is None  # type: ignore[union-attr]


async def test_a_hook_that_fails_after_the_proof_puts_back_what_stood(there: Yard) -> None:
    one = there.placement("1.0")
    await there.deploy(one)
    two = with_hooks(there.placement("2.0"), post=hook("raise SystemExit('the cart is empty')"))
    outcome = await there.deploy(two, one)
    assert outcome.result is Result.REVERTED
    assert "the cart is empty" in outcome.detail


async def test_a_hook_ends_at_its_deadline_with_all_that_it_started(there: Yard, tmp_path: Path) -> None:
    child = "import time; time.sleep(60)"
    code = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-S', '-c', {child!r}, {str(tmp_path)!r}])\n"
        "time.sleep(60)"
    )
    began = time.monotonic()
    with pytest.raises(Refused, match="was not done within 1 s"):
        await there.deploy(with_hooks(there.placement("1.0"), pre=hook(code, deadline=1)))
    assert time.monotonic() - began < 15
    assert not [
        path
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.exists() and str(tmp_path).encode() in path.read_bytes()
    ]


async def test_a_program_that_is_not_there_is_said(there: Yard) -> None:
    missing = Hook(argv=("/no/such/program",), where=Where.TARGET)
    with pytest.raises(Refused, match="/no/such/program on the target"):
        await there.deploy(with_hooks(there.placement("1.0"), pre=missing))


async def test_what_is_as_wanted_runs_no_hook(there: Yard, tmp_path: Path) -> None:
    wanted = with_hooks(there.placement("1.0"), pre=hook(f"open({str(tmp_path / 'ran')!r}, 'a').write('x')"))
    await there.deploy(wanted)
    await there.deploy(wanted)
    assert (tmp_path / "ran").read_text() == "x"


async def test_a_target_that_does_not_let_hooks_is_not_touched(yard: Yard) -> None:
    let(yard, hooks=False)
    with pytest.raises(NotAllowed, match=r"hooks\.pre_deploy\.where.*connection\.hooks: true"):
        await yard.deploy(with_hooks(yard.placement("1.0"), pre=hook("")))


async def test_a_daemon_may_let_hooks_run_on_targets_alone(yard: Yard, tmp_path: Path) -> None:
    let(yard, Where.TARGET)
    ran = f"open({str(tmp_path / 'ran')!r}, 'a').write('x')"
    with pytest.raises(NotAllowed, match="targets alone"):
        await yard.deploy(with_hooks(yard.placement("1.0"), pre=hook(ran, where=Where.DAEMON)))
    await yard.deploy(with_hooks(yard.placement("1.0"), pre=hook(ran)))
    assert (tmp_path / "ran").read_text() == "x"


async def test_a_cut_does_not_run_two_hooks_side_by_side(yard: Yard, relay: Relay, tmp_path: Path) -> None:
    """It is run again, by the same key, and only when the first has ended: at least once."""
    let(yard, way=relay)
    log = tmp_path / "log"
    code = (
        f"import os, time; log = open({str(log)!r}, 'a', buffering=1); print('begun', os.environ['HOLDFAST_KEY'],"
        " file=log); time.sleep(1); print('ended', file=log)"
    )
    change = await yard.change(with_hooks(yard.placement("1.0"), pre=hook(code)))
    action = yard.action(change)
    applying = asyncio.create_task(yard.driver.apply(action, report=lambda _: None))
    while not log.exists():  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.02)
    relay.cut()
    assert (await applying).as_wanted
    words = log.read_text().split()
    assert words == ["begun", action.key, "ended", "begun", action.key, "ended"]


async def test_a_hook_that_is_left_alone_keeps_the_placement(yard: Yard, tmp_path: Path) -> None:
    let(yard)
    begun = tmp_path / "begun"
    change = await yard.change(
        with_hooks(yard.placement("1.0"), pre=hook(f"import time; open({str(begun)!r}, 'w'); time.sleep(2)"))
    )
    applying = asyncio.create_task(yard.driver.apply(yard.action(change), report=lambda _: None))
    while not begun.exists():  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.02)
    applying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await applying
    assert isinstance(change, Deploy)
    with pytest.raises(Busy):
        await yard.driver.apply(yard.action(change), report=lambda _: None)


async def test_the_doctor_says_what_holds_hooks_there(yard: Yard) -> None:
    let(yard)
    found = {one.about: one for one in await yard.driver.examine(Look(target=yard.target))}
    assert "bubblewrap" in found["hooks"].sentence + str(found["hooks"].remedy)
    let(yard, hooks=False)
    assert "hooks" not in {one.about for one in await yard.driver.examine(Look(target=yard.target))}
