"""The edge to one Docker engine: its API as awaitable calls, and the one place where foreign errors become ours.

A call that only reads may be abandoned when its caller is cancelled. A call that changes something is seen to its end,
so that no late effect of an abandoned call falls into somebody else's action; its own time-out bounds it.

    no connection                                  Unreachable
    an answer was lost after a change was sent     OutcomeUnknown
    404                                            Missing (Refused)
    409                                            Taken (Conflict)
    anything else the engine says no to            Refused, with the engine's words
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import quote

import anyio
import docker
import requests
import urllib3
from docker.types.daemon import CancellableStream

from drivers import blocking
from drivers.docker import look, transport
from drivers.docker.compare import Inspected
from drivers.docker.connection import Connection
from drivers.docker.render import Body
from drivers.errors import Conflict, DriverError, OutcomeUnknown, Refused, Unreachable
from drivers.feed import Hold
from drivers.probes import Connected

TIMEOUT: Final = 60  # seconds for one answer; stopping adds the grace
PULL_SILENCE: Final = 120  # seconds without a word from a pull
OLDEST: Final = "1.41"  # of the engine's API, that is Docker 20.10
CALLS: Final = 16  # at once, to one engine
EVENTS_SPAN: Final = 300  # seconds after which the event stream is asked anew, so that a dead one is noticed

T = TypeVar("T")


class Missing(Refused):
    """The engine knows no such thing."""


class Taken(Conflict):
    """The name is in use, or the thing is."""


class Engine:
    """One engine and the one client that is kept for it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.connected: Connected | None = None  # the way to its containers, where it does not begin here
        self._threads = blocking.Threads(f"the engine at {connection.engine}", limit=CALLS)
        self._client: docker.APIClient | None = None
        self._connecting = threading.Lock()
        self._networks = anyio.Lock()
        self._lines = transport.Lines(_path(connection)) if connection.local else None

    # -- looking ----------------------------------------------------------------------------------------------------

    async def listing(self) -> bytes:
        """Every container of the engine, as the bytes of its answer: whoever looks often compares before parsing."""
        return await self._question("/containers/json?all=1")

    async def containers(self, filters: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
        words = _word(json.dumps({name: list(values) for name, values in filters.items()}))
        found: list[dict[str, Any]] = await self._json(f"/containers/json?all=1&filters={words}")
        return found

    async def container(self, id: str) -> Inspected | None:
        return await self._inspected(f"/containers/{_word(id)}/json")

    async def image(self, reference: str) -> Inspected | None:
        return await self._inspected(f"/images/{quote(reference)}/json")

    async def _inspected(self, path: str) -> Inspected | None:
        with contextlib.suppress(Missing):
            found: dict[str, Any] = await self._json(path)
            return found
        return None

    async def _json(self, path: str) -> Any:
        return await self._read(lambda client: json.loads(self._asked(client, "GET", path)))

    async def _question(self, path: str) -> bytes:
        return await self._read(lambda client: self._asked(client, "GET", path))

    async def about(self) -> dict[str, Any]:
        """What the engine says of itself, its version, and the date in the head of its answer."""
        return await self._read(_about)

    async def distribution(self, repository: str, digest: str, credentials: Mapping[str, str] | None) -> None:
        """Returns when the engine can ask the registry for this image; nothing is pulled."""
        await self._read(lambda client: _distribution(client, f"{repository}@{digest}", credentials or {}))

    # -- images and networks ----------------------------------------------------------------------------------------

    async def pull(self, repository: str, digest: str, credentials: Mapping[str, str] | None) -> None:
        """Bring one image by digest; without credentials none are sent, whatever this host's own files hold."""
        stopped = threading.Event()
        try:
            await self._read(lambda client: _pull(client, repository, digest, credentials or {}, stopped))
        finally:
            stopped.set()

    async def remove_image(self, reference: str) -> None:
        """Take one name off an image, and the image when that was its last and nothing uses it."""
        with contextlib.suppress(Missing, Taken):
            await self._change(lambda client: client.remove_image(reference, force=False))

    async def ensure_network(self, name: str, labels: Mapping[str, str]) -> None:
        """A bridge network of that name exists. One that is made here gets a subnet of its own: only on such networks
        may a container that is taken off come back under the address it had."""
        async with self._networks:
            known = {network["Name"] for network in await self._json("/networks")}
            if name not in known:
                subnet = await self._free_subnet(name, labels)
                with contextlib.suppress(Taken):
                    await self._change(lambda client: _create_network(client, name, labels, subnet))

    async def _free_subnet(self, name: str, labels: Mapping[str, str]) -> Mapping[str, Any] | None:
        """One the engine would choose: it is asked by letting it choose, for a network that is gone afterwards."""
        scout = f"{name}.holdfast-scout"
        with contextlib.suppress(Missing):
            await self._change(lambda client: client.remove_network(scout))
        await self._change(lambda client: _create_network(client, scout, labels, None))
        try:
            found: dict[str, Any] = await self._json(f"/networks/{_word(scout)}")
        finally:
            with anyio.CancelScope(shield=True):
                await self._change(lambda client: client.remove_network(scout))
        pools: list[dict[str, Any]] = (found.get("IPAM") or {}).get("Config") or []
        return pools[0] if pools else None

    # -- containers -------------------------------------------------------------------------------------------------

    async def create(self, body: Body) -> str:
        """The new container's id. `Taken`: somebody has been here under this name."""
        return await self._made(f"/containers/create?name={_word(body.name)}", body.config)

    async def start(self, id: str) -> None:
        await self._post(f"/containers/{_word(id)}/start")

    async def stop(self, id: str) -> None:
        """Stopped when this returns, killed if it took longer than its own grace."""
        with contextlib.suppress(Missing):
            await self._ended(id, "stop")

    async def restart(self, id: str) -> None:
        await self._ended(id, "restart")

    async def _ended(self, id: str, verb: str) -> None:
        """The answer waits for the container to end, for as long as it is given."""
        path = f"/containers/{_word(id)}"

        def end(client: docker.APIClient) -> None:
            grace = json.loads(self._asked(client, "GET", f"{path}/json"))["Config"].get("StopTimeout") or 0
            self._asked(client, "POST", f"{path}/{verb}", within=TIMEOUT + grace)

        await self._change(end)

    async def remove(self, id: str) -> None:
        """Gone when this returns, with the volumes that have no name; one that runs is killed."""
        with contextlib.suppress(Missing):
            await self._change(lambda client: self._asked(client, "DELETE", f"/containers/{_word(id)}?v=1&force=1"))

    async def put(self, id: str, path: str, archive: bytes) -> None:
        """Unpack a tar archive below a directory of the container, which need not run."""
        await self._change(lambda client: client.put_archive(id, path, archive))

    async def set_restart(self, id: str, policy: Mapping[str, Any]) -> None:
        await self._post(f"/containers/{_word(id)}/update", {"RestartPolicy": policy})

    async def connect(self, id: str, network: str, *, aliases: Sequence[str] = (), address: str | None = None) -> None:
        endpoint: dict[str, Any] = {"Aliases": list(aliases)} if aliases else {}
        endpoint |= {"IPAMConfig": {"IPv4Address": address}} if address else {}
        with contextlib.suppress(Taken):  # it is connected already
            await self._post(f"/networks/{_word(network)}/connect", {"Container": id, "EndpointConfig": endpoint})

    async def disconnect(self, id: str, network: str) -> None:
        """Off the network; also where the engine was killed on the way, and knows of half of the connection only."""
        path = f"/networks/{_word(network)}/disconnect"
        try:
            await self._post(path, {"Container": id})
        except Missing:
            return
        except Refused as refusal:
            if "is not connected to" not in str(refusal):
                raise
            with contextlib.suppress(Refused):
                await self._post(path, {"Container": id, "Force": True})

    async def run(self, id: str, argv: Sequence[str], within: float) -> int | None:
        """Run argv inside the container; its exit code, or None when it did not end in time."""
        wanted = {"AttachStdout": False, "AttachStderr": False, "Cmd": list(argv)}
        made = await self._made(f"/containers/{_word(id)}/exec", wanted)
        await self._post(f"/exec/{made}/start", {"Detach": True})
        pause = 0.02
        with anyio.move_on_after(within):
            while True:
                seen: dict[str, Any] = await self._json(f"/exec/{made}/json")
                if not seen["Running"]:
                    return int(seen["ExitCode"])
                await anyio.sleep(pause)
                pause = min(pause * 2, 0.25)
        return None

    # -- streams ----------------------------------------------------------------------------------------------------

    def events(self, filters: Mapping[str, Sequence[str]], hold: Hold) -> Iterator[dict[str, Any]]:
        """Events from now on, blocking; for a `Feed`. Raises `Unreachable` when they are lost."""
        return self._streamed(lambda client: _events(client, filters, hold))

    def logs(self, id: str, *, tail: int, follow: bool, hold: Hold) -> Iterator[bytes]:
        """What the container printed, in the engine's pieces, blocking; for a `Feed`."""
        return self._streamed(lambda client: _logs(client, id, tail, follow, hold))

    def _streamed(self, items: Callable[[docker.APIClient], Iterator[T]]) -> Iterator[T]:
        with _translated(changes=False):
            yield from items(self._connected())

    # -- the edge ---------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
        if self._lines is not None:
            self._lines.close()

    async def _post(self, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        return await self._change(lambda client: self._asked(client, "POST", path, body))

    async def _made(self, path: str, body: Mapping[str, Any]) -> str:
        """The id of what a POST has made."""
        return await self._change(lambda client: str(json.loads(self._asked(client, "POST", path, body))["Id"]))

    async def _read(self, call: Callable[[docker.APIClient], T]) -> T:
        return await self._threads.run(lambda: self._called(call, changes=False), abandon=True)

    async def _change(self, call: Callable[[docker.APIClient], T]) -> T:
        return await self._threads.run(lambda: self._called(call, changes=True))

    def _called(self, call: Callable[[docker.APIClient], T], *, changes: bool) -> T:
        with _translated(changes=False):
            client = self._connected()
        with _translated(changes=changes):
            return call(client)

    def _asked(
        self,
        client: docker.APIClient,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        within: float | None = None,
    ) -> bytes:
        """The body of a good answer: over a bare connection where the engine is local, else over the SDK's own."""
        request = transport.Request(
            method=method,
            target=f"/v{client.api_version}{path}",
            body=None if body is None else json.dumps(body).encode(),
            timeout=within or TIMEOUT,
        )
        status, content = self._lines.ask(request) if self._lines else _over_sdk(client, request)
        if status >= 400:
            raise _meaning(status, _message(content))
        return content

    def _connected(self) -> docker.APIClient:
        with self._connecting:
            if self._client is None:
                self._client = _client(self.connection)
            return self._client


def _client(connection: Connection) -> docker.APIClient:
    """A client of the version the engine speaks."""
    asking = _client_of(connection, OLDEST)
    with contextlib.closing(asking):
        spoken = asking.version(api_version=False)["ApiVersion"]
    return _client_of(connection, spoken)


def _client_of(connection: Connection, version: str) -> docker.APIClient:
    tls = connection.tls
    client = docker.APIClient(
        base_url=connection.engine,
        version=version,
        timeout=TIMEOUT,
        max_pool_size=CALLS,
        tls=docker.tls.TLSConfig(client_cert=(tls.cert, tls.key), ca_cert=tls.ca, verify=True) if tls else False,
    )
    client.trust_env = False  # else REQUESTS_CA_BUNDLE would take the place of the connection's own authority
    if connection.local:
        client.get_adapter(client.base_url).close()
        client.mount(
            "http+docker://", transport.Adapter(f"http+unix://{_path(connection)}", TIMEOUT, max_pool_size=CALLS)
        )
    return client


def _path(connection: Connection) -> str:
    return connection.engine.removeprefix("unix://")


def _word(text: str) -> str:
    """As one part of a path, whatever is in it."""
    return quote(text, safe="")


def _get(client: docker.APIClient, path: str, **how: Any) -> requests.Response:
    """What the SDK does for a GET, without parsing the answer."""
    answer = client.get(f"{client.base_url}/v{client.api_version}{path}", **({"timeout": TIMEOUT} | how))
    _raise(answer)
    return answer


def _raise(answer: requests.Response) -> None:
    try:
        answer.raise_for_status()
    except requests.HTTPError as error:
        docker.errors.create_api_error_from_http_exception(error)


def _over_sdk(client: docker.APIClient, request: transport.Request) -> tuple[int, bytes]:
    headers = {"Content-Type": "application/json"} if request.body is not None else {}
    url = f"{client.base_url}{request.target}"
    answer = client.request(request.method, url, data=request.body, headers=headers, timeout=request.timeout)
    return answer.status_code, answer.content


def _pull(
    client: docker.APIClient, repository: str, digest: str, credentials: Mapping[str, str], stopped: threading.Event
) -> None:
    """The SDK's own pull waits for ever for an engine that has gone silent."""
    answer = client.post(
        f"{client.base_url}/v{client.api_version}/images/create",
        params={"fromImage": repository, "tag": digest},
        headers={"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(dict(credentials)).encode()).decode()},
        stream=True,
        timeout=(TIMEOUT, PULL_SILENCE),
    )
    with contextlib.closing(answer):
        for line in answer.iter_lines(chunk_size=None):
            if stopped.is_set():
                return
            said = json.loads(line)  # an error comes with its status, or in the middle of a stream that began with 200
            if answer.status_code >= 400 or said.get("error"):
                raise _pull_error(f"{repository}@{digest}", str(said.get("error") or said.get("message")))


def _pull_error(reference: str, said: str) -> DriverError:
    """Whether the registry was not reached, or has said no."""
    no = ("unauthorized", "denied", "no basic auth", "not found", "manifest unknown", "no space left", "no matching")
    kind = Refused if any(word in said.lower() for word in no) else Unreachable
    return kind(f"pull of {reference}: {_line(said)}")


def _about(client: docker.APIClient) -> dict[str, Any]:
    answer = _get(client, "/info")
    found: dict[str, Any] = answer.json()
    return {"Date": answer.headers.get("Date"), **found, "ApiVersion": client.api_version}


def _distribution(client: docker.APIClient, image: str, credentials: Mapping[str, str]) -> None:
    """The SDK's own call would look into this host's files where no credentials are given."""
    said = base64.urlsafe_b64encode(json.dumps(dict(credentials)).encode()).decode()
    _get(client, f"/distribution/{image}/json", headers={"X-Registry-Auth": said})


def _create_network(
    client: docker.APIClient, name: str, labels: Mapping[str, str], pool: Mapping[str, str] | None
) -> None:
    types = docker.types
    ipam = types.IPAMConfig(pool_configs=[types.IPAMPool(subnet=pool["Subnet"])]) if pool else None
    client.create_network(name, driver="bridge", labels=dict(labels), ipam=ipam, check_duplicate=True)


def _events(client: docker.APIClient, filters: Mapping[str, Sequence[str]], hold: Hold) -> Iterator[dict[str, Any]]:
    """Asked in spans, each beginning where the last ended, so that a connection that died silently is noticed when its
    span is over. Times are the engine's own."""
    since = _clock(client)
    while True:
        until = since + EVENTS_SPAN
        query = {"since": f"{since:.6f}", "until": f"{until:.6f}", "filters": json.dumps(dict(filters))}
        answer = _get(client, "/events", params=query, stream=True, timeout=(TIMEOUT, EVENTS_SPAN + TIMEOUT))
        hold(CancellableStream(iter(()), answer))
        with contextlib.closing(answer):
            for line in answer.iter_lines(chunk_size=None):
                yield json.loads(line)
        if _clock(client) < until:
            raise Unreachable("the engine ended its event stream")
        since = until


def _clock(client: docker.APIClient) -> float:
    """The engine's clock; headers tell it in whole seconds only."""
    told = look.moment(client.info()["SystemTime"])
    if told is None:
        raise Unreachable("the engine does not tell its time")
    return told.timestamp()


def _logs(client: docker.APIClient, id: str, tail: int, follow: bool, hold: Hold) -> Iterator[bytes]:
    stream = client.logs(id, stream=True, follow=follow, tail=tail)
    hold(stream)
    yield from stream


@contextlib.contextmanager
def _translated(*, changes: bool) -> Iterator[None]:
    """Foreign errors become ours. `changes`: when the answer is lost, whether it happened is not known."""
    try:
        yield
    except docker.errors.APIError as error:
        raise _meaning(error.status_code, error.explanation or error) from None
    except requests.exceptions.ConnectTimeout as error:
        raise Unreachable(f"the engine does not answer: {_line(error)}") from None
    except (
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        http.client.HTTPException,
        OSError,
        json.JSONDecodeError,
    ) as error:
        if changes and not _never_sent(error):
            raise OutcomeUnknown(f"the engine's answer was lost: {_line(error)}") from None
        raise Unreachable(f"the engine does not answer: {_line(error)}") from None
    except docker.errors.DockerException as error:
        raise Unreachable(f"no connection to the engine: {_line(error)}") from None


def _meaning(status: int | None, message: object) -> DriverError:
    said = _line(message)
    match status:
        case 404:
            return Missing(said)
        case 409:
            return Taken(said)
        case 503:
            return Unreachable(said)
        case _:
            return Refused(said)


def _message(content: bytes) -> object:
    """What the engine says in an answer that is not a good one."""
    try:
        return json.loads(content)["message"]
    except (ValueError, TypeError, KeyError):
        return content[:300].decode(errors="replace")


def _never_sent(error: BaseException) -> bool:
    """Whether the connection was refused, so that nothing can have happened."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ConnectionRefusedError | FileNotFoundError | urllib3.exceptions.NewConnectionError):
            return True
        reason = getattr(seen, "reason", None)
        inner = next((item for item in seen.args if isinstance(item, BaseException)), None)
        seen = reason if isinstance(reason, BaseException) else inner or seen.__cause__ or seen.__context__
    return False


def _line(said: object) -> str:
    """One line, of bounded length."""
    return " ".join(str(said).split())[:400]
