"""The one door to ECS: boto3 in worker threads, one client per account, each call bounded and its error translated.

The SDK tries nothing again by itself: a read that is throttled is repeated here, and a change by whoever asked for it.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import timedelta
from functools import cache, partial
from typing import Any, Final

import anyio

from desired_state.schema import SecretReference
from desired_state.secrets import SecretRef
from drivers.blocking import Threads
from drivers.ecs.connection import Connection, Credentials
from drivers.ecs.translation import CredentialsRefused, translated, where
from drivers.errors import Busy

CONNECT: Final = 5.0  # seconds
ANSWER: Final = 20.0  # seconds without a byte of an answer
WITHIN: Final = timedelta(seconds=CONNECT + ANSWER)
TOGETHER: Final = 8  # calls at once; ECS counts them per account
THROTTLED: Final = (0.25, 0.5, 1.0)  # seconds before a throttled read is asked again

Answer = Mapping[str, Any]
Resolve = Callable[[SecretRef], Awaitable[str]]


class Api:
    """One account in one region, asked with one set of credentials."""

    def __init__(self, connection: Connection, secret: Resolve) -> None:
        self._connection, self._secret = connection, secret
        self._threads = Threads(where(connection), limit=TOGETHER)
        self._client: Any = None
        self._opening = anyio.Lock()

    async def read(self, operation: str, connection: Connection, **parameters: Any) -> Answer:
        """The answer to a question; throttled, it is asked again a few times."""
        for pause in THROTTLED:
            try:
                return await self._call(operation, connection, parameters, change=False)
            except Busy:
                await anyio.sleep(pause)
        return await self._call(operation, connection, parameters, change=False)

    async def change(self, operation: str, connection: Connection, **parameters: Any) -> Answer:
        """Carried out once. `OutcomeUnknown` where nobody knows."""
        return await self._call(operation, connection, parameters, change=True)

    async def pages(
        self, operation: str, connection: Connection, field: str, **parameters: Any
    ) -> AsyncGenerator[list[Any], None]:
        token: str | None = None
        while True:
            page = await self.read(operation, connection, **parameters, **({"nextToken": token} if token else {}))
            yield list(page.get(field, ()))
            token = page.get("nextToken")
            if not token:
                return

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await self._threads.run(client.close)

    async def _call(
        self, operation: str, connection: Connection, parameters: Mapping[str, Any], *, change: bool
    ) -> Answer:
        client = await self._opened()
        call = partial(_called, client, operation, connection, parameters, change=change)
        try:
            return await self._threads.run(call, abandon=not change, within=WITHIN)
        except CredentialsRefused:
            self._client = None  # the next call resolves them anew
            _session.cache_clear()
            raise

    async def _opened(self) -> Any:
        async with self._opening:
            if self._client is None:
                keys = await self._keys(self._connection.credentials)
                self._client = await self._threads.run(partial(_client, self._connection, keys), abandon=True)
            return self._client

    async def _keys(self, credentials: Credentials | None) -> dict[str, str]:
        if credentials is None:
            return {}
        said = {
            "aws_access_key_id": credentials.access_key_id,
            "aws_secret_access_key": credentials.secret_access_key,
            "aws_session_token": credentials.session_token,
        }
        return {name: await self._secret(_reference(one)) for name, one in said.items() if one is not None}


def _reference(said: SecretReference) -> SecretRef:
    return SecretRef(reference=said.secret, version=said.version)


_loading = threading.Lock()  # a session of the SDK is for one thread at a time; the clients it makes are for all


@cache
def _session() -> Any:
    """One for the process: it reads the SDK's data files, and remembers the chain's credentials."""
    import boto3

    return boto3.session.Session()


def _client(connection: Connection, keys: Mapping[str, str]) -> Any:
    try:
        with _loading:
            from botocore.config import Config

            config = Config(
                connect_timeout=CONNECT,
                read_timeout=ANSWER,
                retries={"total_max_attempts": 1},
                max_pool_connections=TOGETHER,
                tcp_keepalive=True,
                proxies={} if (connection.endpoint or "").startswith("http://") else None,  # on loopback: no proxy's
            )
            place = {"region_name": connection.region, "endpoint_url": connection.endpoint}
            return _session().client("ecs", config=config, **place, **keys)
    except Exception as error:
        raise translated(error, "client", connection, change=False) from error


def _called(
    client: Any, operation: str, connection: Connection, parameters: Mapping[str, Any], *, change: bool
) -> Answer:
    """`operation` as the API names it; the SDK's methods are named alike, in other letters."""
    method = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in operation).lstrip("_")
    try:
        answer: Answer = getattr(client, method)(**parameters)
        return answer
    except Exception as error:
        raise translated(error, operation, connection, change=change) from error
