"""Revisions are read once, but never remembered in the moment between being registered and being named as ours."""

from __future__ import annotations

from drivers.ecs.api import Api
from drivers.ecs.connection import Connection
from drivers.ecs.revisions import CONTENT, SELF, Revisions
from tests.drivers.ecs import yard as yards
from tests.drivers.ecs.yard import Yard


async def test_a_revision_is_read_once(yard: Yard) -> None:
    connection = Connection.model_validate(yard.connection)
    api = Api(connection, yards.secret)
    revisions, calls = Revisions(api), len(yard.ecs.named("DescribeTaskDefinition"))
    assert await revisions.get(yard.bootstrap, connection) is await revisions.get(
        yard.bootstrap.rpartition("/")[2], connection
    )
    assert len(yard.ecs.named("DescribeTaskDefinition")) == calls + 1
    await api.aclose()


async def test_a_revision_that_is_just_being_registered_is_read_again(yard: Yard) -> None:
    connection = Connection.model_validate(yard.connection)
    api = Api(connection, yards.secret)
    revisions = Revisions(api)
    arn = yard._register("soon", [{"name": "a", "image": "a"}], tags=[{"key": CONTENT, "value": "x"}])
    assert not (await revisions.get(arn, connection)).intact
    name = arn.rpartition("/")[2]
    yard.ecs.ask(lambda: yard.ecs.TagResource({"resourceArn": arn, "tags": [{"key": SELF, "value": name}]}))
    assert (await revisions.get(arn, connection)).intact
    await api.aclose()


async def test_what_was_deleted_is_not_there(yard: Yard) -> None:
    connection = Connection.model_validate(yard.connection)
    api = Api(connection, yards.secret)
    assert await Revisions(api).find("nothing:9", connection) is None
    await api.aclose()
