"""The examination of targets: all at once, each within a deadline, and nothing changed anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

import anyio

from desired_state.model import Placement
from desired_state.secrets import SecretRef
from drivers.contract import Diagnosis, Driver, Examiner, Look, Tools
from drivers.diagnosis import missing, ok, unknown
from drivers.errors import DriverError, Refused
from stickers.names import TargetId

WITHIN: Final = timedelta(seconds=25)  # for one target; then it is unknown
TOGETHER: Final = 64
SECRETS_TOGETHER: Final = 16


async def examined(
    drivers: Mapping[str, Driver], tools: Tools, looks: Sequence[Look]
) -> dict[TargetId, tuple[Diagnosis, ...]]:
    """What each target lacks, by target, in the order given."""
    found: dict[TargetId, tuple[Diagnosis, ...]] = {}
    limiter = anyio.CapacityLimiter(TOGETHER)

    async def examine(look: Look) -> None:
        async with limiter:
            found[look.target.id] = await _examined(drivers, look)

    async with anyio.create_task_group() as group:
        for look in looks:
            group.start_soon(examine, look)
        secrets = await _resolved(tools, {secret for look in looks for secret in _secrets(look)})
    return {look.target.id: (*found[look.target.id], *_told(look, secrets)) for look in looks}


async def _examined(drivers: Mapping[str, Driver], look: Look) -> tuple[Diagnosis, ...]:
    kind = look.target.hands
    try:
        with anyio.fail_after(WITHIN.total_seconds()):
            driver = drivers[kind]
            return await driver.examine(look) if isinstance(driver, Examiner) else await _seen(driver, look)
    except TimeoutError:
        said = f"the examination did not end within {WITHIN.total_seconds():g} s"
        return (unknown("target", said, "look at the target and what lies between"),)
    except DriverError as error:
        return (unknown("target", str(error)),)
    except Exception as error:  # another's driver may fail in any way; the other targets are examined all the same
        return (unknown("target", f"driver {kind!r} failed: {type(error).__name__}: {str(error)[:200]}"),)


async def _seen(driver: Driver, look: Look) -> tuple[Diagnosis, ...]:
    """What can be said of a kind that examines nothing: whether its targets can be seen."""
    observation = (await driver.observe([look]))[look.target.id]
    if observation.unseen is not None:
        return (unknown("target", f"it cannot be seen: {observation.unseen}"),)
    return (ok("target", f"it can be seen; more is not examined by drivers of kind {look.target.driver}"),)


# -- secrets --------------------------------------------------------------------------------------------------------


def _secrets(look: Look) -> tuple[SecretRef, ...]:
    return tuple(dict.fromkeys(secret for placement in look.placements for secret in _of(placement)))


def _of(placement: Placement) -> list[SecretRef]:
    said = placement.configuration
    found = [value for _, value in said.environment if isinstance(value, SecretRef)]
    return [*found, said.registry_credentials] if said.registry_credentials else found


async def _resolved(tools: Tools, secrets: set[SecretRef]) -> dict[SecretRef, Diagnosis | None]:
    """None for a secret that can be resolved from here; its value goes nowhere."""
    found: dict[SecretRef, Diagnosis | None] = {}
    limiter = anyio.CapacityLimiter(SECRETS_TOGETHER)

    async def resolve(secret: SecretRef) -> None:
        async with limiter:
            try:
                await tools.secret(secret)
                found[secret] = None
            except Refused as error:
                found[secret] = missing("secrets", str(error), "as the daemon's user, in the daemon's environment")
            except DriverError as error:
                found[secret] = unknown("secrets", str(error))

    async with anyio.create_task_group() as group:
        for secret in secrets:
            group.start_soon(resolve, secret)
    return found


def _told(look: Look, resolved: Mapping[SecretRef, Diagnosis | None]) -> list[Diagnosis]:
    secrets = _secrets(look)
    bad = [diagnosis for secret in secrets if (diagnosis := resolved[secret]) is not None]
    good = len(secrets) - len(bad)
    return [*([ok("secrets", f"{good} can be resolved from here")] if good else []), *bad]
