"""Agents over mutual TLS against one server: what each holds in memory, what a beat costs, how a storm passes, and how
long it takes to tell all. The peer is a bare uvloop server that sends back each line over the same TLS.

    python -m tests.benchmarks.bench_agents [how many …]

The agents are played by one process beside the server: its time is in the wall times, and in no CPU figure. `steal` of
a loaded machine is in the wall times, too.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from cryptography.hazmat.primitives import serialization

from tests.api.agents.authorities import Authority
from tests.benchmarks.table import Row, machine, resident, show
from tests.harness.sshd import free_port

AGENTS: Final = (1_000, 5_000)
FIRST: Final = 100  # connected before memory is counted: what is made once is no agent's
SECONDS: Final = 20.0  # of beats, at their real pace
EVERY: Final = 30.0
TELLS: Final = 5


@dataclass(frozen=True)
class Figures:
    """What one server needs for so many agents."""

    kib: float  # of memory each
    connect: float  # us of CPU each
    beat: float  # us of CPU each
    look: float  # us of CPU each, answered with "unchanged"
    looks: float  # s until all of them are answered, median
    tell: float  # s until the last has heard, median over the rounds
    tell_longest: float  # the slowest round
    back: float  # s from listening again to half of them being back
    back_p99: float
    back_last: float
    refused: int


class Program:
    """A process that is told something line by line, and answers so."""

    def __init__(self, module: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def heard(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} has ended")
        return json.loads(line)

    def say(self, **order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def ask(self, **order: Any) -> Any:
        self.say(**order)
        return self.heard()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def cpu(self) -> float:
        """Seconds; these servers have one thread that works."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0]) / 1e9

    @property
    def kib(self) -> float:
        return resident(self.process.pid) * 1e6 / 1024


@contextmanager
def papers(many: int) -> Iterator[Path]:
    """A certificate for each, of one key."""
    with tempfile.TemporaryDirectory(prefix="holdfast-agents-") as found:
        directory = Path(found)
        authority = Authority(directory)
        (directory / "authority.pem").write_text(authority.pem)
        server = authority.papers("server", server=True).path.read_text()
        key = serialization.load_pem_private_key(server.encode(), None)
        (directory / "server.pem").write_text(server)
        (directory / "key.pem").write_text(server[server.index("-----BEGIN PRIVATE KEY") :])
        serials = []
        for number in range(many):
            certificate = authority.certificate(f"web-{number}", key.public_key())  # type: ignore[arg-type]
            (directory / f"{number}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
            serials.append(certificate.serial_number)
        (directory / "serials.json").write_text(json.dumps(serials))
        yield directory


def measured(directory: Path, many: int, server: str, player: str) -> Figures:
    port = free_port("127.0.0.1")
    serving = Program("agents_servers", str(directory), str(port), server)
    serving.heard()
    playing = Program("played_agents", str(directory), str(port), player)
    try:
        connected(playing, 0, FIRST)
        time.sleep(1)
        before, cpu = serving.kib, serving.cpu
        connected(playing, FIRST, many)
        connect = (serving.cpu - cpu) / (many - FIRST)
        time.sleep(2)
        kib = (serving.kib - before) / (many - FIRST)
        cpu = serving.cpu
        beats = playing.ask(do="beat", seconds=SECONDS, every=EVERY)
        assert beats["said"] == beats["answered"], beats
        beat = (serving.cpu - cpu) / beats["said"]
        tells = [told(serving, playing, many) for _ in range(TELLS)]
        look, looks = looked(serving, many) if server == "door" else (0.0, 0.0)
        playing.ask(do="return")
        serving.end()
        serving = Program("agents_servers", str(directory), str(port), server)
        serving.heard()
        listens = time.monotonic()
        back = playing.ask(do="back", expect=many)
        assert back["there"] == many, (back["there"], back["failed"])
        took = sorted(max(0.0, at - listens) for at in back["at"])
        return Figures(
            kib=kib,
            connect=connect * 1e6,
            beat=beat * 1e6,
            look=look * 1e6,
            looks=looks,
            tell=median(tells),
            tell_longest=max(tells),
            back=median(took),
            back_p99=quantiles(took, n=100)[-1],
            back_last=took[-1],
            refused=sum(count for why, count in back["failed"].items() if why != "ConnectionRefusedError"),
        )
    finally:
        serving.end()
        playing.end()


def connected(playing: Program, first: int, to: int) -> None:
    there = playing.ask(do="connect", first=first, to=to)
    assert there["there"] == to, there


def looked(serving: Program, many: int) -> tuple[float, float]:
    """CPU seconds of a look, and seconds until all of them are answered."""
    cpu, took = serving.cpu, []
    for _ in range(TELLS):
        answer = serving.ask(do="look")
        took.append(answer["ended"] - answer["began"])
        assert answer["told"] == many, answer
    return (serving.cpu - cpu) / (TELLS * many), median(took)


def told(serving: Program, playing: Program, many: int) -> float:
    """Seconds from the first write to the last agent's having read it."""
    playing.ask(do="listen")
    began = serving.ask(do="tell")["began"]
    at = playing.ask(do="told", expect=many)["at"]
    assert len(at) == many, len(at)
    time.sleep(0.3)
    return float(max(at) - began)


def rows(many: int, ours: Figures, bare: Figures) -> list[Row]:
    return [
        Row(work="memory of a connection", ours=ours.kib, peer=bare.kib, unit="KiB", limit="50 KiB"),
        Row(work="CPU of a connect", ours=ours.connect, peer=bare.connect, unit="us"),
        Row(work="CPU of a beat, at a beat each 30 s", ours=ours.beat, peer=bare.beat, unit="us", limit="100 us"),
        Row(
            work="share of a core for all beats",
            ours=ours.beat * many / EVERY / 1e4,
            peer=bare.beat * many / EVERY / 1e4,
            unit="%",
            limit="2 % at 5,000" if many == AGENTS[-1] else "",
        ),
        Row(work="CPU of a look, answered with 'unchanged'", ours=ours.look, unit="us"),
        Row(work="until all looks are answered, median", ours=ours.looks),
        Row(work="until the last was told, median", ours=ours.tell, peer=bare.tell, limit="0.11 s"),
        Row(work="until the last was told, longest", ours=ours.tell_longest, peer=bare.tell_longest, limit="0.25 s"),
        Row(work="after kill -9 and a start: half are back", ours=ours.back, peer=bare.back),
        Row(work="after kill -9 and a start: 99 % are back", ours=ours.back_p99, peer=bare.back_p99),
        Row(work="after kill -9 and a start: all are back", ours=ours.back_last, peer=bare.back_last, limit="10 s"),
        Row(work="broken off or timed out after it listened", ours=ours.refused, peer=bare.refused, unit="", limit="0"),
    ]


def main(counts: list[int]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for many in counts:
        if hard < many + 200:
            print(f"{many} agents need {many + 200} open files; {hard} are allowed")
            continue
        with papers(many) as directory:
            bare = measured(directory, many, "echo", "echo")
            ours = measured(directory, many, "door", "talk")
        show(f"{many:,} agents over mutual TLS ({machine()})", rows(many, ours, bare))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
    main([int(count) for count in sys.argv[1:]] or list(AGENTS))
