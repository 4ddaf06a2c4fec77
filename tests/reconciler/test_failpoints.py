"""Failpoints: inert unless armed, exact when armed, and every name is really passed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import reconciler
from reconciler import failpoints
from reconciler.failpoints import NAMES, STEPS, BadFailpoint, armed


def test_the_named_point_strikes_the_nth_time_only() -> None:
    struck: list[tuple[int, int]] = []
    reach = armed("after_intent:kill@3", lambda process, number: struck.append((process, number)))
    for point in ("after_intent", "before_intent", "after_intent", "after_effect"):
        reach(point)
    assert struck == []
    reach("after_intent")
    reach("after_intent")
    assert struck == [(os.getpid(), signal.SIGKILL)]


def test_stop_halts_at_the_first_time() -> None:
    struck: list[tuple[int, int]] = []
    armed("step_put_back:stop", lambda process, number: struck.append((process, number)))("step_put_back")
    assert struck == [(os.getpid(), signal.SIGSTOP)]


@pytest.mark.parametrize("text", ["nowhere:kill", "after_intent", "after_intent:burn", "after_intent:kill@x", ":kill"])
def test_what_names_no_point_or_verb_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(BadFailpoint, match="expected name:kill"):
        armed(text)


def test_an_armed_process_dies_at_the_point() -> None:
    code = "from reconciler.failpoints import reached; reached('before_look'); print('alive'); reached('after_look')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HOLDFAST_FAILPOINT": "after_look:kill"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "alive\n")


def test_it_is_inert_without_the_variable() -> None:
    failpoints.reached("after_look")


def test_every_name_is_passed_somewhere_and_nothing_else_is() -> None:
    source = "".join(path.read_text() for path in Path(reconciler.__file__).parent.glob("*.py"))
    passed = set(re.findall(r'reached\("(\w+)"\)', source))
    assert passed | set(STEPS.values()) == set(NAMES)
    assert "reached(STEPS[" in source
