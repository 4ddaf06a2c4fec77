"""The page about replicas: each setting it names exists, with the value it says, and each code is one."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from api.settings import PREFIX, ROLES, Settings
from drivers.process import host
from reconciler import daemon, forward, spread
from reconciler.seats import Seats

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "replicas.md").read_text()
SETTINGS = {each.name: each.default for each in fields(Settings)}


def test_each_setting_it_names_is_one() -> None:
    named = {name.lower() for name in re.findall(rf"{PREFIX}([A-Z_]+)", PAGE)}
    assert len(named) == 7
    assert named <= set(SETTINGS)


@pytest.mark.parametrize("name", ["lease_seconds", "concurrency", "role"])
def test_each_default_it_tells_is_the_default(name: str) -> None:
    [row] = re.findall(rf"^\| `{PREFIX}{name.upper()}` \| (.*) \|$", PAGE, re.MULTILINE)
    assert str(SETTINGS[name]) in row
    assert name != "role" or all(f"`{role}`" in row for role in ROLES)


def test_each_code_it_names_is_raised_somewhere() -> None:
    code = "\n".join(path.read_text() for floor in ("drivers", "reconciler") for path in (ROOT / floor).rglob("*.py"))
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)*)`", PAGE))
    named -= {name for name in named if name.startswith(PREFIX)}
    assert {name for name in named if f'"{name}"' not in code} == set()
    assert {"NO_HOLDER", "STALE_FENCE", "BUSY"} <= named


def test_the_times_and_shares_it_tells_are_those_that_are_kept() -> None:
    assert forward.PATIENCE.total_seconds() == 60
    assert (daemon.READS_IN, spread.POLL, host.PATIENCE) == (5.0, 2.0, 45.0)
    assert Seats(64)._kept == 64 / 8
