"""A small ECS over HTTP, spoken to by the SDK as it is: services whose rollouts go on, fail, are given up by the
circuit breaker and taken back, with tasks that answer on addresses of their own on loopback.

It refuses what ECS refuses: more than ten services at once, tags that are too long, too many or in wrong letters.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

TICK = 0.01  # seconds
ACCOUNT = "123456789012"
REGION = "eu-central-1"
BREAKER = 3  # failed tasks
TAG = re.compile(r"[\w .:/=+@-]*")


class Refusal(Exception):
    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.code = code


@dataclass(frozen=True)
class App:
    """How an image behaves. `runs` False: its tasks end as soon as they have started."""

    name: str = "app"
    status: int = 200
    runs: bool = True
    health: str = "HEALTHY"  # of the check in its definition, where there is one


@dataclass
class Task:
    arn: str
    deployment: str
    definition: str
    address: str
    status: str = "PROVISIONING"
    servers: list[asyncio.Server] = field(default_factory=list)


@dataclass
class Deployment:
    id: str
    definition: str
    created: float
    primary: bool = True
    rollout: str = "IN_PROGRESS"
    reason: str = "ECS deployment in progress."
    failed: int = 0


@dataclass
class Service:
    name: str
    cluster: str
    desired: int
    breaker: bool
    takes_back: bool = True  # what the breaker does beside giving up
    controller: str = "ECS"
    status: str = "ACTIVE"
    deployments: list[Deployment] = field(default_factory=list)  # the newest first
    tasks: list[Task] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    good: str = ""  # the definition of the last deployment that was completed
    events: list[dict[str, Any]] = field(default_factory=list)  # the newest first
    held: bool = False  # nothing goes on

    @property
    def arn(self) -> str:
        return f"arn:aws:ecs:{REGION}:{ACCOUNT}:service/{self.cluster}/{self.name}"


class FakeEcs:
    """Begin it with `with`. Everything happens in one thread of its own; `ask` has something done there."""

    def __init__(self) -> None:
        self.services: dict[tuple[str, str], Service] = {}
        self.definitions: dict[str, dict[str, Any]] = {}  # by ARN
        self.definition_tags: dict[str, dict[str, str]] = {}
        self.apps: dict[str, App] = {}  # by image
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.failures: list[tuple[str, str, str]] = []  # operation, code, message; each once
        self.dropped: list[str] = []  # operations that are carried out and not answered; each once
        self.begun = 0  # deployments
        self.lag = 0  # descriptions of a service that are as before its last update
        self._past: list[dict[str, Any]] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._numbers = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake ECS", daemon=True)

    def __enter__(self) -> FakeEcs:
        self._thread.start()
        self.endpoint = self._run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def ask(self, call: Callable[[], T]) -> T:
        async def called() -> T:
            return call()

        return self._run(called())

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _open(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._ticking = asyncio.create_task(self._tick())
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _close(self) -> None:
        self._ticking.cancel()
        self._server.close()
        for service in self.services.values():
            for task in service.tasks:
                _end(task)
        for writer in list(self._writers):
            writer.close()
        mine = [one for one in asyncio.all_tasks() if one is not asyncio.current_task()]
        await asyncio.gather(*mine, return_exceptions=True)

    # -- hands for tests ----------------------------------------------------------------------------------------------

    def create(self, cluster: str, name: str, definition: str, *, desired: int = 0, breaker: bool = False) -> Service:
        service = Service(name=name, cluster=cluster, desired=desired, breaker=breaker)
        self.services[cluster, name] = service
        self._begin(service, self._resolved(definition))
        if desired == 0:
            service.deployments[0].rollout = "COMPLETED"
        return service

    def forget(self, cluster: str) -> None:
        """Take the cluster away, with all that runs there."""
        for key in [key for key in self.services if key[0] == cluster]:
            for task in self.services.pop(key).tasks:
                _end(task)

    def register(self, body: dict[str, Any]) -> str:
        return str(self.RegisterTaskDefinition(body)["taskDefinition"]["taskDefinitionArn"])

    def named(self, operation: str) -> list[dict[str, Any]]:
        return [parameters for name, parameters in self.calls if name == operation]

    # -- the API ------------------------------------------------------------------------------------------------------

    def DescribeServices(self, said: dict[str, Any]) -> dict[str, Any]:
        if len(said["services"]) > 10:
            raise Refusal("InvalidParameterException", "services: at most 10")
        if not any(cluster == _last(said["cluster"]) for cluster, _ in self.services):
            raise Refusal("ClusterNotFoundException", "Cluster not found.")
        found, failures = [], []
        for name in said["services"]:
            service = self.services.get((_last(said["cluster"]), _last(name)))
            if service is None:
                failures.append({"arn": name, "reason": "MISSING"})
            elif self._past and name == service.name:
                found.append(self._past.pop())
            else:
                found.append(_described(service, tags="TAGS" in said.get("include", ())))
        return {"services": found, "failures": failures}

    def UpdateService(self, said: dict[str, Any]) -> dict[str, Any]:
        service = self._service(said)
        wanted = self._resolved(said["taskDefinition"]) if "taskDefinition" in said else None
        current = service.deployments[0].definition
        self._past = [_described(service, tags=True) for _ in range(self.lag)]
        service.desired = said.get("desiredCount", service.desired)
        if (wanted and wanted != current) or said.get("forceNewDeployment"):
            self._begin(service, wanted or current)
        return {"service": _described(service, tags=False)}

    def RegisterTaskDefinition(self, said: dict[str, Any]) -> dict[str, Any]:
        family = said["family"]
        taken = [int(arn.rpartition(":")[2]) for arn in self.definitions if _last(arn).split(":")[0] == family]
        number = max(taken, default=0) + 1
        arn = f"arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/{family}:{number}"
        body = {key: value for key, value in said.items() if key != "tags"}
        self.definitions[arn] = body | {
            "taskDefinitionArn": arn,
            "revision": number,
            "status": "ACTIVE",
            "containerDefinitions": [_filled_in(one) for one in body["containerDefinitions"]],
            "volumes": body.get("volumes", []),
        }
        self.definition_tags[arn] = {}
        self._tag(self.definition_tags[arn], said.get("tags", []))
        return {"taskDefinition": self.definitions[arn], "tags": said.get("tags", [])}

    def DescribeTaskDefinition(self, said: dict[str, Any]) -> dict[str, Any]:
        arn = self._resolved(said["taskDefinition"])
        return {"taskDefinition": self.definitions[arn], "tags": _listed(self.definition_tags[arn])}

    def ListTaskDefinitions(self, said: dict[str, Any]) -> dict[str, Any]:
        family = said["familyPrefix"]
        found = [arn for arn in self.definitions if _last(arn).split(":")[0] == family]
        found.sort(key=lambda arn: int(arn.rpartition(":")[2]), reverse=said.get("sort") == "DESC")
        return _paged(found, said, "taskDefinitionArns")

    def TagResource(self, said: dict[str, Any]) -> dict[str, Any]:
        self._tag(self._tags_of(said["resourceArn"]), said["tags"])
        return {}

    def UntagResource(self, said: dict[str, Any]) -> dict[str, Any]:
        found = self._tags_of(said["resourceArn"])
        for key in said["tagKeys"]:
            found.pop(key, None)
        return {}

    def ListTasks(self, said: dict[str, Any]) -> dict[str, Any]:
        service = self._service(said | {"service": said["serviceName"]})
        return _paged([task.arn for task in service.tasks], said, "taskArns")

    def DescribeTasks(self, said: dict[str, Any]) -> dict[str, Any]:
        every = [task for service in self.services.values() for task in service.tasks]
        return {"tasks": [self._described_task(task) for task in every if task.arn in said["tasks"]], "failures": []}

    # -- the parts ----------------------------------------------------------------------------------------------------

    def _service(self, said: dict[str, Any]) -> Service:
        found = self.services.get((_last(said["cluster"]), _last(said["service"])))
        if found is None:
            raise Refusal("ServiceNotFoundException", "Service not found.")
        return found

    def _resolved(self, name: str) -> str:
        arn = name if name.startswith("arn:") else f"arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/{name}"
        if arn not in self.definitions:
            raise Refusal("ClientException", "Unable to describe task definition.")
        return arn

    def _tags_of(self, arn: str) -> dict[str, str]:
        if arn in self.definition_tags:
            return self.definition_tags[arn]
        for service in self.services.values():
            if service.arn == arn:
                return service.tags
        raise Refusal("ResourceNotFoundException", f"{arn} is not there")

    @staticmethod
    def _tag(into: dict[str, str], tags: list[dict[str, str]]) -> None:
        given = {one["key"]: one.get("value", "") for one in tags}
        for key, value in given.items():
            if not 0 < len(key) <= 128 or len(value) > 256 or not TAG.fullmatch(key + value):
                raise Refusal("InvalidParameterException", f"tag {key}: {value}")
        if len({*into, *given}) > 50:
            raise Refusal("InvalidParameterException", "at most 50 tags")
        into.update(given)

    def _begin(self, service: Service, definition: str, reason: str = "") -> None:
        self.begun += 1
        for one in service.deployments:
            one.primary = False
        new = Deployment(id=f"ecs-svc/{next(self._numbers):019d}", definition=definition, created=time.time())
        new.reason = reason or new.reason
        service.deployments.insert(0, new)

    def _described_task(self, task: Task) -> dict[str, Any]:
        containers = []
        for one in self.definitions[task.definition]["containerDefinitions"]:
            health = self._app(one).health if "healthCheck" in one else "UNKNOWN"
            interface = {"privateIpv4Address": task.address, "attachmentId": "a"}
            containers.append({"name": one["name"], "healthStatus": health, "networkInterfaces": [interface]})
        return {
            "taskArn": task.arn,
            "taskDefinitionArn": task.definition,
            "lastStatus": task.status,
            "desiredStatus": "RUNNING",
            "startedBy": task.deployment,
            "containers": containers,
        }

    def _app(self, container: dict[str, Any]) -> App:
        return self.apps.get(container["image"], App())

    # -- rollouts -----------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            for service in list(self.services.values()):
                if not service.held:
                    await self._advance(service)
            await asyncio.sleep(TICK)

    async def _advance(self, service: Service) -> None:
        primary = service.deployments[0]
        mine = [task for task in service.tasks if task.deployment == primary.id]
        for task in mine[service.desired :]:
            self._stop(service, task)
        for task in [one for one in mine if one.status == "PROVISIONING"]:
            await self._run_task(service, primary, task)
        running = [task for task in mine if task.status == "RUNNING"]
        if primary.rollout != "FAILED" and len(mine) < service.desired:
            service.tasks.append(self._new_task(primary))
        if len(running) >= service.desired:
            self._complete(service, primary)
        if service.breaker and primary.failed >= BREAKER and primary.rollout == "IN_PROGRESS":
            self._break(service, primary)

    def _complete(self, service: Service, primary: Deployment) -> None:
        for task in [one for one in service.tasks if one.deployment != primary.id]:
            self._stop(service, task)
        del service.deployments[1:]
        if primary.rollout == "IN_PROGRESS":
            primary.rollout, primary.reason = "COMPLETED", f"ECS deployment {primary.id} completed."
            service.good = primary.definition

    def _break(self, service: Service, primary: Deployment) -> None:
        primary.rollout, primary.reason = "FAILED", "ECS deployment circuit breaker: tasks failed to start."
        self._tell(service, f"(deployment {primary.id}) deployment failed: tasks failed to start.")
        if service.good and service.takes_back:
            reason = "ECS deployment circuit breaker: rolling back to deploymentId ecs-svc/0."
            self._tell(service, "rolling back to deployment ecs-svc/0.")
            self._begin(service, service.good, reason)

    def _tell(self, service: Service, message: str) -> None:
        event = {"id": str(next(self._numbers)), "createdAt": time.time()}
        service.events.insert(0, event | {"message": f"(service {service.name}) {message}"})

    def _new_task(self, deployment: Deployment) -> Task:
        number = next(self._numbers)
        address = f"127.{64 + os.getpid() % 150}.{number // 250 % 250}.{number % 250 + 1}"
        arn = f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/{number:032x}"
        return Task(arn=arn, deployment=deployment.id, definition=deployment.definition, address=address)

    async def _run_task(self, service: Service, deployment: Deployment, task: Task) -> None:
        containers = self.definitions[task.definition]["containerDefinitions"]
        if not all(self._app(one).runs for one in containers):
            deployment.failed += 1
            self._stop(service, task)
            return
        try:
            for one in containers:
                for pair in one.get("environment", ()):
                    if pair["name"] == "PORT":
                        server = await self._bound(task.address, int(pair["value"]), self._app(one))
                        task.servers.append(server)  # before anything is waited for: nobody else would end it
                        await server.start_serving()
        except OSError:  # somebody else has the address: the next task gets another
            self._stop(service, task)
            return
        task.status = "RUNNING"
        deployment.failed = 0

    def _stop(self, service: Service, task: Task) -> None:
        _end(task)
        service.tasks.remove(task)

    async def _bound(self, address: str, port: int, app: App) -> asyncio.Server:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.readuntil(b"\r\n\r\n")
                body = app.name.encode()
                head = f"HTTP/1.1 {app.status} X\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        return await asyncio.start_server(answer, address, port, start_serving=False)

    # -- HTTP ---------------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                headers = dict(_headers(head))
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                operation = headers["x-amz-target"].partition(".")[2]
                status, answer = self._answer(operation, json.loads(body or b"{}"))
                if operation in self.dropped:
                    self.dropped.remove(operation)
                    return
                content = json.dumps(answer).encode()
                kind = "application/x-amz-json-1.1"
                writer.write(
                    f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(content)}\r\n\r\n".encode()
                    + content
                )
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _answer(self, operation: str, said: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.calls.append((operation, said))
        for failure in self.failures:
            if failure[0] == operation:
                self.failures.remove(failure)
                return (500 if failure[1] == "ServerException" else 400), {"__type": failure[1], "message": failure[2]}
        try:
            return 200, getattr(self, operation)(said)
        except Refusal as refusal:
            return 400, {"__type": refusal.code, "message": str(refusal)}


def _headers(head: bytes) -> Iterator[tuple[str, str]]:
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            yield name.lower(), value.strip()


def _end(task: Task) -> None:
    task.status = "STOPPED"
    for server in task.servers:
        server.close()


def _described(service: Service, *, tags: bool) -> dict[str, Any]:
    def running(deployment: Deployment) -> int:
        return sum(task.deployment == deployment.id and task.status == "RUNNING" for task in service.tasks)

    return {
        "serviceArn": service.arn,
        "serviceName": service.name,
        "status": service.status,
        "desiredCount": service.desired,
        "runningCount": sum(task.status == "RUNNING" for task in service.tasks),
        "deploymentController": {"type": service.controller},
        "deploymentConfiguration": {
            "deploymentCircuitBreaker": {"enable": service.breaker, "rollback": service.takes_back},
        },
        "taskDefinition": service.deployments[0].definition,
        "events": service.events,
        "deployments": [
            {
                "id": one.id,
                "status": "PRIMARY" if one.primary else "ACTIVE",
                "taskDefinition": one.definition,
                "rolloutState": one.rollout,
                "rolloutStateReason": one.reason,
                "createdAt": one.created,
                "failedTasks": one.failed,
                "runningCount": running(one),
                "desiredCount": service.desired,
            }
            for one in service.deployments
        ],
        **({"tags": _listed(service.tags)} if tags else {}),
    }


def _filled_in(container: dict[str, Any]) -> dict[str, Any]:
    """What ECS answers for what was left out."""
    filled: dict[str, Any] = {"cpu": 0, "essential": True, "environment": [], "mountPoints": [], "volumesFrom": []}
    filled |= {"portMappings": [], "systemControls": []} | container
    filled["portMappings"] = [
        {"hostPort": one["containerPort"], "protocol": "tcp"} | one for one in filled["portMappings"]
    ]
    return filled


def _paged(found: list[str], said: dict[str, Any], name: str) -> dict[str, Any]:
    start, size = int(said.get("nextToken", 0)), said.get("maxResults", 100)
    rest = {"nextToken": str(start + size)} if start + size < len(found) else {}
    return {name: found[start : start + size], **rest}


def _listed(tags: dict[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _last(arn: str) -> str:
    return arn.rpartition("/")[2]
