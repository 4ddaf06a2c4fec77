"""The agent is killed, the engine is restarted, or both, in the middle of a deploy: soon after they are there again a
container serves, and in the end the new one does, once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import anyio
import anyio.to_thread
import pytest

from desired_state.model import Port, RestartPolicy
from drivers.agent.protocol import Code
from drivers.docker import render
from tests.drivers.agent.server import Server
from tests.drivers.docker.daemon import Daemon
from tests.drivers.docker.yard import Yard
from tests.harness import images
from tests.harness.engine import Engine, NoEngine, running_engine

SOON = 10.0


@pytest.fixture(scope="module")
def own() -> Iterator[Engine]:
    try:
        with running_engine() as engine:
            yield engine
    except NoEngine as reason:
        pytest.skip(f"no Docker engine: {reason}")


async def runs_soon(yard: Yard) -> None:
    with anyio.fail_after(SOON):
        while not await anyio.to_thread.run_sync(yard.running):  # noqa: ASYNC110 - no event tells
            await anyio.sleep(0.05)


CASES = (("both", "step_prove"), ("agent", "step_start"), ("engine", ""))


@pytest.mark.parametrize(("victims", "point"), CASES if os.environ.get("HOLDFAST_KILLS") else CASES[:1])
async def test_whoever_is_gone_a_container_serves_soon_and_the_new_one_in_the_end(
    own: Engine, yard: Yard, server: Server, victims: str, point: str
) -> None:
    async with Daemon(yard) as daemon:
        ports = (Port(container=8080, host=yard.free_port()),)
        one, two = (
            daemon.placement(app, ports=ports, restart=RestartPolicy.ALWAYS) for app in (images.ONE, images.TWO)
        )
        far = replace(yard.target, connection={**yard.target.connection, "via": "agent"})
        await server.started()
        await server.answered(await server.send(replace(daemon.action(await daemon.change(one)), target=far)))
        server.kill()
        await server.started(f"{point}:kill" if victims != "engine" else "")
        action = replace(daemon.action(await daemon.change(two, one)), target=far)
        id = await server.send(action)
        if victims == "engine":
            await server.until(lambda: any(word in str(server.said) for word in ("start", "prove")), 30)
        else:
            assert server.process is not None
            await anyio.to_thread.run_sync(server.process.wait)
        if victims != "agent":
            own.restart()
        if victims != "engine":
            await server.started()
        await runs_soon(yard)
        for _ in range(10):  # where the engine was away, it is sent again, as a server would
            if (await server.code(id)) is not Code.FAILED:
                break
            await anyio.sleep(0.5)
            id = await server.send(action)
        assert (await server.answered(id)).as_wanted
        running = yard.running(two.id)
        assert [one["Config"]["Image"] for one in running] == [str(two.artifact)]
        made = [one for one in yard.workloads(two.id) if one["Config"]["Labels"][render.KEY] == action.key]
        assert len(made) == 1
