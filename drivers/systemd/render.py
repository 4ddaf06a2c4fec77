"""What is declared that systemd cannot give a workload. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from desired_state.model import Configuration, Placement
from drivers.process.render import beyond_a_host, files
from drivers.systemd import unit


def unsupported(placement: Placement) -> tuple[str, ...]:
    """Sentences: what would not be enforced, or not arrive. Empty when everything would."""
    declared = placement.configuration
    return (*beyond_a_host(declared), *_limits(declared), *files(declared), *_variables(declared))


def _limits(declared: Configuration) -> Iterator[str]:
    if declared.cpus is not None and (declared.cpus <= 0 or declared.cpus % 10):
        yield f"cpus {declared.cpus / 1000:g}: systemd gives processors in hundredths of a core"
    if declared.memory is not None and declared.memory <= 0:
        yield f"memory {declared.memory}: nothing runs in so little"


def _variables(declared: Configuration) -> Iterator[str]:
    """Of secrets the name; their values are held against the same rules on the host, before anything is written."""
    for name, value in declared.environment:
        yield from unit.unfit_variable(name, value if isinstance(value, str) else "")
