"""An engine that was killed may keep a host port for a container that is gone: it is said, and nothing is given up."""

from __future__ import annotations

import pytest

from desired_state.model import Port
from drivers.contract import Result
from drivers.docker import render
from drivers.docker.engine import Engine
from drivers.errors import Refused, Retryable
from stickers.sticker import Phase
from tests.drivers.docker.daemon import Daemon
from tests.drivers.docker.yard import Yard
from tests.harness import images

pytestmark = pytest.mark.usefixtures("without_traffic")


class Forgetful(Engine):
    """Says what an engine says that has a port for a container it has lost."""

    async def start(self, id: str) -> None:
        container = await self.container(id)
        assert container is not None
        (bound,) = container["HostConfig"]["PortBindings"]["8080/tcp"]
        raise Refused(
            f"driver failed programming external connectivity on endpoint {container['Name']} ({id}): "
            f"Bind for 127.0.0.1:{bound['HostPort']} failed: port is already allocated"
        )


async def test_a_port_that_the_engine_keeps_for_nobody_is_said_and_the_deploy_goes_on_when_it_is_free(
    yard: Yard,
) -> None:
    async with Daemon(yard) as daemon, Daemon(yard, engines=Forgetful) as unlucky:
        ports = (Port(container=8080, host=yard.free_port()),)
        one = await daemon.deployed(daemon.placement(images.ONE, ports=ports))
        two = daemon.placement(images.TWO, ports=ports)
        action = daemon.action(await daemon.change(two, one))
        with pytest.raises(Retryable, match=f"keeps port {ports[0].host} .* restart the engine"):
            await unlucky.apply(action)
        worn = await daemon.worn()
        assert worn is not None
        assert worn.phase is Phase.IN_TRANSIT
        (old,) = (found for found in yard.workloads() if found["Config"]["Image"] == str(one.artifact))
        assert old["HostConfig"]["RestartPolicy"] == render.ALWAYS, "a restart of the engine would not bring it back"
        assert (await daemon.apply(action)).result is Result.CHANGED


async def test_a_port_that_somebody_has_is_no_reason_to_restart_the_engine(yard: Yard) -> None:
    async with Daemon(yard) as daemon:
        one = await daemon.deployed(daemon.placement(images.ONE, ports=(Port(container=8080, host=yard.free_port()),)))
        taken = yard.free_port()
        bound = {"PortBindings": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(taken)}]}}
        exposed = {"8080/tcp": {}}
        yard.stranger(f"has-{yard.mark}", str(yard.pulled(images.ONE)), HostConfig=bound, ExposedPorts=exposed)
        two = daemon.placement(images.TWO, ports=(Port(container=8080, host=taken),))
        assert (await daemon.deploy(two, one)).result is Result.REVERTED
        assert [found["Config"]["Image"] for found in yard.running()] == [str(one.artifact)]
