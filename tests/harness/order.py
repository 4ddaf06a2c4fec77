"""The order of the tests when several workers share them: the dearest files first, dealt to the workers in turn, and
what costs next to nothing last, so that all workers end together whoever takes over from whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

DEAREST: Final = (
    "tests/simulation/",
    "tests/drivers/docker/test_conformance.py",
    "tests/drivers/compose/test_conformance.py",
    "tests/examples/",
    "tests/faults/",
    "tests/replicas/",
    "tests/drivers/process/test_ssh_conformance.py",
    "tests/drivers/systemd/test_conformance.py",
    "tests/api/test_daemon.py",
    "tests/drivers/process/",
    "tests/drivers/docker/",
    "tests/drivers/compose/",
    "tests/drivers/systemd/",
    "tests/drivers/ssh/",
    "tests/drivers/script/",
    "tests/drivers/windows/",
    "tests/packaging/test_install.py",
    "tests/api/",
)


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
    dear = sorted((file for file in files if _rank(file) < len(DEAREST)), key=_rank)
    hands: list[list[T]] = [[] for _ in range(workers)]
    for number, file in enumerate(dear):
        hands[number % workers] += files.pop(file)
    rest = [test for cheap in files.values() for test in cheap]
    size = -(-len(tests) // workers)
    for hand in hands:
        room = max(0, size - len(hand))
        hand += rest[:room]
        rest = rest[room:]
    return [test for hand in hands for test in hand] + rest


def _rank(file: str) -> int:
    return next((rank for rank, path in enumerate(DEAREST) if file.startswith(path)), len(DEAREST))
