"""What documents cost: bytes to desired states for fleets of 1,000 and 10,000 targets, in milliseconds of CPU.

    python -m tests.benchmarks.bench_documents [targets …]

`plain` targets say nothing of their own; `own` ones have ports, variables and a health check laid over those of the
environment. A hundred targets stand in one file. `digest` is the content digest of the environment.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

from desired_state.load import load
from desired_state.model import DesiredState
from desired_state.resolve import Resolved
from desired_state.sources.base import Tree
from tests.desired_state.trees import CONNECTIONS, ENVIRONMENT, RELEASE, TARGET

ROUNDS = 3
OWN = """\
components:
  web:
    ports: ["127.0.0.1:8080:8080"]
    environment: {PORT: "8080", TARGET: here}
    health: {http: {port: 8080, path: /health}, interval: 200ms, deadline: 5s}
"""


def tree(targets: int, own: str) -> Tree:
    texts = [TARGET.replace("t1", f"t{number}") + own for number in range(targets)]
    files = {f"{at}.yaml": "---\n".join(texts[at : at + 100]).encode() for at in range(0, targets, 100)}
    return Tree(files=files | {"shop.yaml": f"{RELEASE}---\n{ENVIRONMENT}".encode()}, revision="1")


def milliseconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return median(taken) * 1000


def digest(what: Resolved) -> object:
    """Taken anew: a desired state keeps it."""
    (desired,) = what.environments.values()
    return DesiredState.digest.func(desired)  # type: ignore[attr-defined]


def main() -> None:
    print(f"{'targets':>8} {'kind':>6} {'load ms':>9} {'digest ms':>10}")
    for targets in [int(word) for word in sys.argv[1:]] or [1_000, 10_000]:
        for kind, own in (("plain", ""), ("own", OWN)):
            made = tree(targets, own)
            what = load(made, CONNECTIONS)
            loading = milliseconds(lambda made=made: load(made, CONNECTIONS))  # type: ignore[misc]
            digesting = milliseconds(lambda what=what: digest(what))  # type: ignore[misc]
            print(f"{targets:>8} {kind:>6} {loading:>9.0f} {digesting:>10.0f}")


if __name__ == "__main__":
    main()
