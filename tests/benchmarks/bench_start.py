"""How long a command takes to start: `holdfast --help`, and `status` against a daemon; and an agent with the docker
driver, until it can say hello.

python -m tests.benchmarks.bench_start
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.benchmarks.table import Row, children_cpu, medians, show
from tests.drivers.agent.test_light import WITH_DOCKER
from tests.harness.held import Held

ROUNDS: Final = 15


def measure(command: Sequence[str]) -> tuple[float, float]:
    """Wall and CPU milliseconds, medians."""
    found = []
    for _ in range(ROUNDS):
        wall, cpu = time.perf_counter(), children_cpu()
        subprocess.run(command, check=True, capture_output=True)
        found.append((1000 * (time.perf_counter() - wall), 1000 * (children_cpu() - cpu)))
    wall, cpu = medians(found)
    return wall, cpu


def _greeting() -> float:
    """CPU milliseconds."""
    said = subprocess.run([sys.executable, "-c", WITH_DOCKER], check=True, capture_output=True)
    _, _, started = json.loads(said.stdout)
    return 1000 * float(started)


def main() -> None:
    home = Path(tempfile.mkdtemp(prefix="hf-bench-"))
    held = Held(home / "held")
    try:
        held.start()
        held.wait("the daemon", held.listens)
        bare, bare_cpu = measure([sys.executable, "-c", "pass"])
        helped, helped_cpu = measure([sys.executable, "-m", "api.cli.main", "--help"])
        asked, asked_cpu = measure(held.command("status"))
        greeting = statistics.median(_greeting() for _ in range(ROUNDS))
    finally:
        held.kill()
        shutil.rmtree(home)
    show(
        f"Start of a command, beside a bare interpreter, medians of {ROUNDS}",
        [
            Row(work="holdfast --help, wall", ours=helped, peer=bare, unit="ms", limit="120 ms"),
            Row(work="holdfast --help, CPU", ours=helped_cpu, peer=bare_cpu, unit="ms"),
            Row(work="holdfast status against a daemon, wall", ours=asked, peer=bare, unit="ms", limit="120 ms"),
            Row(work="holdfast status against a daemon, CPU", ours=asked_cpu, peer=bare_cpu, unit="ms"),
            Row(
                work="an agent with docker until it can say hello, CPU",
                ours=greeting,
                peer=bare_cpu,
                unit="ms",
                limit="500 ms",
            ),
        ],
    )


if __name__ == "__main__":
    main()
