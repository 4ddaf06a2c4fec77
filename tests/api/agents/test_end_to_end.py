"""A fleet behind agents, in processes as people run them: deployed, healed, rolled back, and held against whoever has
taken the server. One estate; each test brings it first to the release that it begins with."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from drivers.oci import layout
from stickers.names import Artifact
from tests.api.agents.estate import UNAPPROVED, Estate
from tests.api.agents.test_upgrade import CRASHES, GOOD

FIRST = "staging-1"


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    made = Estate(tmp_path_factory.mktemp("estate"), environments={"staging": 2})
    made.build()
    with made.whole():
        made.wait("the first deployment", lambda: made.in_sync("1.0.0"))
        yield made


def at(estate: Estate, release: str) -> None:
    """Held to that release, whatever was before."""
    estate.released(release)
    estate.wait(f"peace at {release}", lambda: estate.in_sync(release))


def kept(estate: Estate, kind: str) -> list[str]:
    with sqlite3.connect(f"file:{estate.state / 'holdfast.db'}?mode=ro", uri=True) as store:
        return [id for (id,) in store.execute("select id from evidence where kind = ? order by at", (kind,))]


def test_each_result_is_kept_as_evidence_that_its_agent_signed(estate: Estate) -> None:
    results = [estate.ask("evidence", each) for each in kept(estate, "result")]
    assert {found["signature"] for found in results} == {"valid"}
    deployed = [found["statement"]["said"] for found in results if found["statement"]["said"]["verb"] == "deploy"]
    assert [said["code"] for said in deployed].count("DONE") >= len(estate.ports)


def test_stickers_are_signed_on_the_host_and_believed_of_their_own_target(estate: Estate) -> None:
    assert {estate.placement(target)["trust"] for target in estate.ports} == {"valid"}


def test_what_a_workload_printed_is_read_through_its_agent(estate: Estate) -> None:
    assert "GET / " in estate.holdfast("logs", FIRST, "web")


def test_an_agent_speaks_as_its_host_says(estate: Estate) -> None:
    def ways() -> dict[str, str]:
        return {each["name"]: each["way"] for each in estate.ask("agent", "list")["agents"]}

    estate.wait("both to be noted", lambda: ways() == {"staging-1": "websocket", "staging-2": "polling"})


def test_a_killed_workload_is_healed(estate: Estate) -> None:
    at(estate, "1.0.0")
    before = estate.placement(FIRST)["instance"]
    estate.kill(FIRST)
    estate.wait("it to be healed", lambda: estate.in_sync("1.0.0") and estate.placement(FIRST)["instance"] != before)


def test_what_is_declared_and_not_approved_is_deployed_nowhere(estate: Estate) -> None:
    """Whoever has the server can write its documents, and gets no signature for them."""
    at(estate, "1.0.0")
    signed = deployments(estate)
    estate.declare("staging", UNAPPROVED)
    estate.wait("the signer's no", lambda: set(estate.verdicts().values()) == {"unknown"})
    assert "the signer refused (UNDECLARED)" in estate.placement(FIRST)["reason"]
    assert deployments(estate) == signed
    assert all(estate.serves(target).startswith("shop 1.0.0 ") for target in estate.ports)
    estate.declare("staging", "1.0.0")
    estate.wait("peace", lambda: estate.in_sync("1.0.0"))


def test_an_agent_killed_in_mid_deploy_is_gone_on_by_its_next_run(estate: Estate) -> None:
    at(estate, "1.0.0")
    signed = deployments(estate)
    estate.released("1.1.0")
    estate.wait("a deployment", lambda: len(deployments(estate)) > len(signed))
    struck = str(deployments(estate)[-1]["agent"])
    estate.end(struck, signal.SIGKILL)
    estate.tend(struck)
    estate.wait("the release", lambda: estate.in_sync("1.1.0"))


def deployments(estate: Estate) -> list[dict[str, Any]]:
    """What was signed that changes something."""
    return [line for line in estate.signed() if line["outcome"] == "signed" and line["fenced"]]


def test_a_bad_release_is_rolled_back(estate: Estate) -> None:
    at(estate, "1.1.0")
    estate.released("1.2.0-broken")
    estate.wait("the way back", lambda: estate.ask("job", "list", "staging")["jobs"][0]["state"] == "rolled_back")
    assert all(estate.serves(target).startswith("shop 1.1.0 ") for target in estate.ports)
    at(estate, "1.0.0")


def test_a_command_is_run_once_by_the_name_and_the_pattern_of_its_host(estate: Estate) -> None:
    assert estate.ask("agent", "run", FIRST, "greet", "world")["said"] == "hello world\n"
    refused = estate.said("agent", "run", FIRST, "greet", "; reboot")
    assert "NOT_ALLOWED" in refused


def test_a_command_that_the_policy_does_not_name_is_not_signed(estate: Estate) -> None:
    assert "the signer refused (NOT_LET): rule staging: the command 'reboot' is not let" in estate.said(
        "agent", "run", FIRST, "reboot"
    )


def test_a_target_is_held_no_longer_than_the_policy_lets(estate: Estate) -> None:
    assert estate.ask("agent", "hold", FIRST, "--for", "30m")["agent"] == FIRST
    assert "to hold for 7200 s is longer than 1:00:00" in estate.said("agent", "hold", FIRST, "--for", "2h")
    estate.ask("agent", "hold", FIRST, "--for", "0")


def test_files_are_put_where_the_host_says(estate: Estate) -> None:
    page = estate.home / "index.html"
    page.write_text("hello")
    estate.ask("agent", "upload", FIRST, "pages", f"a/index.html={page}")
    assert (estate.pages / "a/index.html").read_text() == "hello"


def test_a_target_is_inspected_by_its_agent_when_somebody_asks(estate: Estate) -> None:
    answer = estate.ask("agent", "inspect", FIRST)
    assert answer["unseen"] is None
    [seen] = answer["seen"]
    assert (seen["component"], seen["state"], seen["health"]) == ("web", "running", "healthy")
    assert "running" in estate.holdfast("agent", "inspect", FIRST)


def test_an_agent_gives_its_place_to_a_version_that_reports_and_to_no_other(estate: Estate) -> None:
    undone = estate.said("agent", "upgrade", FIRST, version(estate, CRASHES), "--version", "9")
    assert "was undone: it ended with 3 before it had reported" in undone
    assert estate.ask("agent", "upgrade", FIRST, version(estate, GOOD), "--version", "2.0")["version"] == "2.0"
    estate.wait("it to be heard", lambda: estate.ask("agent", "show", FIRST)["version"] == "2.0")


def test_an_agent_is_upgraded_from_nowhere_else(estate: Estate) -> None:
    other = f"demo.invalid/other@sha256:{'0' * 64}"
    assert "the signer refused (NOT_LET)" in estate.said("agent", "upgrade", FIRST, other, "--version", "3")
    assert "there is no agent nobody" in estate.said("agent", "upgrade", "nobody", other, "--version", "3")


def version(estate: Estate, program: str) -> str:
    """The program as a version of the agent."""
    folder = estate.home / "agent"
    folder.mkdir(exist_ok=True)
    (folder / "holdfast-agent").write_text(program)
    (folder / "holdfast-agent").chmod(0o755)
    return str(Artifact("demo.invalid/agent", layout.pack(folder, estate.home / "artifacts", argv=("holdfast-agent",))))


def test_a_key_of_the_signer_follows_another_without_a_host_being_visited(estate: Estate) -> None:
    at(estate, "1.0.0")
    estate.signer.rotate()
    estate.sign_again()
    assert {each["problem"] for each in estate.ask("agent", "trust")["agents"]} == {None}
    estate.signer.finish()
    estate.sign_again()
    estate.kill(FIRST)
    estate.wait("it to be healed under the new key", lambda: estate.in_sync("1.0.0"))
    assert estate.ask("agent", "run", FIRST, "greet", "again")["exit_code"] == 0


def test_the_signers_log_is_whole(estate: Estate) -> None:
    assert "whole:" in estate.holdfast("signer", "log", "--verify", "--directory", str(estate.signer.directory))
