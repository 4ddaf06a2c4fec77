"""The edge to an engine: every foreign error becomes one of ours, and no call outlasts its time."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream

from drivers.docker import engine as engine_module
from drivers.docker import render
from drivers.docker.connection import Connection
from drivers.docker.engine import Engine, Missing, Taken
from drivers.errors import Conflict, DriverError, OutcomeUnknown, Refused, Unreachable
from tests.drivers.docker.daemon import Daemon
from tests.drivers.docker.yard import Yard
from tests.harness import images

Respond = Callable[[str, str, ByteStream], Awaitable[None]]
DIGEST = "sha256:" + "1" * 64


class TestOnARealEngine:
    @pytest.fixture
    async def edge(self, engine: str) -> AsyncIterator[Engine]:
        edge = Engine(Connection(engine=engine))
        yield edge
        await edge.aclose()

    async def test_what_is_not_there_is_none_or_missing(self, edge: Engine) -> None:
        assert await edge.container("0" * 64) is None
        assert await edge.image(f"registry.invalid/nothing@{DIGEST}") is None
        with pytest.raises(Missing):
            await edge.start("0" * 64)

    async def test_what_is_gone_already_is_gone(self, edge: Engine) -> None:
        await edge.remove("0" * 64)
        await edge.stop("0" * 64)
        await edge.remove_image(f"registry.invalid/nothing@{DIGEST}")

    async def test_a_name_that_is_taken_is_taken(self, edge: Engine, yard: Yard) -> None:
        yard.stranger(f"taken-{yard.mark}", str(yard.pulled(images.ONE)))
        body = render.Body(name=f"taken-{yard.mark}", config={"Image": str(yard.artifact(images.ONE))})
        with pytest.raises(Taken):
            await edge.create(body)
        assert issubclass(Taken, Conflict)

    async def test_what_makes_no_sense_is_refused_in_the_engines_words(self, edge: Engine, yard: Yard) -> None:
        image = str(yard.pulled(images.ONE))
        bind = {"Mounts": [{"Type": "bind", "Source": "/no/such/place", "Target": "/x"}]}
        with pytest.raises(Refused, match="/no/such/place"):
            await edge.create(render.Body(name=f"odd-{yard.mark}", config={"Image": image, "HostConfig": bind}))

    async def test_a_pull_that_fails_in_the_middle_is_refused(self, edge: Engine, registry: str) -> None:
        with pytest.raises(Refused, match="manifest unknown"):
            await edge.pull(f"{registry}/no/such/repository", DIGEST, {})

    async def test_a_registry_that_does_not_answer_is_worth_another_try(self, edge: Engine) -> None:
        with pytest.raises(Unreachable, match="pull of"):
            await edge.pull("127.0.0.1:9/some/repository", DIGEST, {})

    async def test_a_network_is_made_once_with_a_subnet_of_its_own(self, edge: Engine, yard: Yard) -> None:
        for _ in range(2):
            await edge.ensure_network(yard.network, {"made": "here"})
        (made,) = [one for one in yard.client.networks() if yard.mark in one["Name"]]
        assert made["IPAM"]["Config"][0]["Subnet"]
        assert made["Labels"] == {"made": "here"}

    async def test_a_network_whose_name_merely_contains_it_is_another(self, edge: Engine, yard: Yard) -> None:
        await edge.ensure_network(f"{yard.network}-longer", {})
        await edge.ensure_network(yard.network, {})
        found = {one["Name"] for one in yard.client.networks() if yard.mark in one["Name"]}
        assert found == {yard.network, f"{yard.network}-longer"}

    async def test_what_is_not_on_a_network_is_off_it(self, edge: Engine, yard: Yard) -> None:
        """Whether it never was, or the engine was killed when it had taken half of the connection away."""
        await edge.ensure_network(yard.network, {})
        running = yard.stranger(f"off-{yard.mark}", str(yard.pulled(images.ONE)))
        for _ in range(2):
            await edge.disconnect(running, yard.network)
        await edge.connect(running, yard.network)
        await edge.disconnect(running, yard.network)
        container = await edge.container(running)
        assert container is not None
        assert yard.network not in container["NetworkSettings"]["Networks"]

    async def test_a_scout_that_a_crash_left_is_taken_away(self, edge: Engine, yard: Yard) -> None:
        yard.client.create_network(f"{yard.network}.holdfast-scout")
        await edge.ensure_network(yard.network, {})
        assert [one["Name"] for one in yard.client.networks() if yard.mark in one["Name"]] == [yard.network]

    async def test_many_calls_of_the_sdk_share_few_connections(self, edge: Engine) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(edge.remove_image, f"registry.invalid/nothing:{number}")
        assert edge._client is not None
        adapter: Any = edge._client.get_adapter(edge._client.base_url)
        assert len(adapter.pools) == 1

    async def test_many_questions_and_changes_share_few_connections(self, edge: Engine) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(edge.container, f"{number:064}")
                tasks.start_soon(edge.remove, f"{number:064}")
        assert edge._lines is not None
        assert 1 <= len(edge._lines._idle) <= engine_module.CALLS


async def test_a_name_is_one_part_of_a_path_whatever_is_in_it(tmp_path: Path) -> None:
    heads: list[bytes] = []
    async with pretending(tmp_path, says(200, {}), heads) as engine:
        await engine.container("../networks/x?a=1")
        await engine.connect("1" * 64, "a/b", aliases=["api"])
    asked = [head.split(b" ")[1] for head in heads if b"/version" not in head]
    assert asked == [b"/v1.41/containers/..%2Fnetworks%2Fx%3Fa%3D1/json", b"/v1.41/networks/a%2Fb/connect"]


class TestKeptConnections:
    @pytest.mark.parametrize("call", ["start", "container"])
    async def test_one_that_was_closed_meanwhile_is_not_used(self, tmp_path: Path, call: str) -> None:
        async with closing(tmp_path, after=1) as (engine, brought):
            for _ in range(3):
                await getattr(engine, call)("1" * 64)
                await anyio.sleep(0.05)
        assert len(brought) == 3

    async def test_one_that_stands_is_used_again(self, tmp_path: Path) -> None:
        async with closing(tmp_path, after=9) as (engine, brought):
            for _ in range(3):
                await engine.start("1" * 64)
                await engine.container("1" * 64)
        assert len(brought) == 1

    async def test_a_change_is_never_sent_twice(self, tmp_path: Path) -> None:
        async with closing(tmp_path, after=1, answering=False) as (engine, brought):
            with pytest.raises(OutcomeUnknown):
                await engine.start("1" * 64)
        assert len(brought) == 1


@contextlib.asynccontextmanager
async def closing(
    directory: Path, *, after: int, answering: bool = True
) -> AsyncIterator[tuple[Engine, Counter[ByteStream]]]:
    """An engine that closes each connection after so many requests, answered or not; and what each one brought."""
    brought: Counter[ByteStream] = Counter()

    async def respond(method: str, path: str, stream: ByteStream) -> None:
        brought[stream] += 1
        if answering:
            await stream.send(answer(200, {}))
        if brought[stream] == after:
            await stream.aclose()

    async with pretending(directory, respond) as engine:
        yield engine, brought


@contextlib.asynccontextmanager
async def pretending(directory: Path, respond: Respond, heads: list[bytes] | None = None) -> AsyncIterator[Engine]:
    """An engine that says what the test wants; the version it has to tell it tells honestly. `heads` gathers what it is
    asked."""
    path = directory / "engine.sock"

    async def converse(stream: ByteStream) -> None:
        async with stream:
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                while True:
                    await _reply(stream, respond, heads)

    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, converse)
        engine = Engine(Connection(engine=f"unix://{path}"))
        try:
            yield engine
        finally:
            await engine.aclose()
            tasks.cancel_scope.cancel()


async def _reply(stream: ByteStream, respond: Respond, heads: list[bytes] | None) -> None:
    asked = b""
    while b"\r\n\r\n" not in asked:
        asked += await stream.receive()
    method, path, _ = asked.split(b" ", 2)
    if heads is not None:
        heads.append(asked)
    if path == b"/version":
        await stream.send(answer(200, {"ApiVersion": "1.41"}))
    else:
        await respond(method.decode(), path.decode(), stream)


def answer(status: int, body: Any) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


async def silent(method: str, path: str, stream: ByteStream) -> None:
    await anyio.sleep_forever()


async def cut(method: str, path: str, stream: ByteStream) -> None:
    await stream.aclose()


async def half(method: str, path: str, stream: ByteStream) -> None:
    await stream.send(answer(200, {"Id": "1" * 64})[:-5])
    await stream.aclose()


async def gibberish(method: str, path: str, stream: ByteStream) -> None:
    await stream.send(answer(200, b"<html>proxy</html>"))


def says(status: int, body: Any) -> Respond:
    async def respond(method: str, path: str, stream: ByteStream) -> None:
        await stream.send(answer(status, body))

    return respond


@pytest.mark.parametrize("respond", [silent, cut, half, gibberish])
class TestWhenTheAnswerIsLost:
    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine_module, "TIMEOUT", 0.3)

    async def test_a_look_could_not_be_had(self, tmp_path: Path, respond: Respond) -> None:
        async with pretending(tmp_path, respond) as engine:
            with pytest.raises(Unreachable):
                await engine.container("1" * 64)

    async def test_whether_a_change_was_made_is_not_known(self, tmp_path: Path, respond: Respond) -> None:
        async with pretending(tmp_path, respond) as engine:
            with pytest.raises(OutcomeUnknown):
                await engine.create(render.Body(name="one", config={}))


async def test_nobody_there_means_nothing_happened(tmp_path: Path) -> None:
    engine = Engine(Connection(engine=f"unix://{tmp_path}/engine.sock"))
    with pytest.raises(Unreachable):
        await engine.start("1" * 64)


async def test_an_engine_that_left_between_two_calls_means_nothing_happened(tmp_path: Path) -> None:
    async with pretending(tmp_path, says(204, b"")) as engine:
        await engine.start("1" * 64)
    gone = Engine(engine.connection)
    with pytest.raises(Unreachable):
        await gone.start("1" * 64)


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, Refused), (403, Refused), (404, Missing), (409, Taken), (500, Refused), (503, Unreachable)],
)
async def test_each_status_has_its_meaning(tmp_path: Path, status: int, error: type[DriverError]) -> None:
    async with pretending(tmp_path, says(status, {"message": "in the engine's\nwords"})) as engine:
        with pytest.raises(error, match="in the engine's words"):
            await engine.create(render.Body(name="one", config={}))


async def test_a_pull_is_not_ended_by_its_200(tmp_path: Path) -> None:
    lines = b'{"status":"Pulling"}\n{"error":"unauthorized: go away","errorDetail":{}}\n'
    async with pretending(tmp_path, says(200, lines)) as engine:
        with pytest.raises(Refused, match="unauthorized"):
            await engine.pull("registry.example.com/one", DIGEST, {})


async def test_a_pull_that_falls_silent_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "PULL_SILENCE", 0.2)

    async def stalls(method: str, path: str, stream: ByteStream) -> None:
        await stream.send(b'HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{"status":"Pulling"}\n')
        await anyio.sleep_forever()

    async with pretending(tmp_path, stalls) as engine:
        began = time.monotonic()
        with pytest.raises(Unreachable):
            await engine.pull("registry.example.com/one", DIGEST, {})
        assert time.monotonic() - began < 5


async def test_no_credentials_of_this_host_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's own login, in the SDK's configuration file, is not the daemon's to use."""
    (tmp_path / "config.json").write_text('{"auths":{"registry.example.com":{"auth":"bWU6c2VjcmV0"}}}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    heads: list[bytes] = []
    async with pretending(tmp_path, says(200, b"{}"), heads) as engine:
        await engine.pull("registry.example.com/one", DIGEST, {})
        await engine.pull("registry.example.com/one", DIGEST, {"username": "shop", "password": "s3cret"})
    sent = [_login(head) for head in heads if b"/images/create" in head]
    assert sent == [{}, {"username": "shop", "password": "s3cret"}]


def _login(head: bytes) -> Any:
    (line,) = [line for line in head.decode().splitlines() if line.lower().startswith("x-registry-auth:")]
    return json.loads(base64.urlsafe_b64decode(line.partition(":")[2].strip()))


async def test_a_list_written_otherwise_is_understood_and_nonsense_is_unseen(tmp_path: Path, yard: Yard) -> None:
    """An engine that answers with something else than a list of containers must never read as an empty one."""
    entry = {"Names": ["/theirs"], "Id": "7" * 64, "State": "running", "Status": "Up 3 seconds", "ImageID": "sha256:1"}
    said: list[Any] = [[entry], {"message": "teapot"}, b"[{]"]

    async def respond(method: str, path: str, stream: ByteStream) -> None:
        await stream.send(answer(200, said[0]) if "containers" in path else answer(404, {"message": "no"}))

    async with pretending(tmp_path, respond) as engine, Daemon(yard, engines=lambda connection: engine) as daemon:
        assert [one.name for one in (await daemon.observe()).unmanaged] == ["theirs"]
        for _ in range(2):
            said.pop(0)
            seen = await daemon.observe()
            assert seen.unseen is not None
            assert "not understood" in seen.unseen
