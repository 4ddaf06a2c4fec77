"""What a workload printed, masked on its way out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from api.commands.given import Given
from api.commands.lookup import placement_target
from api.house import House
from api.problem import Problem
from desired_state.model import Target
from drivers.contract import Narrator
from stickers.names import ComponentName, PlacementId


async def narrated(house: House, given: Given) -> tuple[Target, ComponentName, Narrator]:
    """The target and component that are named, and who tells what is printed there."""
    component = ComponentName(given.text("component"))
    _, target = await placement_target(house, given.target(), component, given)
    driver = house.drivers[target.hands]
    if not isinstance(driver, Narrator):
        raise Problem("NO_LOGS", f"{target.id} is a {target.driver} target, and those show no logs")
    return target, component, driver


async def logs(house: House, given: Given) -> AsyncGenerator[dict[str, Any], None]:
    target, component, driver = await narrated(house, given)
    tail, follow = given.count("tail", 100, 100_000), given.flag("follow")
    stream = driver.logs(target, PlacementId(target.id, component), tail=tail, follow=follow)
    async with aclosing(stream) as lines:  # type: ignore[type-var]
        async for line in lines:
            yield {"line": house.redactor.clean(line)}
    yield {"result": {"target": target.id, "component": component}}
