"""Every seed keeps every invariant and comes to rest; and one seed is one run, wherever it runs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.reconciler.store.conftest import server, template
from tests.simulation.run import simulate, simulate_on

__all__ = ["server", "template"]

SEEDS = 300
SHARED = 6  # of them on PostgreSQL; `python -m tests.simulation --postgresql --seeds 0:500` runs more
CHUNK = 10  # seeds in one test, so that they spread over the workers


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_seed_keeps_the_invariants_and_comes_to_rest(first: int) -> None:
    for seed in range(first, first + CHUNK):
        outcome = simulate(seed)
        assert outcome.violation is None, str(outcome)


@pytest.mark.parametrize("seed", range(SHARED))
def test_seeds_keep_them_on_postgresql_too(server: str, template: str, seed: int) -> None:
    outcome = simulate_on(server, f"holdfast_{template}", seed)
    assert outcome.violation is None, str(outcome)


def test_one_seed_is_one_run_in_every_process() -> None:
    code = "from tests.simulation.run import simulate; print(*(simulate(seed).digest for seed in (3, 17, 41)))"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(runs) == 1
    assert runs == {" ".join(simulate(seed).digest for seed in (3, 17, 41)).encode() + b"\n"}


def test_a_violation_shows_its_seed_and_the_end_of_the_trace() -> None:
    from tests.simulation.planted import found

    outcome = found("sticker before proof")
    assert outcome is not None
    lines = str(outcome).splitlines()
    assert lines[-1].startswith(f"seed {outcome.seed}: ")
    assert "unproven" in lines[-1]
    assert len(lines) <= 62
