"""What we send and what we read, held against moto's server: it checks requests, and its rollouts never end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from desired_state.model import Target
from drivers.contract import Look
from drivers.ecs import look, render, tags
from drivers.ecs.driver import EcsDriver
from drivers.ecs.revisions import Revision, to_list
from drivers.ecs.sight import Place, Sight, read_template
from drivers.errors import Refused
from stickers.names import EnvironmentId
from stickers.observation import WorkloadState
from stickers.signature import Envelope
from tests.drivers.ecs import samples
from tests.drivers.ecs import yard as yards


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def target(endpoint: str) -> Target:
    connection: dict[str, Any] = samples.CONNECTION | {"endpoint": endpoint, "credentials": yards.CREDENTIALS}
    return Target(id=samples.TARGET, environment=EnvironmentId("shop/prod"), driver="ecs", connection=connection)


@pytest.fixture
async def sight(target: Target) -> AsyncIterator[Sight]:
    """An account with the cluster and the service of the target, which runs something that is nobody's."""
    sight = Sight(yards.tools())
    api, connection = sight.place(target).account.api, sight.place(target).connection
    await api.change("CreateCluster", connection, clusterName="production")
    nothing = {"name": "nothing", "image": "busybox", "memory": 64}
    await api.change("RegisterTaskDefinition", connection, family="nothing", containerDefinitions=[nothing])
    await api.change(
        "CreateService",
        connection,
        cluster="production",
        serviceName="shop",
        taskDefinition="nothing",
        desiredCount=1,
        launchType="EC2",
    )
    yield sight
    await api.change("DeleteService", connection, cluster="production", service="shop", force=True)
    await sight.aclose()


async def registered(sight: Sight, place: Place) -> Revision:
    template = await read_template(place)
    container = render.container(template, samples.placement(), sight.tools.installation)
    definition = render.definition(template, {"app": container})
    return await place.account.revisions.registered(definition, template.tags, template.digest, place.connection)


async def test_what_is_rendered_is_taken_and_registered_once(sight: Sight, target: Target) -> None:
    place = sight.place(target)
    one = await registered(sight, place)
    place.account.revisions._known.clear()  # as after a start of the daemon
    again = await registered(sight, place)
    assert (one.name, one.intact, one.content) == (again.name, again.intact, again.content)
    assert one.intact
    api = samples.placement()
    assert look.contents(again, "app", api.id.component) == api.content
    assert render.identity(again.containers["app"]) == render.identity(one.containers["app"])


async def test_the_service_takes_an_exact_revision_and_our_tags(sight: Sight, target: Target) -> None:
    place = sight.place(target)
    revision, api = await registered(sight, place), place.account.api
    view = await sight.view(place)
    arn = view.service.arn
    said = {"cluster": "production", "service": arn, "taskDefinition": revision.arn, "forceNewDeployment": False}
    answer = await api.change("UpdateService", place.connection, **said)
    assert answer["service"]["taskDefinition"] == revision.arn
    written = tags.sticker_tags(samples.placement().id.component, Envelope("{" + "x" * 1400 + "}"))
    await api.change("TagResource", place.connection, resourceArn=arn, tags=to_list(written))
    assert tags.worn((await sight.view(place)).service.tags, samples.placement().id.component) is not None
    await api.change("UntagResource", place.connection, resourceArn=arn, tagKeys=sorted(written))
    assert tags.worn((await sight.view(place)).service.tags, samples.placement().id.component) is None


async def test_what_runs_there_is_seen(sight: Sight, target: Target) -> None:
    named = replace(target, connection={**target.connection, "containers": {"nothing": "api"}})
    driver = EcsDriver(sight.tools)
    seen = (await driver.observe([Look(target=named)]))[target.id]
    await driver.aclose()
    assert seen.unseen is None
    (standing,) = seen.standings
    assert standing.workload is not None
    assert (standing.workload.artifact, standing.workload.state) == (None, WorkloadState.STARTING)


@pytest.mark.parametrize(
    ("said", "because"),
    [
        ({"cluster": "nowhere"}, "there is no cluster nowhere in eu-central-1 that these credentials can see"),
        ({"service": "nothing"}, "there is no service nothing of cluster production in eu-central-1"),
    ],
)
async def test_what_is_not_there_is_named(sight: Sight, target: Target, said: dict[str, str], because: str) -> None:
    wrong = replace(target, connection={**target.connection, **said})
    driver = EcsDriver(sight.tools)
    seen = (await driver.observe([Look(target=wrong)]))[target.id]
    await driver.aclose()
    assert seen.unseen == because


async def test_what_ecs_does_not_take_is_refused_with_its_words(sight: Sight, target: Target) -> None:
    place = sight.place(target)
    said = {"cluster": "production", "service": "shop", "taskDefinition": "shop:999"}
    with pytest.raises(Refused, match="UpdateService was refused: Unable to describe task definition"):
        await place.account.api.change("UpdateService", place.connection, **said)
