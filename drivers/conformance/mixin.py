"""The clauses, in the order of the contract, and the class that has pytest run each of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Final

import pytest

from drivers.conformance import idempotence, interrupting, labelling, looking, neighbours, proving
from drivers.conformance.bench import Bench
from drivers.conformance.clause import Clause

MODULES: Final = (idempotence, labelling, proving, interrupting, looking, neighbours)


def checks() -> tuple[Clause, ...]:
    """Every clause."""
    return tuple(found for module in MODULES for found in _clauses(module))


def _clauses(module: ModuleType) -> Iterator[Clause]:
    for found in vars(module).values():
        series: Iterable[object] = found if isinstance(found, tuple) else (found,)
        yield from (one for one in series if isinstance(one, Clause))


class Conformance:
    """Subclass it in a driver's tests and give it a fixture `bench`, a fresh one for each test."""

    @pytest.mark.anyio
    @pytest.mark.parametrize("clause", checks(), ids=str)
    async def test_keeps(self, bench: Bench, clause: Clause) -> None:
        missing = sorted(clause.needs - bench.powers)
        if missing:
            pytest.skip(f"no power of: {', '.join(missing)}")
        await clause.check(bench)
