"""Any driver's bench, with an agent between its driver and its targets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import anyio
import pytest

from desired_state.model import Target
from drivers.agent.driver import over_agents
from drivers.agent.duty.clock import Clock
from drivers.agent.duty.local import Make, made
from drivers.agent.duty.own import Reader
from drivers.conformance import Bench, Power
from drivers.conformance.clause import Clause
from drivers.contract import Driver
from drivers.registry import load
from tests.drivers.agent.scene import OWN, running
from tests.drivers.agent.wire import Authorises, Wire

LATE: Final = "what is told of a step comes a moment after it, and what is seen then is of later"
ENDS: Final = "whoever sent it is gone, and it is carried to its end: what was planned meanwhile is a conflict"
OF_ANOTHER_KIND: Final = {
    "a_newer_action_finishes_what_an_older_one_began": ENDS,
    "a_crashed_deploy_can_be_taken_back": ENDS,
    "a_sticker_is_in_transit_before_the_first_change": LATE,
    "a_sticker_is_proven_only_after_proof": LATE,
    "the_sticker_of_another_placement_is_not_believed": "a fence is one of the target here, not of a placement",
    "whoever_is_overtaken_changes_nothing_more": "one task at a time on a target: nobody is overtaken",
}


class ThroughAgent(Bench):
    wire: Wire

    def between(self) -> None:
        """Whoever breaks things signs as the agent does, and reads what it has signed."""
        self.tools = replace(self.tools, sign=OWN.signer().sign, read=Reader(OWN))
        self._authorises = Authorises()

    @property
    def target(self) -> Target:
        return _through(super().target)  # type: ignore[safe-super]  # of the bench that it is mixed into

    def unreachable(self) -> Target:
        return _through(super().unreachable())

    def driver(self) -> Driver:
        found: Driver = over_agents(load(self.target.driver))(self.tools, self.wire, self._authorises)
        return found


def _through(target: Target) -> Target:
    return replace(target, connection={**target.connection, "via": "agent"})


@asynccontextmanager
async def served(bench: ThroughAgent, state: Path, clock: Clock, make: Make = made) -> AsyncIterator[None]:
    """While an agent serves the bench's targets."""
    bench.between()
    far = [bench.unreachable().id] if Power.UNREACHABLE in bench.powers else []
    own = replace(OWN, installation=bench.tools.installation)
    welcome = {"targets": (bench.target.id, *far)}
    async with running(state, bench.target, own=own, make=make, welcome=welcome, clock=clock) as scene:
        bench.wire = Wire(scene)
        async with anyio.create_task_group() as group:
            group.start_soon(bench.wire.acknowledge)
            yield
            group.cancel_scope.cancel()


class Applies:
    """Clauses that say something of another kind are left out, each with why."""

    @pytest.fixture(autouse=True)
    def _applies(self, clause: Clause) -> None:
        if clause.name in OF_ANOTHER_KIND:
            pytest.skip(OF_ANOTHER_KIND[clause.name])
