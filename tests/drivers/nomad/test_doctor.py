"""What a target lacks is said before anything is changed there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from desired_state.model import Target
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Diagnosis, Grade, Look
from drivers.nomad.driver import NomadDriver
from tests.drivers.nomad.bench import NomadBench, Site, template
from tests.drivers.nomad.server import Server


async def _found(
    server: Server, change: Callable[[dict[str, Any]], object] = lambda said: None
) -> dict[str, Diagnosis]:
    bench = NomadBench(Site(address=server.address))
    stage = Stage(bench)
    driver = stage.driver
    assert isinstance(driver, NomadDriver)
    said = dict(bench.target.connection)
    change(said)
    target: Target = replace(bench.target, connection=said)
    found = await driver.examine(Look(target=target, placements=(stage.placement(Wish()),)))
    await stage.aclose()
    return {one.about: one for one in found}


async def test_a_target_that_lacks_nothing_is_told_so(server: Server) -> None:
    found = await _found(server)
    grades = {about: one.grade for about, one in found.items()}
    assert grades == {
        "job": Grade.OK,
        "version": Grade.OK,
        "template": Grade.OK,
        "permission to change": Grade.OK,
        "stickers": Grade.UNKNOWN,
    }
    assert not any(method != "GET" and not path.endswith("/plan") for method, path in server.agent.requests)


@pytest.mark.parametrize(
    ("capabilities", "about", "words"),
    [
        ({"submit-job", "agent", "variables"}, "job", "must allow read-job"),
        ({"read-job", "agent", "variables"}, "permission to change", "must allow submit-job"),
        ({"read-job", "agent", "submit-job"}, "stickers", "must allow variables"),
    ],
)
async def test_what_a_policy_lacks_is_missing(server: Server, capabilities: set[str], about: str, words: str) -> None:
    server.agent.tokens = {"": frozenset(capabilities)}
    found = (await _found(server))[about]
    assert found.grade is Grade.MISSING
    assert words in found.sentence
    assert found.remedy


async def test_a_version_that_may_not_be_asked_is_unknown(server: Server) -> None:
    server.agent.tokens = {"": frozenset({"read-job", "submit-job", "variables"})}
    assert (await _found(server))["version"].grade is Grade.UNKNOWN


async def test_a_version_without_variables_is_missing_them(server: Server) -> None:
    server.agent.build = "1.3.9"
    found = (await _found(server))["version"]
    assert (found.grade, found.sentence) == (Grade.MISSING, "Nomad 1.3.9")


async def test_a_strange_job_is_said_to_be_there(server: Server) -> None:
    with server.agent.lock:
        server.agent.register({"Job": template("kit")})
    assert "it is not ours" in (await _found(server))["job"].sentence


async def test_a_template_that_is_broken_is_said_to_be(server: Server) -> None:
    def spoil(said: dict[str, Any]) -> None:
        said["template"]["TaskGroups"].pop()

    found = (await _found(server, spoil))["template"]
    assert found.grade is Grade.MISSING
    assert "has no task web/web" in found.sentence


async def test_a_port_that_nobody_reaches_is_said_before_it_is_asked(server: Server) -> None:
    def spoil(said: dict[str, Any]) -> None:
        for group in said["template"]["TaskGroups"]:
            group["Networks"] = None

    found = (await _found(server, spoil))["health"]
    assert found.grade is Grade.MISSING
    assert "port 8080" in found.sentence


async def test_a_cluster_without_room_is_a_warning(server: Server) -> None:
    server.agent.nodes = 0
    found = (await _found(server))["room"]
    assert found.grade is Grade.WARNING
    assert "1 exhausted memory" in found.sentence


async def test_a_cluster_that_does_not_answer_is_unknown(server: Server) -> None:
    found = await _found(server, lambda said: said.update(address="http://127.0.0.1:9"))
    assert {about: one.grade for about, one in found.items()} == {"job": Grade.UNKNOWN}


async def test_a_connection_that_makes_no_sense_is_said_to(server: Server) -> None:
    found = await _found(server, lambda said: said.update(address="nomad"))
    assert "expected https://" in found["connection"].sentence
