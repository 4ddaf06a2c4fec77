"""What the dashboard costs at 10,000 targets in 100 environments with 1,000,000 rows of history: milliseconds until a
page is whole, over a kept connection on loopback, with one asker at a time.

    python -m tests.benchmarks.bench_pages [rows of history]
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from statistics import median
from typing import Any, Final

import httpx2
from sqlalchemy import Connection, insert

from desired_state.model import DesiredState
from reconciler.store import environments
from reconciler.store.tables import standing
from stickers.names import EnvironmentId
from tests.api.pages.stand import Stand, stand, utc
from tests.reconciler.rig import declared

ENVIRONMENTS: Final = 100
TARGETS: Final = 100
ROUNDS: Final = 60
BATCH: Final = 20_000
PAGES: Final = (
    "/",
    "/?show=attention",
    "/environments/default/env-7",
    "/environments/default/env-7/history?at={then}",
    "/targets/default/env-7-3",
    "/targets",
    "/search?q=env-7-3",
    "/drift",
    "/drift.csv",
)
SIDE: Final = {"artifact": "sha256:" + "a" * 64, "configuration": "sha256:" + "b" * 64, "release": "shop@1.0.0"}
CONTENT: Final = json.dumps(
    {
        "declared": SIDE | {"running": True},
        "wanted": SIDE | {"running": True},
        "differences": [],
        "standing": None,
        "sticker": None,
        "unmanaged": None,
    }
)


def main(history: int) -> None:
    with stand(running=False) as made:
        for number in range(ENVIRONMENTS):
            state = _state(number)
            made.write(lambda c, state=state: environments.accept(c, state, now=utc()))  # type: ignore[misc]
        began = time.monotonic()
        for rows in _batches(_rows(history)):
            made.write(lambda c, rows=rows: _insert(c, rows))  # type: ignore[misc]
        print(
            f"{history:,} rows of history and {ENVIRONMENTS * TARGETS:,} open ones in {time.monotonic() - began:.0f} s"
        )
        _measure(made)


def _state(number: int) -> DesiredState:
    return declared("1.0.0", targets=TARGETS, environment=EnvironmentId(f"default/env-{number}"))


def _rows(history: int) -> Iterator[dict[str, Any]]:
    """Every placement in turn, stopped and in sync by turns over a day; at the end one in forty is not in sync."""
    placements, now = ENVIRONMENTS * TARGETS, utc()
    step = timedelta(days=1) / max(1, history)
    for number in range(history):
        since = now - timedelta(days=1) + number * step
        verdict = "in sync" if number // placements % 2 else "stopped"
        yield _row(number % placements, verdict, since, since + placements * step)
    for number in range(placements):
        verdict = "in sync" if number % 40 else "stopped" if number % 80 else "unknown"
        yield _row(number, verdict, now, None)


def _row(number: int, verdict: str, since: Any, until: Any) -> dict[str, Any]:
    where = f"default/env-{number % ENVIRONMENTS}"
    return {
        "environment": where,
        "target": f"{where}-{number // ENVIRONMENTS}",
        "component": "api",
        "slot": "live",
        "since": since,
        "until": until,
        "verdict": verdict,
        "trust": "valid",
        "rule": "a rule",
        "reason": "",
        "heal": 0,
        "digest": "sha256:" + "c" * 64,
        "content": CONTENT,
    }


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch


def _insert(c: Connection, rows: list[dict[str, Any]]) -> None:
    c.execute(insert(standing), rows)


def _measure(made: Stand) -> None:
    then = (utc() - timedelta(minutes=30)).isoformat(timespec="seconds").replace("+00:00", "")
    with httpx2.Client(base_url=made.address, trust_env=False, timeout=120) as client:
        for path in PAGES:
            address = path.format(then=then)
            first = _took(client, address)
            took = sorted(_took(client, address) for _ in range(ROUNDS))
            size = len(client.get(address).content)
            worst = took[int(len(took) * 0.99)]
            print(f"{path:<50} p50 {median(took):7.1f} ms  p99 {worst:7.1f} ms  first {first:7.1f} ms  {size:>9,} B")


def _took(client: httpx2.Client, path: str) -> float:
    began = time.perf_counter()
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.status_code, answer.text[:300])
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
