"""The kit itself: it lets a proper driver pass, and finds out every driver that breaks a clause."""

from __future__ import annotations

import pytest

from drivers.conformance import Broken, Clause, checks
from tests.drivers.memory_bench import MemoryBench
from tests.drivers.mutants import MUTANTS, Mutant, Mutated
from tests.harness import virtual_time

anyio_backend = virtual_time.backend()

CLAUSES = {clause.name: clause for clause in checks()}
CATCHES = [(mutant, clause) for mutant in MUTANTS for clause in mutant.clauses]


@pytest.mark.parametrize(("mutant", "clause"), CATCHES, ids=lambda one: getattr(one, "name", one))
async def test_the_kit_finds_out(mutant: Mutant, clause: str) -> None:
    with pytest.raises(Broken):
        await CLAUSES[clause].check(MemoryBench(mutant.make))


@pytest.mark.parametrize("clause", checks(), ids=str)
async def test_what_the_mutants_are_made_of_breaks_nothing(clause: Clause) -> None:
    await clause.check(MemoryBench(Mutated))


def test_every_clause_has_a_name_and_a_sentence_of_its_own() -> None:
    clauses = checks()
    assert len({clause.name for clause in clauses}) == len(clauses)
    assert all(clause.sentence.endswith(".") for clause in clauses)


def test_every_clause_is_broken_by_a_mutant() -> None:
    assert set(CLAUSES) == {clause for mutant in MUTANTS for clause in mutant.clauses}


def test_no_two_mutants_are_alike() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


async def test_a_broken_clause_says_which_one_and_what_was_found() -> None:
    async def body(stage: object) -> None:
        raise AssertionError("two of them run")

    clause = Clause(name="one_runs", sentence="Only one runs.", needs=frozenset(), body=body)
    with pytest.raises(Broken, match=r"one_runs: Only one runs\.\s+found: two of them run"):
        await clause.check(MemoryBench())


async def test_a_driver_that_hangs_is_found_out() -> None:
    import anyio

    async def body(stage: object) -> None:
        await anyio.sleep_forever()

    clause = Clause(name="ends", sentence="It ends.", needs=frozenset(), body=body)
    with pytest.raises(Broken, match="ends: not done within 3600 s"):
        await clause.check(MemoryBench())
