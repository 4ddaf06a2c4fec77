"""Events over real sockets: resumed without loss or repetition, paced by their client, ended when they should be."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from api.http.app import gated
from api.http.caps import Caps
from api.http.serving import Server, on_port
from api.http.streams import Pace, Seats
from drivers.memory import World
from reconciler.store import chronicle
from reconciler.store.chronicle import BEGINNING, Kind
from reconciler.store.store import Store
from stickers.names import EnvironmentId, JobId
from tests.api.http.doors import Door, opened
from tests.harness import virtual_time
from tests.reconciler.rig import PROD, Shelf, around

V1 = "/api/v1"
OTHER = EnvironmentId("default/other")
SOON = 60.0


@dataclass(frozen=True, kw_only=True)
class Event:
    id: str | None
    kind: str
    data: Any


@dataclass(kw_only=True)
class Listening:
    """The application at a real port."""

    door: Door
    server: Server
    url: str

    @asynccontextmanager
    async def events(
        self, path: str, token: str = "owner", last: str | None = None
    ) -> AsyncIterator[AsyncGenerator[Event, None]]:
        headers = {"Authorization": f"Bearer {token}"} | ({"Last-Event-ID": last} if last else {})
        async with (
            httpx2.AsyncClient(base_url=self.url, timeout=SOON) as client,
            client.stream("GET", f"{V1}{path}", headers=headers) as answer,
        ):
            assert answer.status_code == 200, await answer.aread()
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield parsed(answer)

    async def tell(self, count: int, environment: EnvironmentId = PROD, job: JobId | None = None) -> None:
        for number in range(count):
            await self.door.house.store.write(
                lambda c, n=number: chronicle.tell(c, environment, Kind.VERDICTS, datetime.now(UTC), {"n": n}, job)  # type: ignore[misc]
            )
        self.door.house.bell.ring()


async def parsed(answer: httpx2.Response) -> AsyncGenerator[Event, None]:
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif "event" in fields:
            yield Event(id=fields.get("id"), kind=fields["event"], data=json.loads(fields["data"]))
            fields = {}


@asynccontextmanager
async def listening(tmp_path: Path, caps: Caps | None = None) -> AsyncIterator[Listening]:
    store = await Store.open(f"sqlite:///{tmp_path / 'holdfast.db'}")
    world = World(now=virtual_time.now)
    try:
        async with around(world, store, Shelf(), running=False) as made, opened(made, Caps()) as door:
            await store.write(lambda c: None)
            server = on_port(gated(door.app, caps or Caps()), "127.0.0.1", 0)
            async with anyio.create_task_group() as group:
                port = await group.start(server.run_until_stopped)
                yield Listening(door=door, server=server, url=f"http://127.0.0.1:{port}")
                door.house.bell.close()
                server.should_exit = True
    finally:
        await store.aclose()


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Listening]:
    async with listening(tmp_path) as found:
        yield found


async def read(stream: AsyncGenerator[Event, None], count: int) -> list[Event]:
    with anyio.fail_after(SOON):
        return [await anext(stream) for _ in range(count)]


async def left(at: Listening) -> None:
    """Until no seat is taken."""
    with anyio.fail_after(SOON):
        while at.door.app.state.seats.taken:  # noqa: ASYNC110 - what is waited for is another task's affair
            await anyio.sleep(0.05)


async def test_a_stream_begins_now_and_tells_what_happens(at: Listening) -> None:
    await at.tell(3)
    async with at.events("/events") as stream:
        [hello] = await read(stream, 1)
        assert hello.kind == "hello"
        await at.tell(2)
        assert [(each.kind, each.data["n"]) for each in await read(stream, 2)] == [("verdicts", 0), ("verdicts", 1)]


async def test_whoever_comes_back_misses_nothing_and_meets_nothing_twice(at: Listening) -> None:
    seen: list[str] = []
    async with at.events("/events") as stream:
        seen += [str(each.id) for each in await read(stream, 1)]
    async with anyio.create_task_group() as group:
        group.start_soon(at.tell, 300)
        while len(seen) < 301:
            async with at.events("/events", last=seen[-1]) as stream:
                [hello, *events] = await read(stream, 1 + min(37, 301 - len(seen)))
                assert (hello.kind, hello.id) == ("hello", seen[-1])
                seen += [str(each.id) for each in events]
    assert len(set(seen)) == 301
    kept = await at.door.house.store.read(lambda c: chronicle.after(c, BEGINNING, limit=1_000))
    assert seen[1:] == [str(each.cursor) for each in kept]


async def test_what_was_written_by_another_process_is_told_too(at: Listening) -> None:
    async with at.events("/events") as stream:
        await read(stream, 1)
        await at.door.house.store.write(lambda c: chronicle.tell(c, PROD, Kind.DESIRED, datetime.now(UTC), {}))
        [event] = await read(stream, 1)  # nobody rang
        assert event.kind == "desired"


async def test_whoever_was_away_for_too_long_is_told_of_the_gap(at: Listening) -> None:
    await at.tell(1)
    first = await at.door.house.store.read(chronicle.end)
    await at.tell(3)
    await at.door.house.store.write(lambda c: chronicle.forget(c, datetime.now(UTC)))
    await at.tell(1)
    async with at.events("/events", last=str(first)) as stream:
        assert [each.kind for each in await read(stream, 3)] == ["hello", "gap", "verdicts"]


async def test_nobody_is_told_what_they_may_not_see(at: Listening) -> None:
    async with at.events("/events", "viewer@default/prod") as stream:
        await read(stream, 1)
        await at.tell(2, OTHER)
        await at.tell(1, PROD)
        [event] = await read(stream, 1)
        assert event.data["environment"] == PROD


async def test_a_right_that_is_taken_back_ends_the_stream(at: Listening) -> None:
    at.door.app.state.pace = Pace(alive=0.1, asked_again=0.2)
    async with at.events("/events", "viewer@default/prod") as stream:
        await read(stream, 1)
        at.door.doorkeeper.gone.add("viewer@default/prod")
        [event] = await read(stream, 1)
        assert (event.kind, event.data["code"]) == ("problem", "UNAUTHENTICATED")


async def test_there_are_only_so_many_streams_for_each(at: Listening) -> None:
    at.door.app.state.seats = Seats(each=2)
    async with at.events("/events"), at.events("/events"), httpx2.AsyncClient(base_url=at.url) as client:
        refused = await client.get(f"{V1}/events", headers={"Authorization": "Bearer owner"})
        assert (refused.status_code, refused.json()["code"]) == (429, "TOO_MANY_STREAMS")
        assert int(refused.headers["retry-after"]) > 0
    await left(at)


async def test_a_client_that_takes_nothing_holds_up_nobody_and_is_cut_off(tmp_path: Path) -> None:
    async with listening(tmp_path, Caps(stalls=0.5)) as at:
        words = {"text": "x" * 1_900}
        host, port = at.url.removeprefix("http://").split(":")
        async with await anyio.connect_tcp(host, int(port)) as slow:
            await slow.send(f"GET {V1}/events HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer owner\r\n\r\n".encode())
            await slow.receive(10)
            for _ in range(40):
                await at.door.house.store.write(
                    lambda c: [chronicle.tell(c, PROD, Kind.VERDICTS, datetime.now(UTC), words) for _ in range(200)]
                )
            at.door.house.bell.ring()
            async with at.events("/events") as stream:  # others are served meanwhile
                [hello] = await read(stream, 1)  # what was told before it begins is not in it
                assert hello.kind == "hello"
                await at.tell(1)
                assert len(await read(stream, 1)) == 1
            await left(at)


async def test_streams_say_farewell_when_the_server_ends(tmp_path: Path) -> None:
    async with listening(tmp_path) as at, at.events("/events") as stream:
        await read(stream, 1)
        began = anyio.current_time()
        at.door.house.bell.close()
        at.server.should_exit = True
        [bye] = await read(stream, 1)
        assert bye.kind == "bye"
        assert anyio.current_time() - began < 2


async def test_a_bad_id_is_refused_in_the_one_shape(at: Listening) -> None:
    async with httpx2.AsyncClient(base_url=at.url) as client:
        headers = {"Authorization": "Bearer owner", "Last-Event-ID": "yesterday"}
        refused = await client.get(f"{V1}/events", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (422, "BAD_ARGUMENT")
