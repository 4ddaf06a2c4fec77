"""What a service is said to lack, before anything is changed there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from desired_state.model import Configuration, Port
from drivers.contract import Diagnosis, Examiner, Grade, Look
from drivers.ecs.driver import EcsDriver
from tests.drivers.ecs.yard import Yard


@pytest.fixture
async def driver(yard: Yard) -> AsyncIterator[EcsDriver]:
    driver = EcsDriver(yard.tools)
    yield driver
    await driver.aclose()


async def examined(driver: EcsDriver, yard: Yard, look: Look | None = None, **said: Any) -> dict[str, Diagnosis]:
    look = look or Look(target=yard.target(**said), placements=(yard.placement(),))
    assert isinstance(driver, Examiner)
    return {found.about: found for found in await driver.examine(look)}


async def test_a_service_that_lacks_nothing_says_what_it_has_and_is_not_touched(driver: EcsDriver, yard: Yard) -> None:
    yard.service.breaker = True
    calls = len(yard.ecs.calls)
    found = await examined(driver, yard)
    assert {about: one.grade for about, one in found.items()} == {
        "template": Grade.OK,
        "service": Grade.OK,
        "permission to look": Grade.OK,
        "permission to change": Grade.UNKNOWN,
        "circuit breaker": Grade.OK,
        "tags": Grade.OK,
    }
    assert {name.startswith(("Describe", "List")) for name, _ in yard.ecs.calls[calls:]} == {True}


async def test_a_breaker_that_is_off_is_a_warning(driver: EcsDriver, yard: Yard) -> None:
    found = (await examined(driver, yard))["circuit breaker"]
    assert (found.grade, "switch on deploymentCircuitBreaker" in (found.remedy or "")) == (Grade.WARNING, True)


async def test_a_service_that_is_not_there_and_one_that_is_not_reached_are_told_apart(
    driver: EcsDriver, yard: Yard
) -> None:
    assert (await examined(driver, yard, service="shpo"))["service"].grade is Grade.MISSING
    assert (await examined(driver, yard, endpoint="http://127.0.0.1:9"))["service"].grade is Grade.UNKNOWN


async def test_a_missing_permission_to_look_is_named(driver: EcsDriver, yard: Yard) -> None:
    yard.ecs.failures.append(("ListTasks", "AccessDeniedException", "no"))
    found = (await examined(driver, yard))["permission to look"]
    assert found.grade is Grade.MISSING
    assert "grant ecs:ListTasks" in found.sentence


async def test_a_template_that_cannot_be_used_is_told(driver: EcsDriver, yard: Yard) -> None:
    wrong = {"task_definition": yard.connection["task_definition"] | {"memry": "1"}}
    assert "did you mean memory?" in (await examined(driver, yard, **wrong))["template"].sentence
    ports = yard.placement(configuration=Configuration(ports=(Port(container=80),)))
    found = await examined(driver, yard, Look(target=yard.target(), placements=(ports,)))
    assert "ports: belongs to the template" in found["template"].sentence


async def test_a_connection_that_cannot_be_read_is_told(driver: EcsDriver, yard: Yard) -> None:
    found = await examined(driver, yard, region="Frankfurt")
    assert list(found) == ["connection"]
    assert found["connection"].grade is Grade.MISSING


async def test_too_many_tags_are_told(driver: EcsDriver, yard: Yard) -> None:
    yard.ecs.ask(lambda: yard.service.tags.update({f"team-{index}": "shop" for index in range(40)}))
    assert (await examined(driver, yard))["tags"].grade is Grade.MISSING


async def test_tasks_without_addresses_cannot_be_asked(driver: EcsDriver, yard: Yard) -> None:
    bridged = {"task_definition": yard.connection["task_definition"] | {"networkMode": None}}
    found = (await examined(driver, yard, **bridged))["template"]
    assert (found.grade, "networkMode bridge" in found.sentence) == (Grade.MISSING, True)
