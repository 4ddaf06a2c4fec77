"""The edge to one Nomad cluster: its API as awaitable calls, and the one place where foreign errors become ours.

The SDK's classes are made one by one, over one session: its client object reads NOMAD_TOKEN and others from the
environment of whoever runs us, does not verify certificates unless told to, and sends no namespace to Variables.

    no connection                                   Unreachable
    403                                             Refused, naming the capability that the token's policies lack
    404                                             Missing (Refused)
    409, or an index that has moved on              Conflict
    anything else Nomad says no to                  Refused, with Nomad's words
    an answer lost or not understood                Unreachable; of a change, OutcomeUnknown
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

import anyio
import requests
import urllib3
from nomad import api  # type: ignore[import-untyped]
from nomad.api.exceptions import BaseNomadException  # type: ignore[import-untyped]

from desired_state.secrets import SecretRef
from drivers import blocking
from drivers.errors import Conflict, DriverError, OutcomeUnknown, Refused, Unreachable
from drivers.nomad.connection import Access
from drivers.nomad.render import Job

if TYPE_CHECKING:
    from drivers.feed import Hold

CONNECT: Final = 5  # seconds
ANSWER: Final = 30  # seconds for one answer
WAIT: Final = 2  # seconds that a blocking query waits for something to happen
SILENCE: Final = 40  # seconds without a heartbeat, which Nomad sends every ten, until events count as lost
CALLS: Final = 8  # at once, to one cluster
CLASH: Final = ("Enforcing job modify index", "enforcing version")
NO: Final = ("error occurred", "errors occurred", "validation failed", "can't revert")

READ_JOB: Final = "read-job"
SUBMIT_JOB: Final = "submit-job"
PARSE_JOB: Final = "parse-job"
LIFECYCLE: Final = "alloc-lifecycle"
READ_LOGS: Final = "read-logs"
AGENT: Final = "agent { read }"

Json = dict[str, Any]
T = TypeVar("T")


class Missing(Refused):
    """Nomad knows no such thing."""


class Cluster:
    """One cluster, and the one session that is kept for it."""

    def __init__(self, access: Access, secret: Callable[[SecretRef], Awaitable[str]]) -> None:
        self.access, self._secret = access, secret
        self._threads = blocking.Threads(f"Nomad at {access.address}", limit=CALLS)
        self._session: requests.Session | None = None
        self._denied = False
        self._beginning = anyio.Lock()
        self._versions: dict[str, tuple[object, list[Job]]] = {}
        self._parsed: dict[str, Job] = {}

    # -- jobs -------------------------------------------------------------------------------------------------------

    async def job(self, id: str) -> Job | None:
        with contextlib.suppress(Missing):
            return await self._read(READ_JOB, lambda: self._made(api.Job).get_job(_quoted(id)))
        return None

    async def versions(self, job: Job) -> list[Job]:
        """Every version of the job that Nomad has kept, the newest first; asked anew when the job has changed."""
        id, index = job["ID"], job["JobModifyIndex"]
        if self._versions.get(id, (None, []))[0] != index:
            with contextlib.suppress(Missing):
                answer = await self._read(READ_JOB, lambda: self._made(api.Job).get_versions(_quoted(id)))
                self._versions[id] = index, sorted(answer["Versions"] or (), key=_version, reverse=True)
        return [job, *(one for one in self._versions.get(id, (None, []))[1] if one["Version"] != job["Version"])]

    async def allocations(self, id: str) -> list[Json]:
        return (await self.allocations_after(id, 0))[0]

    async def allocations_after(self, id: str, index: int) -> tuple[list[Json], int]:
        """The allocations and their index, once something has happened to one of them since that index, or soon."""
        call = partial(self._asked_after, api.Job, (_quoted(id), "allocations"), index)
        found, index = await self._read(READ_JOB, call)
        return found or [], index

    async def deployments(self, id: str) -> list[Json]:
        return await self._read(READ_JOB, lambda: self._made(api.Job).get_deployments(_quoted(id)) or [])

    async def evaluations(self, id: str) -> list[Json]:
        return await self._read(READ_JOB, lambda: self._made(api.Job).get_evaluations(_quoted(id)) or [])

    async def evaluation_after(self, id: str, index: int) -> tuple[Json, int]:
        """The evaluation and its index, once it has changed since that index, or soon."""
        call = partial(self._asked_after, api.Evaluation, (id,), index)
        found: tuple[Json, int] = await self._read(READ_JOB, call)
        return found

    def _asked_after(self, make: Callable[..., Any], path: Sequence[str], index: int) -> tuple[Any, int]:
        """A blocking query, as Nomad calls it; index 0 is answered at once."""
        ask = {"namespace": self.access.namespace}  # which the SDK does not send everywhere
        ask |= {"index": str(index), "wait": f"{WAIT}s"} if index else {}
        answer = self._made(make).request(*path, method="get", params=ask)
        return answer.json(), int(answer.headers.get("X-Nomad-Index") or 0)

    async def allocation(self, id: str) -> Json:
        return await self._read(READ_JOB, lambda: self._made(api.Allocation).get_allocation(id))

    async def checks(self, allocation: str) -> list[Json]:
        """What Nomad's own checks of this allocation last said."""
        made = partial(self._made, lambda **settings: api.Client(**settings).allocation)
        call = lambda: made().request(allocation, "checks", method="get").json()  # noqa: E731
        return list((await self._read(READ_JOB, call) or {}).values())

    async def parsed(self, hcl: str) -> Job:
        """The job that the HCL says, by Nomad's own parser."""
        if hcl not in self._parsed:
            self._parsed[hcl] = await self._read(PARSE_JOB, lambda: self._made(api.Jobs).parse(hcl))
        return self._parsed[hcl]

    async def plan(self, job: Job) -> Json:
        """What Nomad would do for this job, and how it differs from the one that stands. Nothing is done."""
        call = partial(self._posted, job["ID"], "plan", {"Job": job, "Diff": True})
        return await self._read(SUBMIT_JOB, call)

    async def register(self, job: Job, index: int) -> Json:
        """`index` is the JobModifyIndex of the job this one takes the place of, 0 where there must be none."""
        body = {"Job": job, "EnforceIndex": True, "JobModifyIndex": index}
        return await self._change(SUBMIT_JOB, lambda: self._made(api.Jobs).register_job(body))

    async def revert(self, id: str, version: int, *, prior: int) -> Json:
        body = {"JobID": id, "JobVersion": version, "EnforcePriorVersion": prior}
        return await self._change(SUBMIT_JOB, partial(self._posted, id, "revert", body))

    async def reschedule(self, id: str) -> Json:
        body = {"JobID": id, "EvalOptions": {"ForceReschedule": True}}
        return await self._change(SUBMIT_JOB, partial(self._posted, id, "evaluate", body))

    async def deregister(self, id: str) -> None:
        with contextlib.suppress(Missing):
            await self._change(SUBMIT_JOB, lambda: self._made(api.Job).deregister_job(_quoted(id), purge=True))

    async def promote(self, deployment: str, group: str) -> None:
        made = partial(self._made, api.Deployment)
        await self._change(SUBMIT_JOB, lambda: made().promote_deployment_groups(deployment, groups=[group]))

    async def restart(self, allocation: str, task: str) -> None:
        """Restart one task where it runs."""
        made = partial(self._made, lambda **settings: api.Client(**settings).allocation)
        body = {"TaskName": task}
        with contextlib.suppress(Missing):
            await self._change(LIFECYCLE, lambda: made().request(allocation, "restart", json=body, method="post"))

    def _posted(self, id: str, verb: str, body: Json) -> Any:
        return self._made(api.Job).request(_quoted(id), verb, json=body, method="post").json()

    async def build(self) -> str:
        """The version of the agent that is asked."""
        found = await self._read(AGENT, lambda: self._made(api.Agent).get_agent()["member"]["Tags"]["build"])
        return str(found)

    # -- Variables --------------------------------------------------------------------------------------------------

    async def variable(self, path: str) -> Json | None:
        with contextlib.suppress(Missing):
            return await self._read(
                _on(path, "read"), lambda: self._made(api.Variable).get_variable(path, namespace=self.access.namespace)
            )
        return None

    async def put_variable(self, path: str, items: Mapping[str, str], index: int) -> int:
        """Written in place of the one with this ModifyIndex, 0 where there must be none; answers the new one."""
        body = {"Namespace": self.access.namespace, "Path": path, "Items": dict(items)}
        answer = await self._change(
            _on(path, "write"),
            lambda: self._made(api.Variable).create_variable(path, body, namespace=self.access.namespace, cas=index),
        )
        return int(answer["ModifyIndex"])

    async def delete_variable(self, path: str, index: int) -> None:
        with contextlib.suppress(Missing):
            await self._change(
                _on(path, "destroy"),
                lambda: self._made(api.Variable).delete_variable(path, namespace=self.access.namespace, cas=index),
            )

    # -- streams ----------------------------------------------------------------------------------------------------

    def events(self, jobs: Sequence[str], hold: Hold) -> Iterator[Json]:
        """Events of these jobs from now on, blocking; for a `Feed`. Raises `Unreachable` when they are lost."""
        topics = [f"{topic}:{job}" for job in jobs for topic in ("Job", "Allocation", "Deployment")]
        ask = {"topic": topics, "namespace": self.access.namespace}
        for line in self._streamed(READ_JOB, lambda **settings: api.Event(**settings).stream, (), ask, hold):
            with _understood(changes=False):
                yield from json.loads(line).get("Events") or ()
        raise Unreachable("Nomad ended its event stream")

    def logs(self, allocation: str, task: str, *, tail: int, follow: bool, hold: Hold) -> Iterator[bytes]:
        """The end of what the task printed, as lines; `tail` is in bytes."""
        ask = {"task": task, "type": "stdout", "plain": "true", "origin": "end", "offset": str(tail)}
        ask |= {"follow": str(follow).lower(), "namespace": self.access.namespace}
        made = lambda **settings: api.Client(**settings).stream_logs  # noqa: E731
        yield from self._streamed(READ_LOGS, made, (allocation,), ask, hold)

    def _streamed(
        self, needs: str, make: Callable[..., Any], path: Sequence[str], ask: Mapping[str, Any], hold: Hold
    ) -> Iterator[bytes]:
        with self._translated(needs, changes=False):
            requester = self._made(make)
            silence = None if ask.get("follow") == "true" else SILENCE
            answer = requester.request(*path, method="get", params=dict(ask), stream=True, timeout=(CONNECT, silence))
            hold(_Ending(answer))
            with contextlib.closing(answer):
                yield from answer.iter_lines(chunk_size=None)

    # -- the edge ---------------------------------------------------------------------------------------------------

    async def ready(self) -> None:
        """A session with the token of this moment; streams need one before they begin."""
        async with self._beginning:
            if self._session is not None and not self._denied:
                return
            token = await self._secret(self.access.token) if self.access.token is not None else None
            await self.aclose()
            self._session, self._denied = _session(self.access, token), False

    async def aclose(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    async def _read(self, needs: str, call: Callable[[], T]) -> T:
        await self.ready()
        return await self._threads.run(lambda: self._called(needs, call, changes=False), abandon=True)

    async def _change(self, needs: str, call: Callable[[], T]) -> T:
        await self.ready()
        return await self._threads.run(lambda: self._called(needs, call, changes=True))

    def _called(self, needs: str, call: Callable[[], T], *, changes: bool) -> T:
        with self._translated(needs, changes=changes):
            return call()

    def _made(self, make: Callable[..., Any]) -> Any:
        """One of the SDK's classes, on our own session and settings alone."""
        if self._session is None:
            raise Unreachable(f"Nomad at {self.access.address}: the connection was closed")
        return make(
            address=self.access.address,
            namespace=self.access.namespace,
            region=self.access.region,
            timeout=(CONNECT, ANSWER),
            session=self._session,
            verify=self._session.verify,
            cert=self._session.cert or (),
        )

    @contextlib.contextmanager
    def _translated(self, needs: str, *, changes: bool) -> Iterator[None]:
        try:
            with _understood(changes=changes):
                yield
        except _Denied as denied:
            self._denied = True  # the token may have been replaced: it is asked for again
            namespace = "" if "{" in needs else f" in namespace {self.access.namespace!r}"
            raise Refused(f"Nomad denies it: a policy of the token must allow {needs}{namespace} ({denied})") from None


class _Denied(Exception):
    pass


class _Ending:
    """What ends a read that blocks: closing an answer waits for the reader, shutting its socket does not."""

    def __init__(self, answer: requests.Response) -> None:
        self._answer = answer

    def close(self) -> None:
        import socket

        with contextlib.suppress(Exception):  # gone already, which is what is wanted
            connection: Any = self._answer.raw._connection  # no other way leads to the socket
            connection.sock.shutdown(socket.SHUT_RDWR)


def _session(access: Access, token: str | None) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # no proxy, no netrc, no other authority than the connection's own
    session.max_redirects = 0  # a redirect would carry the token elsewhere
    session.headers["User-Agent"] = "holdfast"
    if token is not None:
        session.headers["X-Nomad-Token"] = token
    tls = access.tls
    session.verify = tls.ca if tls is not None and tls.ca is not None else True
    session.cert = (tls.cert, tls.key) if tls is not None and tls.cert is not None and tls.key is not None else None
    session.mount(access.address, requests.adapters.HTTPAdapter(pool_maxsize=CALLS * 2, pool_block=False))
    return session


def _quoted(id: str) -> str:
    return quote(id, safe="")


def _version(job: Job) -> int:
    return int(job["Version"])


def _on(path: str, capability: str) -> str:
    return f"variables {{ path {path!r} {{ {capability} }} }}"


@contextlib.contextmanager
def _understood(*, changes: bool) -> Iterator[None]:
    """Foreign errors become ours. `changes`: when the answer is lost, whether it happened is not known."""
    lost = OutcomeUnknown if changes else Unreachable
    try:
        yield
    except BaseNomadException as error:
        answer = error.nomad_resp
        if isinstance(answer, requests.Response):
            raise _refusal(answer.status_code, _line(answer.text), changes=changes) from None
        raise _lost(answer, changes=changes) from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, AttributeError) as error:
        raise _lost(error, changes=changes) from None
    except (ValueError, KeyError, TypeError) as error:
        raise lost(f"Nomad's answer is not understood: {type(error).__name__}") from None


def _refusal(status: int, said: str, *, changes: bool) -> Exception:
    if status == 409:  # its text is the Variable that is there, and what it holds
        return Conflict("somebody else has written to the Variable meanwhile")
    if any(words in said for words in CLASH):
        return Conflict(f"somebody else has changed the job meanwhile: {said}")
    if status == 403 or "Permission denied" in said:
        return _Denied(said)
    if status == 404:
        return Missing(said or "not found")
    if (400 <= status < 500 and status != 429) or (status == 500 and any(word in said for word in NO)):
        return Refused(f"Nomad says no: {said}")
    if changes and status not in (429, 503):
        return OutcomeUnknown(f"Nomad answered {status}: {said}")
    return Unreachable(f"Nomad answered {status}: {said}")


def _lost(error: object, *, changes: bool) -> DriverError:
    if changes and not _never_sent(error):
        return OutcomeUnknown(f"Nomad's answer was lost: {_line(error)}")
    return Unreachable(f"Nomad does not answer: {_line(error)}")


def _never_sent(error: object) -> bool:
    """Whether there was no connection, so that nothing can have happened."""
    seen = error
    while isinstance(seen, BaseException):
        known = (ConnectionRefusedError, urllib3.exceptions.NewConnectionError, requests.exceptions.ConnectTimeout)
        if isinstance(seen, (*known, requests.exceptions.SSLError)):
            return True
        reason = getattr(seen, "reason", None)
        inner = next((item for item in seen.args if isinstance(item, BaseException)), None)
        seen = reason if isinstance(reason, BaseException) else inner or seen.__cause__ or seen.__context__
    return False


def _line(said: object) -> str:
    """One line, of bounded length."""
    return " ".join(str(said).split())[:300]
