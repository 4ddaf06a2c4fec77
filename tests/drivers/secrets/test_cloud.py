"""Secrets of AWS, asked of moto's server with the real SDK."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from desired_state.secrets import SecretRef
from drivers.errors import DriverError, Refused, Unreachable
from drivers.secrets.resolver import Resolver
from stickers.redaction import Redactor

boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
server = pytest.importorskip("moto.server", reason="moto's server is not installed")

CANARY = "c4nary-of-the-mine"
REGION = "eu-central-1"


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture(autouse=True)
def environ(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        "AWS_ENDPOINT_URL": aws,
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def manager(aws: str) -> Iterator[Any]:
    client = boto3.client("secretsmanager", endpoint_url=aws, region_name=REGION)
    yield client
    for found in client.list_secrets()["SecretList"]:
        client.delete_secret(SecretId=found["Name"], ForceDeleteWithoutRecovery=True)
    client.close()


@pytest.fixture
def parameters(aws: str) -> Iterator[Any]:
    client = boto3.client("ssm", endpoint_url=aws, region_name=REGION)
    yield client
    client.delete_parameters(Names=["/shop/prod"])
    client.close()


@pytest.fixture
async def resolver() -> AsyncIterator[Resolver]:
    resolver = Resolver(Redactor())
    yield resolver
    await resolver.aclose()


def ref(reference: str, version: str | None = None) -> SecretRef:
    return SecretRef(reference=reference, version=version)


async def refusal(resolver: Resolver, kind: type[DriverError], secret: SecretRef) -> str:
    with pytest.raises(kind) as caught:
        await resolver(secret)
    assert str(caught.value).startswith(f"secret {secret.reference}: ")
    assert CANARY not in str(caught.value)
    return str(caught.value)


async def test_a_field_of_a_secret_is_read(manager: Any, resolver: Resolver) -> None:
    manager.create_secret(Name="shop/prod", SecretString=json.dumps({"password": CANARY}))
    assert await resolver(ref("aws-sm:shop/prod#password")) == CANARY
    assert "no field 'user'" in await refusal(resolver, Refused, ref("aws-sm:shop/prod#user"))


async def test_a_secret_that_is_one_text_is_read(manager: Any, resolver: Resolver) -> None:
    manager.create_secret(Name="shop/text", SecretString=CANARY)
    manager.create_secret(Name="shop/bytes", SecretBinary=CANARY.encode())
    assert await resolver(ref("aws-sm:shop/text")) == CANARY
    assert await resolver(ref("aws-sm:shop/bytes")) == CANARY


async def test_bytes_that_are_no_text_are_refused(manager: Any, resolver: Resolver) -> None:
    manager.create_secret(Name="shop/bytes", SecretBinary=b"\xff\xfe")
    assert "not UTF-8" in await refusal(resolver, Refused, ref("aws-sm:shop/bytes"))


async def test_a_secret_is_read_in_the_declared_version_or_stage(manager: Any, resolver: Resolver) -> None:
    first = manager.create_secret(Name="shop/prod", SecretString="first-value")["VersionId"]
    manager.put_secret_value(SecretId="shop/prod", SecretString="second-value")
    assert await resolver(ref("aws-sm:shop/prod")) == "second-value"
    assert await resolver(ref("aws-sm:shop/prod", first)) == "first-value"
    assert await resolver(ref("aws-sm:shop/prod", "AWSPREVIOUS")) == "first-value"
    assert "not in that version" in await refusal(resolver, Refused, ref("aws-sm:shop/prod", "NOSUCH"))


async def test_a_secret_is_read_by_its_arn_where_it_is(
    aws: str, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = boto3.client("secretsmanager", endpoint_url=aws, region_name="us-west-2")
    arn = client.create_secret(Name="far", SecretString=CANARY)["ARN"]
    assert await resolver(ref(f"aws-sm:{arn}")) == CANARY
    client.delete_secret(SecretId="far", ForceDeleteWithoutRecovery=True)
    client.close()


async def test_a_secret_that_is_not_there_or_about_to_go_is_refused(manager: Any, resolver: Resolver) -> None:
    assert "no such secret" in await refusal(resolver, Refused, ref("aws-sm:shop/none"))
    manager.create_secret(Name="shop/gone", SecretString=CANARY)
    manager.delete_secret(SecretId="shop/gone", RecoveryWindowInDays=7)
    assert "about to be deleted" in await refusal(resolver, Refused, ref("aws-sm:shop/gone"))


async def test_a_parameter_is_read_decrypted(parameters: Any, resolver: Resolver) -> None:
    parameters.put_parameter(Name="/shop/prod", Value=CANARY, Type="SecureString")
    assert await resolver(ref("aws-ssm:/shop/prod")) == CANARY


async def test_a_parameter_is_read_in_the_declared_version(parameters: Any, resolver: Resolver) -> None:
    parameters.put_parameter(Name="/shop/prod", Value='{"password": "first-value"}', Type="String")
    parameters.put_parameter(Name="/shop/prod", Value='{"password": "second-value"}', Type="String", Overwrite=True)
    assert await resolver(ref("aws-ssm:/shop/prod#password")) == "second-value"
    assert await resolver(ref("aws-ssm:/shop/prod#password", "1")) == "first-value"
    assert "in that version" in await refusal(resolver, Refused, ref("aws-ssm:/shop/prod", "7"))


async def test_a_parameter_that_is_not_there_is_refused(resolver: Resolver) -> None:
    assert "no such parameter" in await refusal(resolver, Refused, ref("aws-ssm:/none"))


async def test_what_is_missing_here_is_named(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert "set AWS_REGION" in await refusal(resolver, Refused, ref("aws-sm:shop/prod"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no AWS credentials" in await refusal(resolver, Refused, ref("aws-sm:shop/prod"))


@pytest.mark.parametrize(
    ("status", "code", "kind", "said"),
    [
        (400, "AccessDeniedException", Refused, "the role needs secretsmanager:GetSecretValue"),
        (400, "DecryptionFailure", Refused, "kms:Decrypt"),
        (400, "ExpiredTokenException", Refused, "have expired"),
        (400, "UnrecognizedClientException", Refused, "does not know the credentials"),
        (400, "ThrottlingException", Unreachable, "cannot answer now"),
        (500, "InternalServiceError", Unreachable, "cannot answer now"),
        (400, "SomethingNew", Refused, "AWS refuses (SomethingNew)"),
    ],
)
async def test_each_answer_of_aws_is_its_own_error(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, kind: type[DriverError], said: str
) -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            body = json.dumps({"__type": code, "message": f"{CANARY} is no business of logs"}).encode()
            self.send_response(status)
            self.send_header("content-type", "application/x-amz-json-1.1")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listening.server_address[1]}")
    resolver = Resolver(Redactor())
    try:
        assert said in await refusal(resolver, kind, ref("aws-sm:shop/prod"))
    finally:
        await resolver.aclose()
        listening.shutdown()
        listening.server_close()
        thread.join()


async def test_nothing_listens_there(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert "does not answer" in await refusal(resolver, Unreachable, ref("aws-sm:shop/prod"))
