"""The stickers of a hundred hosts behind SSH, read cold and warm, beside bare asyncssh in the same run.

    python -m tests.benchmarks.bench_ssh

The hosts are a hundred loopback addresses of a few real sshd's, each with a root that was deployed to before. They run
on the same cores: sshd needs some 18 ms of CPU a connection, a Python that starts there some 30 ms, and both are in all
wall times, but in no CPU figure. Bare asyncssh checks no signature and knows no target: it reads with `cat`, or by a
kept loop.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncssh

from desired_state.model import Target
from drivers.contract import Look, Tools
from drivers.process import host
from drivers.process.driver import ProcessDriver
from drivers.secrets import file
from drivers.ssh.wire import program
from stickers import codec, digest
from stickers.names import (
    LIVE,
    ActionKey,
    ComponentName,
    EnvironmentName,
    InstallationId,
    ProjectName,
    TargetName,
    environment_id,
    job_id,
    release_name,
    target_id,
)
from stickers.signature import Envelope, Statement
from stickers.sticker import Claim, Phase, Sticker
from tests.benchmarks.table import Row, children_cpu, medians, resident, show, timed
from tests.drivers.process.yard import signer
from tests.harness.sshd import NoSshd, Sshd, free_port
from tests.harness.sshd import program as sshd

HOSTS: Final = 100
TOGETHER: Final = 16  # addresses one sshd listens at, at most
ROUNDS: Final = 5
WARM: Final = 30
ENVIRONMENT: Final = environment_id("default", "fleet")
INSTALLATION: Final = InstallationId("bench")
READER: Final = (
    f"{sys.executable} -I -S -c "
    "'import json, sys\nfor path in sys.stdin: print(json.dumps(open(path[:-1]).read()), flush=True)'"
)


Fleet = list[dict[str, Any]]  # connections, as documents say them


def main(arguments: list[str]) -> int:
    if arguments:
        ways: Mapping[str, Callable[[Fleet], Awaitable[None]]] = {"ours": ours_cold, "bare": bare_cold}
        asyncio.run(ways[arguments[0]](json.loads(Path(arguments[1]).read_text())))  # type: ignore[arg-type]
        return 0
    try:
        sshd()
    except NoSshd as reason:
        print(f"not measured: {reason}")
        return 1
    directory = Path(tempfile.mkdtemp(prefix="hf-bench-ssh-"))
    try:
        with ExitStack() as stack:
            measure(fleet(directory, stack), directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)  # a host's program may be at its very end
    return 0


# -- the hosts ---------------------------------------------------------------------------------------------------------


def fleet(directory: Path, stack: ExitStack) -> Fleet:
    found: Fleet = []
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
    return found


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


# -- we ----------------------------------------------------------------------------------------------------------------


def tools() -> Tools:
    ours, keyring = signer()

    def read(envelope: Envelope) -> Sticker | None:
        return codec.verified(envelope, keyring)

    return Tools(installation=INSTALLATION, sign=ours.sign, read=read, now=lambda: datetime.now(UTC), secret=file.read)


def looks_at(hosts: Fleet) -> list[Look]:
    return [
        Look(
            target=Target(
                id=target_id("default", f"t{number}"), environment=ENVIRONMENT, driver="process", connection=connection
            )
        )
        for number, connection in enumerate(hosts)
    ]


async def look(driver: ProcessDriver, looks: list[Look]) -> None:
    """Every sticker is there, and signed."""
    seen = await driver.observe(looks)
    for one in looks:
        found = seen[one.target.id]
        assert found.unseen is None, found.unseen
        worn = found.standings[0].worn
        assert worn is not None
        assert worn.envelope is not None
        assert driver.tools.read(Envelope(worn.envelope)) is not None


async def ours_cold(hosts: Fleet) -> None:
    driver = ProcessDriver(tools())
    await look(driver, looks_at(hosts))
    await driver.aclose()


# -- bare asyncssh -----------------------------------------------------------------------------------------------------


def sticker_of(connection: Mapping[str, Any]) -> str:
    return f"{connection['root']}/{INSTALLATION}/web/sticker.json"


async def dialled(connection: Mapping[str, Any]) -> asyncssh.SSHClientConnection:
    key = asyncssh.import_public_key(connection["known_hosts"][0])
    return await asyncssh.connect(
        connection["host"],
        connection["port"],
        username=connection["user"],
        config=None,
        client_keys=[connection["key"]["secret"].removeprefix("file:")],
        known_hosts=([key], [], []),
        agent_path=None,
    )


async def bare_cold(hosts: Fleet) -> None:
    async def one(connection: Mapping[str, Any]) -> None:
        async with await dialled(connection) as line:
            await command(line, connection)

    await asyncio.gather(*map(one, hosts))


async def command(line: asyncssh.SSHClientConnection, connection: Mapping[str, Any]) -> None:
    found = await line.run(f"cat {sticker_of(connection)}", check=True)
    assert "signatures" in str(found.stdout)


async def kept_reader(reader: Any, connection: Mapping[str, Any]) -> None:
    reader.stdin.write(sticker_of(connection) + "\n")
    assert "signatures" in json.loads(await reader.stdout.readline())


# -- the figures -------------------------------------------------------------------------------------------------------


def measure(hosts: Fleet, directory: Path) -> None:
    file = directory / "hosts.json"
    file.write_text(json.dumps(hosts))
    cold("ours", file)  # the hosts' Pythons compile what they keep, once
    figures = [(*cold("ours", file), *cold("bare", file)) for _ in range(ROUNDS)]
    wall, cpu, bare_wall, bare_cpu = medians(figures)
    show(
        f"The stickers of {HOSTS} hosts, nothing connected before: the whole command, medians of {ROUNDS}",
        [
            Row(work="read and verify, beside asyncssh and cat", ours=wall, peer=bare_wall, limit="1.3 s"),
            Row(work="CPU of the command", ours=cpu, peer=bare_cpu, limit="0.45 s"),
        ],
    )
    asyncio.run(warm(hosts))


def cold(way: str, file: Path) -> tuple[float, float]:
    began, cpu = time.perf_counter(), children_cpu()
    subprocess.run([sys.executable, "-m", "tests.benchmarks.bench_ssh", way, str(file)], check=True)
    return time.perf_counter() - began, children_cpu() - cpu


async def warm(hosts: Fleet) -> None:
    looks, driver = looks_at(hosts), ProcessDriver(tools())
    await look(driver, looks[:1])  # imports and caches are not a host's
    before = resident()
    await look(driver, looks)
    memory = (resident() - before) * 1e6 / 1024 / (HOSTS - 1)
    wall, cpu = await timed(WARM, lambda: look(driver, looks))
    seen, seen_cpu = await timed(WARM, lambda: driver.observe(looks))
    await driver.aclose()

    lines = [await dialled(connection) for connection in hosts]
    ran, ran_cpu = await timed(ROUNDS, lambda: asyncio.gather(*map(command, lines, hosts)))
    readers = [await line.create_process(READER) for line in lines]
    await asyncio.gather(*map(kept_reader, readers, hosts))
    kept, kept_cpu = await timed(WARM, lambda: asyncio.gather(*map(kept_reader, readers, hosts)))
    for line in lines:
        line.close()
        await line.wait_closed()

    each = 1000 / HOSTS
    show(
        f"The same over kept connections, medians of {WARM}",
        [
            Row(work="look, beside a new command each time", ours=seen, peer=ran),
            Row(work="  CPU a host", ours=seen_cpu * each, peer=ran_cpu * each, unit="ms"),
            Row(work="look, beside a kept read loop", ours=seen, peer=kept),
            Row(work="  CPU a host", ours=seen_cpu * each, peer=kept_cpu * each, unit="ms"),
            Row(work="look and verify every signature", ours=wall),
            Row(work="  CPU a host", ours=cpu * each, unit="ms", limit="0.25 ms"),
            Row(work="memory a kept host", ours=memory, unit="KiB", limit="50 KiB"),
        ],
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
