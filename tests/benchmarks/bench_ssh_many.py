"""A thousand hosts behind SSH, connections kept: what a look at all of them needs, and what each kept one holds.

    python -m tests.benchmarks.bench_ssh_many

One process plays the hosts, on the same cores: its time is in the wall, and in no CPU figure.
"""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import anyio
import asyncssh

from api.cli.main import GARBAGE
from drivers.process.driver import ProcessDriver
from reconciler.observe import Eyes, Sight
from tests.benchmarks.bench_ssh import wear
from tests.benchmarks.played_hosts import address
from tests.benchmarks.ssh_readers import ENVIRONMENT, INSTALLATION, Connection, Fleet, looks_at, tools
from tests.benchmarks.table import Row, resident, show, timed
from tests.drivers.process.yard import signer
from tests.harness.sshd import free_port

HOSTS: Final = 1000
FIRST: Final = 100  # connected before memory is counted: threads and caches are no host's
ROUNDS: Final = 15


@contextmanager
def played(directory: Path) -> Iterator[Fleet]:
    key, port = asyncssh.generate_private_key("ssh-ed25519"), free_port(address(0))
    client = directory / "client"
    client.write_bytes(key.export_private_key())
    roots = [directory / f"root-{number}" for number in range(HOSTS)]
    for number, root in enumerate(roots):
        wear(root, f"t{number}")
    program = [sys.executable, "-m", "tests.benchmarks.played_hosts"]
    public = key.export_public_key().decode().strip()
    player = subprocess.Popen(
        [*program, public, str(HOSTS), str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert player.stdout is not None
    assert player.stdin is not None
    try:
        shown = player.stdout.readline().strip()
        said = {"via": "ssh", "port": port, "user": "root", "key": {"secret": f"file:{client}"}, "known_hosts": [shown]}
        patience = {"connect_timeout": "300s", "command_timeout": "300s"}
        hosts: list[Connection] = [
            {**said, **patience, "host": address(number), "root": str(root)} for number, root in enumerate(roots)
        ]
        yield Fleet(hosts=hosts, public=signer()[0].key.public)
    finally:
        player.stdin.close()
        player.wait()


async def measure(fleet: Fleet) -> None:
    looks, driver = looks_at(fleet), ProcessDriver(tools(fleet, signer()[0].sign))
    eyes = Eyes(
        {"process": driver}, fleet.keyring, INSTALLATION, now=lambda: datetime.now(UTC), sight=Sight(deadline=300.0)
    )

    async def look() -> None:
        seen = await eyes.look(ENVIRONMENT, looks)
        for one in seen.values():
            assert one.observation.unseen is None, one.observation.unseen
            assert one.readings

    for some in range(0, FIRST, 20):
        await eyes.look(ENVIRONMENT, looks[some : some + 20])
    gc.collect()
    before = resident()
    for some in range(FIRST, HOSTS, 100):
        await eyes.look(ENVIRONMENT, looks[some : some + 100])
    gc.collect()
    held = (resident() - before) * 1e6 / 1024 / (HOSTS - FIRST)
    await look()
    wall, cpu = await timed(ROUNDS, look)
    await driver.aclose()
    show(
        f"{HOSTS:,} kept hosts: look and believe, as each turn does, medians of {ROUNDS}",
        [
            Row(work="wall, the playing of the hosts included", ours=wall, limit="0.6 s"),
            Row(work="CPU a host", ours=cpu * 1000 / HOSTS, unit="ms", limit="0.25 ms"),
            Row(work="memory a kept host", ours=held, unit="KiB", limit="50 KiB"),
        ],
    )


def main() -> int:
    gc.set_threshold(*GARBAGE)  # as the daemon does
    directory = Path(tempfile.mkdtemp(prefix="hf-bench-ssh-"))
    try:
        with played(directory) as fleet:
            anyio.run(measure, fleet, backend_options={"use_uvloop": True})
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
