"""The simulation finds what is planted, or it proves nothing."""

from __future__ import annotations

import pytest

from tests.simulation.planted import PLANTS, found


@pytest.mark.parametrize("name", sorted(PLANTS))
def test_the_planted_fault_is_found_within_its_budget(name: str) -> None:
    outcome = found(name)
    assert outcome is not None, f"{name} was not found within {PLANTS[name].budget} seeds"
