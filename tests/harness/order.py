"""The order of the tests when several workers share them: the dearest files first, each dealt to the worker that has
least by then, and what costs next to nothing last, so that all workers end together whoever takes over from whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol, TypeVar

# seconds that each file took on a busy machine with two cores, all its tests together: most of it is waiting for others
DEAREST: Final[Mapping[str, float]] = {
    "tests/simulation/test_simulation.py": 600,
    "tests/drivers/compose/test_conformance.py": 465,
    "tests/drivers/docker/test_conformance.py": 306,
    "tests/drivers/agent/test_real_conformance.py": 300,
    "tests/faults/test_crashes.py": 300,
    "tests/examples/test_demo_docker.py": 260,
    "tests/drivers/systemd/test_conformance.py": 254,
    "tests/api/test_daemon.py": 230,
    "tests/examples/test_demo.py": 220,
    "tests/drivers/docker/test_crashes.py": 202,
    "tests/drivers/process/test_ssh_conformance.py": 187,
    "tests/replicas/test_daemons.py": 180,
    "tests/reconciler/test_reconcile.py": 180,
    "tests/packaging/test_install.py": 150,
    "tests/drivers/agent/test_crashes.py": 150,
    "tests/drivers/compose/test_driver.py": 135,
    "tests/reconciler/store/test_history.py": 130,
    "tests/drivers/script/test_conformance.py": 130,
    "tests/replicas/test_losses.py": 120,
    "tests/reconciler/test_execute.py": 120,
    "tests/reconciler/core/test_properties.py": 110,
    "tests/simulation/test_planted.py": 100,
    "tests/drivers/docker/test_deploy.py": 100,
    "tests/api/pages/test_browser.py": 100,
    "tests/drivers/docker/test_own_engine.py": 90,
    "tests/drivers/compose/test_ssh.py": 90,
    "tests/drivers/process/test_supervisor.py": 88,
    "tests/drivers/process/test_conformance.py": 83,
    "tests/replicas/": 80,
    "tests/api/people/": 80,
    "tests/api/agents/": 60,
    "tests/drivers/agent/": 40,
    "tests/reconciler/store/": 60,
    "tests/drivers/windows/test_conformance.py": 57,
    "tests/api/http/test_serving.py": 57,
    "tests/api/http/test_contract.py": 54,
    "tests/drivers/process/test_driver.py": 60,
    "tests/drivers/systemd/": 50,
    "tests/drivers/nomad/test_conformance.py": 49,
    "tests/drivers/ecs/test_conformance.py": 39,
    "tests/drivers/docker/": 30,
    "tests/drivers/process/": 30,
    "tests/drivers/windows/": 30,
    "tests/drivers/script/": 30,
    "tests/drivers/ssh/": 20,
    "tests/api/": 20,
}


class Test(Protocol):
    @property
    def nodeid(self) -> str: ...


T = TypeVar("T", bound=Test)


def dealt(tests: Sequence[T], workers: int) -> list[T]:
    """The tests of as many hands of one size as there are workers, one hand after the other: each worker of xdist's
    `worksteal` begins with one, and who has finished takes from the end of another's."""
    files: dict[str, list[T]] = {}
    for test in tests:
        files.setdefault(test.nodeid.partition("::")[0], []).append(test)
    hands: list[list[T]] = [[] for _ in range(workers)]
    costs = [0.0] * workers
    for cost, file in sorted((-_cost(file), file) for file in files if _cost(file)):
        least = costs.index(min(costs))
        hands[least] += files.pop(file)
        costs[least] -= cost
    rest = [test for cheap in files.values() for test in cheap]
    size = -(-len(tests) // workers)
    for hand in hands:
        room = max(0, size - len(hand))
        hand += rest[:room]
        rest = rest[room:]
    return [test for hand in hands for test in hand] + rest


def _cost(file: str) -> float:
    """Of the path that says most about it."""
    return max(((len(path), cost) for path, cost in DEAREST.items() if file.startswith(path)), default=(0, 0.0))[1]
