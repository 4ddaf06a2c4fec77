"""The stickers of a hundred hosts behind SSH, read cold and warm, beside bare asyncssh, ansible-core and pyinfra in the
same run.

    python -m tests.benchmarks.bench_ssh

The hosts are a hundred loopback addresses of a few real sshd's, each with a root that was deployed to before. They run
on the same cores: sshd needs some 18 ms of CPU a connection, a Python that starts there some 30 ms, and both are in all
wall times, but in no CPU figure. The peers check no signature and know no target: they read with `cat`, bare asyncssh
also by a kept loop.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Final

import anyio

from api.cli.main import GARBAGE
from drivers.process import host
from drivers.process.driver import ProcessDriver
from drivers.ssh.wire import program
from reconciler.observe import Eyes
from stickers import codec, digest
from stickers.names import (
    LIVE,
    ActionKey,
    ComponentName,
    EnvironmentName,
    ProjectName,
    TargetName,
    job_id,
    release_name,
)
from stickers.signature import Statement
from stickers.sticker import Claim, Phase, Sticker
from tests.benchmarks.ssh_peers import Figures, NoPeer, Peers, installed
from tests.benchmarks.ssh_readers import (
    ENVIRONMENT,
    INSTALLATION,
    Connection,
    Fleet,
    command,
    dialled,
    look,
    looks_at,
    sticker_of,
    tools,
)
from tests.benchmarks.table import Row, children_cpu, medians, resident, show, timed
from tests.drivers.process.yard import signer
from tests.harness.sshd import NoSshd, Sshd, free_port
from tests.harness.sshd import program as sshd

HOSTS: Final = 100
TOGETHER: Final = 16  # addresses one sshd listens at, at most
ROUNDS: Final = 5
WARM: Final = 30
EACH: Final = 1000 / HOSTS  # seconds for all to milliseconds for one
READER: Final = (
    f"{sys.executable} -I -S -c "
    "'import json, sys\nfor path in sys.stdin: print(json.dumps(open(path[:-1]).read()), flush=True)'"
)


def main() -> int:
    try:
        sshd()
    except NoSshd as reason:
        print(f"not measured: {reason}")
        return 1
    directory = Path(tempfile.mkdtemp(prefix="hf-bench-ssh-"))
    try:
        with ExitStack() as stack:
            measure(fleet(directory, stack), directory, stack)
    finally:
        shutil.rmtree(directory, ignore_errors=True)  # a host's program may be at its very end
    return 0


# -- the hosts ---------------------------------------------------------------------------------------------------------


def fleet(directory: Path, stack: ExitStack) -> Fleet:
    found: list[Connection] = []
    for first in range(0, HOSTS, TOGETHER):
        addresses = [f"127.0.1.{number + 1}" for number in range(first, min(HOSTS, first + TOGETHER))]
        port = free_port(addresses[0])
        more = [f"ListenAddress {address}:{port}" for address in addresses[1:]]
        server = Sshd(directory / f"sshd-{first}", *more, address=addresses[0], port=port)
        stack.callback(server.stop)
        server.start()
        for address in addresses:
            root = directory / f"root-{address}"
            wear(root, f"t{len(found)}")
            found.append({**server.connection(host=address), "root": str(root), "python": sys.executable})
    return Fleet(hosts=found, public=signer()[0].key.public)


def wear(root: Path, name: str) -> None:
    """As a deploy leaves it: owned, with a signed sticker, and the program kept."""
    claim = Claim(
        installation=INSTALLATION,
        project=ProjectName("default"),
        environment=EnvironmentName("fleet"),
        target=TargetName(name),
        component=ComponentName("web"),
        slot=LIVE,
        release=release_name("shop@1.0"),
        artifact=digest.of("artifact"),
        configuration=digest.of("configuration"),
    )
    sticker = Sticker(
        claim=claim,
        phase=Phase.IN_TRANSIT,
        job=job_id(ENVIRONMENT, 1),
        key=ActionKey("0" * 64),
        fence=1,
        sequence=1,
        previous=None,
        revision="bench",
        evidence=None,
        written_at=datetime.now(UTC),
    )
    envelope = signer()[0].sign(Statement.STICKER, ENVIRONMENT, codec.payload(sticker))
    where = {"root": str(root), "installation": INSTALLATION, "target": f"default/{name}", "fence": 1}
    session = host.Session()
    for more in ({"do": "hold"}, {"do": "wear", "content": codec.to_file(envelope).decode()}):
        answer = session.answer({**where, "component": "web", "slot": "live", **more})
        assert "error" not in answer, answer
    session.close()
    brought = program(host.__file__)
    (root / ".holdfast").mkdir()
    (root / ".holdfast" / brought.file).write_bytes(brought.source)


# -- the figures -------------------------------------------------------------------------------------------------------


def measure(fleet: Fleet, directory: Path, stack: ExitStack) -> None:
    file = directory / "hosts.json"
    fleet.write(file)
    peers = others(file, directory, stack)
    cold("ours", file)  # the hosts' Pythons compile what they keep, once
    compare_cold(file, peers)
    gc.set_threshold(*GARBAGE)  # as the daemon does; asyncssh beside it gains, too
    anyio.run(warm, fleet, peers, backend_options={"use_uvloop": True})


def others(file: Path, directory: Path, stack: ExitStack) -> Peers | None:
    try:
        peers = Peers(programs=installed(), hosts=file, home=directory)
        peers.prepare()
        peers.ansible_cold()
        peers.pyinfra_cold()
    except NoPeer as reason:
        print(f"not beside ansible-core and pyinfra: {reason}")
        return None
    stack.callback(peers.let_go)
    return peers


def compare_cold(file: Path, peers: Peers | None) -> None:
    ways: dict[str, Callable[[], Figures]] = {"asyncssh": lambda: cold("bare", file)}
    if peers is not None:
        ways |= {"pyinfra": peers.pyinfra_cold, "ansible": peers.ansible_cold}
    rounds = [(*cold("ours", file), *chain.from_iterable(way() for way in ways.values())) for _ in range(ROUNDS)]
    wall, cpu, *theirs = medians(rounds)
    rows = []
    for number, name in enumerate(ways):
        rows += [
            Row(work=f"read and verify, beside {name} and cat", ours=wall, peer=theirs[2 * number], limit="1.3 s"),
            Row(work="  CPU of the command", ours=cpu, peer=theirs[2 * number + 1], limit="0.45 s"),
        ]
    show(f"The stickers of {HOSTS} hosts, nothing connected before: the whole command, medians of {ROUNDS}", rows)


def cold(way: str, file: Path) -> Figures:
    """Our modules are compiled, as an installation has them and as the peers' are."""
    told = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began, cpu = time.perf_counter(), children_cpu()
    subprocess.run([sys.executable, "-m", "tests.benchmarks.ssh_readers", way, str(file)], check=True, env=told)
    return time.perf_counter() - began, children_cpu() - cpu


async def warm(fleet: Fleet, peers: Peers | None) -> None:
    looks, driver = looks_at(fleet), ProcessDriver(tools(fleet, signer()[0].sign))
    await look(driver, looks[:1])  # imports and caches are not a host's
    before = resident()
    await look(driver, looks)
    memory = (resident() - before) * 1e6 / 1024 / (HOSTS - 1)
    verified, verified_cpu = await timed(WARM, lambda: look(driver, looks))
    seen, seen_cpu = await timed(WARM, lambda: driver.observe(looks))
    eyes = Eyes({"process": driver}, fleet.keyring, INSTALLATION, now=lambda: datetime.now(UTC))
    await eyes.look(ENVIRONMENT, looks)
    believed, believed_cpu = await timed(WARM, lambda: eyes.look(ENVIRONMENT, looks))
    await driver.aclose()

    rows = [
        Row(work="look and believe, as each turn does", ours=believed),
        Row(work="  CPU a host", ours=believed_cpu * EACH, unit="ms", limit="0.25 ms"),
        Row(work="look and verify every signature anew", ours=verified),
        Row(work="  CPU a host", ours=verified_cpu * EACH, unit="ms"),
        Row(work="memory a host of the first hundred, threads included", ours=memory, unit="KiB"),
    ]
    for name, (wall, cpu) in (await theirs_warm(fleet, peers)).items():
        rows += [
            Row(work=f"look, beside {name}", ours=seen, peer=wall),
            Row(work="  CPU a host", ours=seen_cpu * EACH, peer=cpu * EACH, unit="ms"),
        ]
    show(f"The same over kept connections, medians of {WARM}", rows)


async def theirs_warm(fleet: Fleet, peers: Peers | None) -> dict[str, Figures]:
    lines = [await dialled(connection) for connection in fleet.hosts]
    ran = await timed(ROUNDS, lambda: asyncio.gather(*map(command, lines, fleet.hosts)))
    readers = [await line.create_process(READER) for line in lines]
    await asyncio.gather(*map(kept_reader, readers, fleet.hosts))
    kept = await timed(WARM, lambda: asyncio.gather(*map(kept_reader, readers, fleet.hosts)))
    for line in lines:
        line.close()
        await line.wait_closed()
    found = {"asyncssh and a kept read loop": kept, "asyncssh, a new command each time": ran}
    if peers is not None:
        peers.ansible_cold()
        commands = [peers.ansible_warm() for _ in range(3)]
        found["pyinfra"] = peers.pyinfra_warm(WARM)
        found["ansible, a whole command over kept connections"] = medians(commands)[0], medians(commands)[1]
    return found


async def kept_reader(reader: Any, connection: Connection) -> None:
    reader.stdin.write(sticker_of(connection) + "\n")
    assert "signatures" in json.loads(await reader.stdout.readline())


if __name__ == "__main__":
    sys.exit(main())
