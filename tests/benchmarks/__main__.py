"""`make bench`: every benchmark, one after the other, each in a process of its own and within its time.

python -m tests.benchmarks [start turn core store replicas memory load documents docker compose ssh ssh_many push
                            agents]
"""

from __future__ import annotations

import subprocess
import sys
from typing import Final

from tests.benchmarks.table import machine

MINUTES: Final = {  # at the longest
    "start": 2,
    "turn": 10,
    "core": 5,
    "store": 10,
    "pages": 10,
    "load": 10,
    "memory": 40,
    "replicas": 25,
    "documents": 5,
    "docker": 5,
    "compose": 10,
    "ssh": 10,
    "ssh_many": 5,
    "api": 10,
    "push": 5,
    "agents": 20,
}


def main(names: list[str]) -> int:
    print(f"Medians. {machine()}; whatever else runs on this machine is in the wall times.", flush=True)
    failed = [name for name in names or MINUTES if not _runs(name)]
    if failed:
        print(f"\nnot measured: {', '.join(failed)}")
    return 1 if failed else 0


def _runs(name: str) -> bool:
    print(f"\n== {name} ==", flush=True)
    command = [sys.executable, "-m", f"tests.benchmarks.bench_{name}"]
    try:
        return subprocess.run(command, timeout=60 * MINUTES[name]).returncode == 0
    except subprocess.TimeoutExpired:
        print(f"not done within {MINUTES[name]} minutes", flush=True)
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
