"""How a measurement is printed: its work, what we need, what the peer needs, their ratio, and the limit."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line. `limit` is the aim in words; a row without a peer has no ratio."""

    work: str
    ours: float
    unit: str = "s"
    peer: float | None = None
    limit: str = ""


def show(title: str, rows: Iterable[Row]) -> None:
    print(f"\n{title}\n")
    print(f"  {'work':<62} {'ours':>12} {'peer':>12} {'ratio':>6}  limit")
    for row in rows:
        peer = _figure(row.peer, row.unit) if row.peer is not None else "-"
        ratio = f"{row.ours / row.peer:.2f}" if row.peer else "-"
        print(f"  {row.work:<62} {_figure(row.ours, row.unit):>12} {peer:>12} {ratio:>6}  {row.limit}", flush=True)


def _figure(value: float, unit: str) -> str:
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def machine() -> str:
    loads = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, Linux {platform.release()}, load {loads}"


def medians(rounds: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
    """The median of each figure over the rounds."""
    return tuple(median(figures) for figures in zip(*rounds, strict=True))


async def timed(rounds: int, work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Wall and CPU seconds of this process, medians."""
    found = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        await work()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = medians(found)
    return wall, cpu


def children_cpu() -> float:
    """CPU seconds of the children that have been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def process_cpu(pid: int) -> float:
    """CPU seconds of another process so far."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int | str = "self") -> float:
    """MB of resident memory."""
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
