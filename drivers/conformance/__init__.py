"""What every driver must keep to, each clause a check of its own. Needs pytest and anyio, no daemon and no store.

A driver's tests bring a `Bench`: one target of the real runtime, artifacts for it, hands that break things behind the
driver's back and eyes that look at the runtime itself. The kit does the rest::

    from drivers.conformance import Bench, Conformance

    class QuayBench(Bench): ...                    # its abstract methods are documented there

    class TestQuay(Conformance):
        @pytest.fixture
        async def bench(self) -> AsyncIterator[Bench]:
            async with QuayBench() as bench:       # or however it is made and taken away
                yield bench

Each clause is one line of the report: ``TestQuay::test_keeps[twice_is_once]``. A clause that needs a `Power` the bench
does not have is skipped and says so. Without pytest's collection::

    for clause in checks():
        await clause.check(bench)                  # raises `Broken`, naming the clause and what was found

Every clause begins on an empty target, so each needs a bench of its own.
"""

from drivers.conformance.bench import Bench, Power, Raw, Version, proper_tools
from drivers.conformance.clause import Broken, Clause
from drivers.conformance.mixin import Conformance, checks

__all__ = ["Bench", "Broken", "Clause", "Conformance", "Power", "Raw", "Version", "checks", "proper_tools"]
