"""A line between a process and its database that loses packets, both ways: a relay in a network namespace of its own,
whose one hop over TCP the kernel's packet filter thins out.

Run by itself, it is the relay: a Unix socket at one end, that of the database at the other, the hop in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

HOP: Final = 5432
PIECE: Final = 16_384
NEEDS: Final = ("unshare", "nsenter", "ip", "iptables")


class NoNamespace(Exception):
    """This machine lets nobody make one; the text says why."""


@dataclass(frozen=True)
class Lossy:
    """`address` is the database's, over the line. It loses nothing until it is told to."""

    address: str
    pid: int

    def lose(self, share: float) -> None:
        self._filter("-A", share)

    def heal(self, share: float) -> int:
        """How many packets were lost."""
        listed = self._iptables("-nvxL", "INPUT").splitlines()
        self._filter("-D", share)
        return sum(int(line.split()[0]) for line in listed if " DROP " in line)

    def _filter(self, verb: str, share: float) -> None:
        chosen = ("-m", "statistic", "--mode", "random", "--probability", f"{share:g}")
        self._iptables(verb, "INPUT", "-p", "tcp", *chosen, "-j", "DROP")

    def _iptables(self, *words: str) -> str:
        return _run("nsenter", "-t", str(self.pid), "-n", "iptables", *words)


@contextlib.contextmanager
def lossy(address: str, place: Path) -> Iterator[Lossy]:
    """Raises `NoNamespace`."""
    if missing := [name for name in NEEDS if shutil.which(name) is None]:
        raise NoNamespace(f"there is no {missing[0]}")
    parts = urlsplit(address)
    place.mkdir()
    command = ["unshare", "-n", sys.executable, __file__, str(_socket(place)), _there(parts.query)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "listening\n":
            assert process.stderr is not None
            raise NoNamespace(process.stderr.read()[-300:])
        scheme, user = parts.scheme, parts.username or "postgres"
        yield Lossy(f"{scheme}://{user}@{parts.path}?host={place}", process.pid)
    finally:
        process.kill()
        process.communicate()


def _there(query: str) -> str:
    return str(_socket(Path(parse_qs(query)["host"][0])))


def _socket(place: Path) -> Path:
    return place / f".s.PGSQL.{HOP}"


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise NoNamespace(f"{' '.join(command[-12:])}: {done.stderr.strip()[-300:]}")
    return done.stdout


# -- the relay --------------------------------------------------------------------------------------------------------


async def _relay(here: str, there: str) -> None:
    _run("ip", "link", "set", "lo", "up")
    _run("iptables", "-L", "-n")  # says early when there is no packet filter

    async def onto_the_hop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _joined(reader, writer, await asyncio.open_connection("127.0.0.1", HOP))

    async def off_the_hop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _joined(reader, writer, await asyncio.open_unix_connection(there))

    await asyncio.start_server(off_the_hop, "127.0.0.1", HOP)
    await asyncio.start_unix_server(onto_the_hop, here)
    print("listening", flush=True)
    await asyncio.Event().wait()


async def _joined(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    ways = [asyncio.create_task(_handed_on(reader, far[1])), asyncio.create_task(_handed_on(far[0], writer))]
    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    for way in ways:
        way.cancel()
    for end in (writer, far[1]):
        end.close()


async def _handed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(PIECE):
            writer.write(piece)
            await writer.drain()


if __name__ == "__main__":
    asyncio.run(_relay(*sys.argv[1:]))
