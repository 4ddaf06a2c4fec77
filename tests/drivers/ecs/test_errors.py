"""What the SDK and ECS say, in our words: what may be tried again, what cannot help, and what nobody knows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from botocore import exceptions as sdk

from drivers.contract import Look
from drivers.ecs import api
from drivers.ecs.api import Api
from drivers.ecs.connection import Connection
from drivers.ecs.translation import translated
from drivers.errors import Busy, DriverError, InvalidAction, OutcomeUnknown, Refused, Unreachable
from tests.drivers.ecs import samples
from tests.drivers.ecs import yard as yards
from tests.drivers.ecs.fake import FakeEcs
from tests.drivers.ecs.stage import EcsStage
from tests.drivers.ecs.yard import Yard

CONNECTION = Connection.model_validate(samples.CONNECTION)
PASS_ROLE = "User: arn:aws:sts::1:x is not authorized to perform: iam:PassRole on resource: arn:aws:iam::1:role/shop"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "THROTTLED", (0.01, 0.01))


@pytest.fixture
async def stage(yard: Yard) -> AsyncIterator[EcsStage]:
    async with EcsStage(yard) as stage:
        yield stage


def answered(code: str, message: str = "because", operation: str = "UpdateService") -> Exception:
    return sdk.ClientError({"Error": {"Code": code, "Message": message}}, operation)


@pytest.mark.parametrize(
    ("error", "change", "kind", "because"),
    [
        (answered("ThrottlingException", "Rate exceeded"), True, Busy, "throttles UpdateService: Rate exceeded"),
        (answered("RequestLimitExceeded"), False, Busy, "throttles"),
        (answered("UpdateInProgressException"), True, Busy, "UpdateService: because"),
        (answered("AccessDeniedException"), True, Refused, "grant ecs:UpdateService"),
        (answered("AccessDeniedException", PASS_ROLE), True, Refused, "grant iam:PassRole on the template's roles"),
        (answered("ClusterNotFoundException"), False, Refused, "there is no cluster production in eu-central-1"),
        (answered("ServiceNotFoundException"), True, Refused, "there is no service shop in cluster production"),
        (answered("ServiceNotActiveException"), True, Refused, "shop in cluster production of eu-central-1 is being"),
        (answered("InvalidParameterException", "no such cpu"), True, Refused, "UpdateService was refused: no such cpu"),
        (answered("UnrecognizedClientException"), False, Refused, "does not take the credentials"),
        (answered("ExpiredTokenException"), True, Refused, "does not take the credentials"),
        (answered("ServerException"), True, OutcomeUnknown, "nobody knows whether it was done: ServerException"),
        (answered("ServerException"), False, Unreachable, "could not answer: ServerException"),
        (answered("SomethingNewException"), True, OutcomeUnknown, "nobody knows whether it was done: SomethingNew"),
        (answered("SomethingNewException"), False, Unreachable, "could not answer: SomethingNew"),
        (sdk.EndpointConnectionError(endpoint_url="https://x"), True, Unreachable, "cannot be reached"),
        (sdk.ConnectTimeoutError(endpoint_url="https://x"), True, Unreachable, "cannot be reached"),
        (sdk.ReadTimeoutError(endpoint_url="https://x"), True, OutcomeUnknown, "nobody knows whether it was done"),
        (sdk.ReadTimeoutError(endpoint_url="https://x"), False, Unreachable, "no answer"),
        (sdk.ConnectionClosedError(endpoint_url="https://x"), True, OutcomeUnknown, "nobody knows"),
        (sdk.NoCredentialsError(), False, Refused, "no credentials for ECS in eu-central-1"),
        (sdk.PartialCredentialsError(provider="env", cred_var="x"), True, Refused, "no credentials"),
        (sdk.ParamValidationError(report="cpu: wrong type"), True, InvalidAction, "UpdateService: .*cpu: wrong type"),
        (RuntimeError("what is this"), True, OutcomeUnknown, "RuntimeError: what is this"),
        (RuntimeError("what is this"), False, Unreachable, "RuntimeError: what is this"),
    ],
)
def test_an_error_is_told_as_what_it_means(
    error: Exception, change: bool, kind: type[DriverError], because: str
) -> None:
    found = translated(error, "UpdateService", CONNECTION, change=change)
    assert isinstance(found, kind)
    with pytest.raises(kind, match=because):
        raise found


def test_a_long_message_is_cut() -> None:
    assert len(str(translated(RuntimeError("x" * 9000), "UpdateService", CONNECTION, change=True))) < 500


async def test_a_throttled_read_is_asked_again(stage: EcsStage, ecs: FakeEcs) -> None:
    await stage.deployed("one")
    ecs.failures += [("DescribeServices", "ThrottlingException", "Rate exceeded")] * 2
    assert (await stage.workload()).state == "running"
    assert not ecs.failures


async def test_a_read_that_stays_throttled_leaves_the_target_unseen(stage: EcsStage, yard: Yard) -> None:
    yard.ecs.failures += [("DescribeServices", "ThrottlingException", "Rate exceeded")] * 3
    seen = (await stage.driver.observe([Look(target=yard.target())]))[yard.target().id]
    assert "throttles DescribeServices: Rate exceeded" in (seen.unseen or "")
    assert not yard.ecs.failures


async def test_a_throttled_change_is_not_repeated_here(stage: EcsStage, ecs: FakeEcs) -> None:
    action = stage.action(await stage.change("one"))
    ecs.failures.append(("UpdateService", "ThrottlingException", "Rate exceeded"))
    with pytest.raises(Busy, match="throttles UpdateService"):
        await stage.apply(action)
    assert len(stage.calls("UpdateService")) == 1
    assert (await stage.apply(action)).as_wanted


async def test_a_missing_permission_is_named_and_nothing_was_changed(stage: EcsStage, yard: Yard) -> None:
    yard.ecs.failures.append(("RegisterTaskDefinition", "AccessDeniedException", PASS_ROLE))
    with pytest.raises(Refused, match="iam:PassRole on the template's roles"):
        await stage.deploy("one")
    assert not yard.service.tags
    assert not stage.calls("UpdateService")


async def test_a_change_that_ecs_could_not_answer_is_an_unknown_outcome(stage: EcsStage, ecs: FakeEcs) -> None:
    action = stage.action(await stage.change("one"))
    ecs.failures.append(("UpdateService", "ServerException", "Service Unavailable"))
    with pytest.raises(OutcomeUnknown):
        await stage.apply(action)
    assert (await stage.apply(action)).as_wanted


async def test_the_sdk_tries_nothing_again_by_itself(ecs: FakeEcs, yard: Yard) -> None:
    connection = Connection.model_validate(yard.connection)
    api = Api(connection, yards.secret)
    calls = len(ecs.calls)
    ecs.failures.append(("DescribeServices", "ServerException", "x"))
    with pytest.raises(Unreachable):
        await api.read("DescribeServices", connection, cluster=yard.cluster, services=["shop"])
    assert len(ecs.calls) == calls + 1
    await api.aclose()


async def test_credentials_that_are_not_taken_are_resolved_again(ecs: FakeEcs, yard: Yard) -> None:
    resolved: list[str] = []

    async def secret(reference: Any) -> str:
        resolved.append(reference.reference)
        return await yards.secret(reference)

    connection = Connection.model_validate(yard.connection)
    api = Api(connection, secret)
    said = {"cluster": yard.cluster, "services": ["shop"]}
    ecs.failures.append(("DescribeServices", "ExpiredTokenException", "the token has expired"))
    with pytest.raises(Refused, match="the token has expired"):
        await api.read("DescribeServices", connection, **said)
    await api.read("DescribeServices", connection, **said)
    await api.read("DescribeServices", connection, **said)
    assert resolved == ["env:KEY", "env:SECRET"] * 2
    await api.aclose()


async def test_a_secret_that_cannot_be_had_is_refused(ecs: FakeEcs, yard: Yard) -> None:
    async def secret(reference: Any) -> str:
        raise Refused(f"there is no secret {reference.reference}")

    connection = Connection.model_validate(yard.connection)
    with pytest.raises(Refused, match="there is no secret env:KEY"):
        await Api(connection, secret).read("DescribeServices", connection, cluster="c", services=["shop"])


async def test_nobody_listening_is_unreachable(yard: Yard) -> None:
    connection = Connection.model_validate({**yard.connection, "endpoint": "http://127.0.0.1:9"})
    with pytest.raises(Unreachable, match=r"ECS at http://127\.0\.0\.1:9 cannot be reached"):
        await Api(connection, yards.secret).change("UpdateService", connection, service="shop")
