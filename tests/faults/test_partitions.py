"""A host that is cut off in mid-deploy: its agent carries out what it has accepted, nobody else does it meanwhile, and
what comes of it when the wire is whole again is what is declared by then."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.api.agents.estate import Estate
from tests.harness.netns import Namespace, NoNamespace, namespace

FAR, NEAR = "staging-1", "staging-2"
ASK = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=2).read().decode().strip())"


@dataclass
class Apart(Estate):
    """The first target's host is a namespace of its own. A shop is proven slowly, so that there is a middle."""

    wire: Namespace = field(kw_only=True)

    def _placement(self, target: str, port: int) -> str:
        return super()._placement(target, port).replace("successes: 3, deadline: 5s", "successes: 15, deadline: 30s")

    def program(self, agent: str, *words: str) -> list[str]:
        own = super().program(agent, *words)
        return self.wire.command(*own) if agent == FAR else own

    def serves(self, target: str) -> str:
        if target != FAR:
            return super().serves(target)
        argv = self.wire.command(sys.executable, "-c", ASK, f"http://127.0.0.1:{self.ports[target]}/")
        return subprocess.run(argv, capture_output=True, text=True).stdout.strip()

    def deployments(self, target: str) -> list[dict[str, Any]]:
        """What was signed for the target that changes something."""
        return [
            line for line in self.signed() if line["outcome"] == "signed" and line["fenced"] and line["agent"] == target
        ]

    def sticker(self, target: str) -> bytes:
        return next(self.root(target).glob("*/*/sticker.json")).read_bytes()

    def job(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("job", "list", "staging")["jobs"][0]
        return found

    def cut_in_mid_deploy(self) -> tuple[str, str]:
        """What it wears is marked in transit, and not proven yet. The release it had, and the one it is to have."""
        had = self.releases["staging"]
        wanted = "1.0.0" if had == "1.1.0" else "1.1.0"
        before = self.sticker(FAR)
        self.released(wanted)
        self.wait("the deployment to have begun there", lambda: self.sticker(FAR) != before)
        self.wire.cut()
        return had, wanted


@pytest.fixture
def estate(tmp_path: Path) -> Iterator[Apart]:
    try:
        with namespace() as wire:
            made = Apart(
                tmp_path / "apart",
                environments={"staging": 2},
                listen=wire.here,
                called=wire.here,
                wire=wire,
            )
            made.build()
            with made.whole():
                made.wait("the first deployment", lambda: made.in_sync("1.0.0"))
                yield made
    except NoNamespace as reason:
        pytest.skip(f"no network namespace: {reason}")


def test_who_is_cut_off_in_mid_deploy_finishes_and_nobody_does_it_again(estate: Apart) -> None:
    signed = len(estate.deployments(FAR))
    had, wanted = estate.cut_in_mid_deploy()
    estate.wait("the agent to finish alone", lambda: estate.serves(FAR).startswith(f"shop {wanted} "))
    estate.wait("it to be unknown", lambda: estate.verdicts().get(FAR) == "unknown")
    assert estate.job()["state"] == "running", "the job waits for what it has sent"
    assert estate.serves(NEAR).startswith(f"shop {had} "), "the next wave waits for the one before"
    estate.wire.heal()
    estate.wait("peace", lambda: estate.in_sync(wanted))
    assert estate.job()["state"] == "completed"
    assert len(estate.deployments(FAR)) == signed + 1, "it was done by the one task that it had"


def test_what_is_taken_back_meanwhile_is_undone_by_what_is_declared_then(estate: Apart) -> None:
    had, _ = estate.cut_in_mid_deploy()
    cancelled = estate.job()["id"]
    estate.ask("job", "cancel", cancelled)
    estate.declare("staging", had)
    estate.wire.heal()
    estate.wait("peace under what is declared", lambda: estate.in_sync(had))
    jobs = {job["id"]: job["state"] for job in estate.ask("job", "list", "staging")["jobs"]}
    assert jobs[cancelled] == "cancelled"


def test_a_host_that_was_declared_dead_meanwhile_is_heard_no_more(estate: Apart) -> None:
    _, wanted = estate.cut_in_mid_deploy()
    estate.ask("agent", "declare-dead", FAR)
    estate.wait("the agent to finish alone", lambda: estate.serves(FAR).startswith(f"shop {wanted} "))
    estate.wire.heal()
    estate.wait("it to be turned away", lambda: "LOCKED" in estate.log(FAR))
    assert estate.verdicts()[FAR] == "unknown"
    assert {each["name"]: each["state"] for each in estate.ask("agent", "list")["agents"]}[FAR] == "locked"
