"""More seeds than the test run has time for: `python -m tests.simulation --seeds 0:5000`, on PostgreSQL
`python -m tests.simulation --postgresql --seeds 0:200`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import get_context

from sqlalchemy import make_url

from reconciler.store import engines, schema
from tests.harness.postgres import database, given_postgres
from tests.simulation.planted import PLANTS, planted
from tests.simulation.run import Outcome, simulate, simulate_on


def main(argv: Sequence[str] | None = None) -> int:
    given = _arguments(argv)
    if given.postgresql:
        with given_postgres() as server, database(server) as address:
            _lay_schema(address)
            template = make_url(address).database
            return _told((simulate_on(server, str(template), seed) for seed in given.seeds), len(given.seeds))
    if given.plant:
        with planted(given.plant):
            return _told(map(simulate, given.seeds), len(given.seeds))
    if given.trace:
        return _told(map(simulate, given.seeds), len(given.seeds), whole=True)
    with get_context("spawn").Pool(given.processes) as pool:
        return _told(pool.imap_unordered(simulate, given.seeds, chunksize=4), len(given.seeds))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=_seeds, default=range(200), metavar="FROM:TO", help="0:5000, or a single one")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), metavar="N", help="default: one per core")
    parser.add_argument("--trace", action="store_true", help="show everything that happened, whatever the outcome")
    parser.add_argument("--postgresql", action="store_true", help="on PostgreSQL, one seed after the other")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="with this fault planted; all findings are shown")
    return parser.parse_args(argv)


def _lay_schema(address: str) -> None:
    engine = engines.writer(address)
    schema.bring_up_to_date(engine)
    engine.dispose()


def _seeds(text: str) -> range:
    first, colon, last = text.partition(":")
    return range(int(first), int(last)) if colon else range(int(first), int(first) + 1)


def _told(outcomes: Iterable[Outcome], total: int, *, whole: bool = False) -> int:
    """Show what fails as it comes, and what it took."""
    began, failed, cpu, virtual, last = time.monotonic(), 0, 0.0, 0.0, time.monotonic()
    for done, outcome in enumerate(_shown(outcomes, whole=whole), 1):
        failed += outcome.violation is not None
        cpu, virtual = cpu + outcome.cpu, virtual + outcome.virtual
        if time.monotonic() - last > 30:
            last = time.monotonic()
            print(f"{done} of {total}, {failed} failed", flush=True)
    print(
        f"{total} seeds, {failed} failed; {cpu:.0f} s CPU ({cpu / max(total, 1):.2f} a seed), "
        f"{time.monotonic() - began:.0f} s, {virtual / 3600:.1f} h of virtual time"
    )
    return 1 if failed else 0


def _shown(outcomes: Iterable[Outcome], *, whole: bool) -> Iterator[Outcome]:
    for outcome in outcomes:
        if whole:
            print("\n".join((outcome.words, *outcome.trace)))
        elif outcome.violation is not None:
            print(f"{outcome}\n", flush=True)
        yield outcome


if __name__ == "__main__":
    sys.exit(main())
