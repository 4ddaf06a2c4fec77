"""One seed from its first release to rest."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio

from reconciler import failpoints, reconcile
from tests.harness import postgres, virtual_time
from tests.simulation.checks import Checks, spied
from tests.simulation.nemesis import Nemesis
from tests.simulation.scenario import drawn
from tests.simulation.world import Simulation, hook, leases_by_virtual_time

QUIET: Final = 45 * 60.0  # seconds within which a mended fleet comes to rest
REST: Final = 30.0  # seconds that a rest lasts before it is believed
SHOWN: Final = 60  # lines of the trace that a failure shows


@dataclass(frozen=True, kw_only=True)
class Outcome:
    seed: int
    words: str
    violation: str | None
    trace: tuple[str, ...]
    cpu: float
    virtual: float

    @property
    def digest(self) -> str:
        """Equal for equal runs, in every process."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        lines = "\n".join(self.trace[-SHOWN:])
        return f"{self.words}\n{lines}\nseed {self.seed}: {self.violation}"


def simulate(seed: int, address: str | None = None) -> Outcome:
    """Run one seed; nothing of it outlives the call. With the address of an empty database on PostgreSQL, on that."""
    began = time.process_time()
    with leases_by_virtual_time() if address else nullcontext():
        sim, virtual = virtual_time.run(partial(_run, seed, address), seed=seed)
    return Outcome(
        seed=seed,
        words=sim.scenario.words,
        violation=sim.violation,
        trace=tuple(sim.trace),
        cpu=time.process_time() - began,
        virtual=virtual,
    )


def simulate_on(server: str, template: str, seed: int) -> Outcome:
    """One seed on a database of its own, copied from the template that has the schema."""
    with postgres.database(server, template) as address:
        return simulate(seed, address)


async def _run(seed: int, address: str | None) -> tuple[Simulation, float]:
    sim = Simulation(drawn(seed), address)
    checks, nemesis = Checks(sim), Nemesis(sim)
    with _watched(sim):
        async with anyio.create_task_group() as group:
            for place in ("a", "b") if "replicas" in sim.scenario.on else ("a",):
                group.start_soon(nemesis.keep_alive, place)
            await _course(sim, checks, nemesis)
            group.cancel_scope.cancel()
    await sim.close()
    return sim, anyio.current_time()


async def _course(sim: Simulation, checks: Checks, nemesis: Nemesis) -> None:
    nemesis.first_release()
    async with anyio.create_task_group() as chaos:
        chaos.start_soon(_ends, sim, chaos.cancel_scope)
        await nemesis.rage()
        await nemesis.mend()
        await _rest(sim, checks)
        chaos.cancel_scope.cancel()


async def _ends(sim: Simulation, scope: anyio.CancelScope) -> None:
    """A broken invariant ends the run."""
    await sim.over.wait()
    scope.cancel()


async def _rest(sim: Simulation, checks: Checks) -> None:
    """The mended fleet comes to rest in bounded time, and stays there."""
    deadline, reason, since = anyio.current_time() + QUIET, None, None
    while anyio.current_time() < deadline:
        reason = checks.resting()
        since = (since or anyio.current_time()) if reason is None else None
        if since is not None and anyio.current_time() - since >= REST:
            checks.at_rest()
            return
        await anyio.sleep(5)
    sim.broken(f"no rest within {QUIET:g} s: {reason}")


@contextmanager
def _watched(sim: Simulation) -> Iterator[None]:
    """The code under test, with its failpoints and two decisions watched."""
    survey, planned = reconcile.survey, reconcile.planned
    reconcile.survey, reconcile.planned = spied(sim, survey, planned)
    failpoints.listen(hook)
    try:
        yield
    finally:
        failpoints.listen(None)
        reconcile.survey, reconcile.planned = survey, planned
