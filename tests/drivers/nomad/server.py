"""A contract server: as much of a Nomad agent as its published HTTP API says, on loopback, with tasks that are small
HTTP servers.

Written from the pages of developer.hashicorp.com/nomad/api-docs on jobs, evaluations, deployments, allocations, client,
variables, events and ACL. What the driver relies on is kept as it is told there: check-and-set of jobs and Variables,
versions that rise only when a job has changed, groups that are replaced only when something in them has, deployments
by job version, canaries that wait for promotion, auto-revert, and permission by capability.
"""

from __future__ import annotations

import contextlib
import copy
import json
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.drivers.nomad import hcl, plan

Json = dict[str, Any]

TICK = 0.005  # seconds between two thoughts of the scheduler
STARTS = 0.01  # seconds that a task takes to start, and to end
TRACKED = 6  # versions of a job that are kept
INDEXES = frozenset({"Version", "CreateIndex", "ModifyIndex", "JobModifyIndex", "Status", "Stable", "SubmitTime"})
REPLACED_BY = ("Driver", "User", "Config", "Env", "Artifacts", "Templates", "Meta", "Resources")
NANO = 1e-9


class Behaviour(StrEnum):
    """What a task does, by the digest of its image."""

    GOOD = "good"
    SILENT = "silent"  # runs, and answers its health check with 503
    UNWELL = "unwell"  # as above, and Nomad's own checks find it out
    CRASHES = "crashes"  # ends as soon as it has started


class Said(Exception):
    """An answer other than 200, as text."""

    def __init__(self, status: int, text: str, location: str | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.location = status, text, location


@dataclass
class Allocation:
    id: str
    job: Json  # as it was when this was placed, or updated in its place
    group: str
    index: int
    canary: bool = False
    client: str = "pending"
    desired: str = "run"
    healthy: bool | None = None
    deployment: str = ""
    port: int = 0
    due: float = 0.0  # when the client does what it is about to do
    started: datetime | None = None
    since: float = 0.0
    restarts: int = 0
    exit_code: int | None = None
    replaced: bool = False
    lines: list[str] = field(default_factory=list)
    server: ThreadingHTTPServer | None = None

    @property
    def body(self) -> Json:
        return next(group for group in self.job["TaskGroups"] if group["Name"] == self.group)

    @property
    def is_live(self) -> bool:
        return self.desired == "run" and self.client in ("pending", "running")

    def stub(self) -> Json:
        state = {"pending": "pending", "running": "running"}.get(self.client, "dead")
        events = [{"Type": "Terminated", "ExitCode": self.exit_code}] if self.exit_code is not None else []
        task = {
            "State": state,
            "Failed": self.client == "failed",
            "Restarts": self.restarts,
            "StartedAt": self.started.isoformat().replace("+00:00", "123Z") if self.started else "0001-01-01T00:00:00Z",
            "Events": events,
        }
        status = {"Healthy": self.healthy, "Canary": self.canary} if self.deployment else None
        return {
            "ID": self.id,
            "JobID": self.job["ID"],
            "JobVersion": self.job["Version"],
            "TaskGroup": self.group,
            "ClientStatus": self.client,
            "DesiredStatus": self.desired,
            "DeploymentStatus": status,
            "DeploymentID": self.deployment,
            "TaskStates": {one["Name"]: dict(task) for one in self.body["Tasks"]},
            "CreateIndex": self.index,
        }

    def whole(self) -> Json:
        networks = self.body.get("Networks") or []
        declared = [port for network in networks for port in network.get("DynamicPorts") or []]
        ports = [
            {"Label": one["Label"], "To": one.get("To", 0), "Value": self.port, "HostIP": "127.0.0.1"}
            for one in declared
        ]
        return self.stub() | {"Job": self.job, "AllocatedResources": {"Shared": {"Ports": ports}}}


class Agent:
    """The state of the cluster, and the one thread that schedules. Everything below `lock` is its own."""

    def __init__(self) -> None:
        self.lock = threading.Condition(threading.RLock())
        self.index = 10
        self.versions: dict[str, list[Json]] = {}  # by job, the newest first
        self.purged: set[str] = set()
        self.allocations: list[Allocation] = []
        self.deployments: list[Json] = []
        self.evaluations: dict[str, Json] = {}
        self.variables: dict[str, Json] = {}
        self.events: list[tuple[int, Json]] = []
        self.behaviours: dict[str, Behaviour] = {}
        self.tokens: dict[str, frozenset[str]] | None = None  # None: no ACL; else capabilities by token
        self.nodes = 1
        self.stuck: set[str] = set()  # allocations whose node does nothing more
        self.namespace = "default"
        self.build = "1.8.2+ent"
        self.requests: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda method, path: None  # a fault may strike here
        self.after: Callable[[str, str], None] = lambda method, path: None
        self.stopping = False

    # -- jobs -------------------------------------------------------------------------------------------------------

    def job(self, id: str) -> Json:
        if not self.versions.get(id) or id in self.purged:
            raise Said(404, "job not found")
        return self.versions[id][0]

    def is_of_now(self, one: Json) -> bool:
        """Whether it is of the job that is there, and not of one that had its name; where none is, all are told."""
        id = one.get("JobID") or one["ID"]
        created = one.get("JobCreateIndex") or one["CreateIndex"]
        return id in self.purged or bool(created == self.versions[id][0]["CreateIndex"])

    def register(self, body: Json) -> Json:
        job = canonical(body["Job"])
        known = self.versions.get(job["ID"]) if job["ID"] not in self.purged else None
        if body.get("EnforceIndex"):
            self._enforce(body.get("JobModifyIndex") or 0, known[0] if known else None)
        return self.put(job)

    def _enforce(self, index: int, known: Json | None) -> None:
        said = f"Enforcing job modify index {index}"
        if known is None and index != 0:
            raise Said(500, f"{said}: job does not exist")
        if known is not None and index == 0:
            raise Said(500, f"{said}: job already exists")
        if known is not None and known["JobModifyIndex"] != index:
            raise Said(500, f"{said}: job exists with conflicting job modify index: {known['JobModifyIndex']}")

    def put(self, job: Json) -> Json:
        known = self.versions.get(job["ID"]) or []
        if job["ID"] in self.purged:
            known = []
            self.purged.discard(job["ID"])
        if not known or spec(known[0]) != spec(job):
            self.index += 1
            number = known[0]["Version"] + 1 if known else 0
            created = known[0]["CreateIndex"] if known else self.index
            job |= {"Version": number, "CreateIndex": created, "Status": "pending", "Stable": False}
            job |= {"JobModifyIndex": self.index, "ModifyIndex": self.index, "SubmitTime": time.time_ns()}
            self.versions[job["ID"]] = [job, *known][:TRACKED]
            self.tell("Job", "JobRegistered", job["ID"])
        return self.evaluate(job["ID"])

    def evaluate(self, id: str) -> Json:
        self.index += 1
        made = {"ID": str(uuid.uuid4()), "JobID": id, "Status": "pending", "CreateIndex": self.index}
        self.evaluations[made["ID"]] = made
        index = self.versions[id][0]["JobModifyIndex"] if self.versions.get(id) else 0
        return {"EvalID": made["ID"], "EvalCreateIndex": self.index, "JobModifyIndex": index, "Warnings": ""}

    def revert(self, id: str, body: Json) -> Json:
        now = self.job(id)
        if body["JobID"] != id:
            raise Said(400, "JobID does not match")
        if body.get("EnforcePriorVersion") not in (None, now["Version"]):
            raise Said(
                500, f"Current job has version {now['Version']}; enforcing version {body['EnforcePriorVersion']}"
            )
        if body["JobVersion"] == now["Version"]:
            raise Said(500, "can't revert to current version")
        return self._revert(id, body["JobVersion"])

    def _revert(self, id: str, version: int) -> Json:
        for one in self.versions[id]:
            if one["Version"] == version:
                return self.put(copy.deepcopy(one) | {"Stop": False})
        raise Said(500, f"job {id!r} in namespace 'default' at version {version} not found")

    def scale(self, id: str, group: str, count: int) -> Json:
        job = copy.deepcopy(self.job(id))
        next(one for one in job["TaskGroups"] if one["Name"] == group)["Count"] = count
        return self.put(job)

    def deregister(self, id: str, *, purge: bool) -> Json:
        job = self.job(id)
        answer = self.put(copy.deepcopy(job) | {"Stop": True})
        if purge:
            self.purged.add(id)
            self.tell("Job", "JobDeregistered", id)
        return answer

    # -- Variables --------------------------------------------------------------------------------------------------

    def put_variable(self, path: str, body: Json, cas: int | None) -> Json:
        known = self.variables.get(path)
        if cas is not None and cas != (known["ModifyIndex"] if known else 0):
            raise Said(409, json.dumps(known or {"Path": path, "ModifyIndex": 0, "Items": None}))
        if not body["Items"] or sum(len(str(one)) for one in body["Items"].items()) > 64 << 10:
            raise Said(400, "variables are limited to 64KiB in total size, and none is empty")
        self.index += 1
        created = known["CreateIndex"] if known else self.index
        self.variables[path] = body | {"Path": path, "CreateIndex": created, "ModifyIndex": self.index}
        return self.variables[path]

    def delete_variable(self, path: str, cas: int | None) -> None:
        known = self.variables.get(path)
        if cas is not None and known is not None and cas != known["ModifyIndex"]:
            raise Said(409, json.dumps(known))
        self.variables.pop(path, None)

    # -- scheduling -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        while not self.stopping:
            with self.lock:
                self.think()
                self.lock.notify_all()
            time.sleep(TICK)

    def think(self) -> None:
        for one in self.allocations:
            self._client(one)
        for id in list(self.versions):
            self._reconcile(id)
        for evaluation in self.evaluations.values():
            if evaluation["Status"] == "pending":
                self.index += 1
                evaluation["Status"] = "complete"

    def _client(self, one: Allocation) -> None:
        now = time.monotonic()
        if one.id in self.stuck:
            return
        if one.desired == "stop" and one.client in ("pending", "running"):
            one.due = one.due or now + STARTS
            if now >= one.due:
                self._ends(one, "complete", 143)
        elif one.client == "pending" and now >= one.due and not self._waits(one):
            self._starts(one)
        elif one.client == "running" and self._behaviour(one) is Behaviour.CRASHES:
            one.healthy = False
            self._ends(one, "failed", 1)
        elif one.client == "running" and one.healthy is None and one.deployment:
            self._judge(one, now)

    def _waits(self, one: Allocation) -> bool:
        """A task starts when the one it takes the place of has ended."""
        return not one.canary and any(
            other.group == one.group and other.job["ID"] == one.job["ID"] and other.desired == "stop"
            for other in self.allocations
            if other.client == "running" and other.id not in self.stuck
        )

    def _starts(self, one: Allocation) -> None:
        one.server = served(self._behaviour(one), image(one), one.port)
        one.port = one.server.server_address[1]
        one.client, one.started, one.since, one.due = "running", datetime.now(UTC), time.monotonic(), 0.0
        one.lines += ["starting", f"this is {image(one)[-12:]}"]
        self.tell("Allocation", "AllocationUpdated", one.id, one.job["ID"])

    def _ends(self, one: Allocation, client: str, code: int) -> None:
        one.client, one.due, one.exit_code = client, 0.0, code
        self._closes(one)
        self.tell("Allocation", "AllocationUpdated", one.id, one.job["ID"])

    def _closes(self, one: Allocation) -> None:
        server, one.server = one.server, None
        if server is not None:
            server.socket.close()
            threading.Thread(target=ended, args=(server,), daemon=True).start()

    def _judge(self, one: Allocation, now: float) -> None:
        update = one.body.get("Update") or {}
        ran = now - one.since
        if self._behaviour(one) is Behaviour.UNWELL:
            one.healthy = False if ran >= update["HealthyDeadline"] * NANO else None
        elif ran >= update["MinHealthyTime"] * NANO:
            one.healthy = True

    def _behaviour(self, one: Allocation) -> Behaviour:
        return self.behaviours.get(image(one).partition("@")[2], Behaviour.GOOD)

    def _reconcile(self, id: str) -> None:
        job = self.versions[id][0]
        stopped = bool(job.get("Stop")) or id in self.purged
        groups = {group["Name"]: group for group in job["TaskGroups"]}
        mine = [one for one in self.allocations if one.job["ID"] == id]
        for one in mine:
            former = one.canary and one.job["Version"] != job["Version"]  # never promoted, of a version that is past
            if one.is_live and (stopped or former or one.group not in groups):
                self._stop(one)
        if stopped:
            return
        deployment = self._deployment(job, mine)
        for group in groups.values():
            self._group(job, group, [one for one in mine if one.group == group["Name"]], deployment)
        self._conclude(job, deployment)

    def _deployment(self, job: Json, mine: list[Allocation]) -> Json | None:
        found = next((one for one in self.deployments if self._is_of(one, job)), None)
        if found is None:
            for other in self.deployments:
                if other["JobID"] == job["ID"] and other["Status"] == "running":
                    other |= {"Status": "cancelled", "StatusDescription": "Cancelled due to newer version of job"}
            new = [group for group in job["TaskGroups"] if group["Count"] and self._changes(job, group, mine)]
            if new:
                found = self._deploy(job, new, mine)
        return found

    def _is_of(self, deployment: Json, job: Json) -> bool:
        created = deployment["JobCreateIndex"] == job["CreateIndex"]
        return deployment["JobID"] == job["ID"] and deployment["JobVersion"] == job["Version"] and created

    def _changes(self, job: Json, group: Json, mine: list[Allocation]) -> bool:
        live = [one for one in mine if one.group == group["Name"] and one.is_live]
        return bool(group.get("Update")) and (
            not live or any(one.job["Version"] != job["Version"] for one in live) or len(live) < group["Count"]
        )

    def _deploy(self, job: Json, groups: list[Json], mine: list[Allocation]) -> Json:
        self.index += 1
        made: Json = {
            "ID": str(uuid.uuid4()),
            "JobID": job["ID"],
            "JobVersion": job["Version"],
            "JobCreateIndex": job["CreateIndex"],
            "Status": "running",
            "StatusDescription": "Deployment is running",
            "TaskGroups": {},
        }
        for group in groups:
            live = [one for one in mine if one.group == group["Name"] and one.is_live]
            replaced = [one for one in live if destructive(one.job, one.body, job, group)]
            made["TaskGroups"][group["Name"]] = {
                "DesiredTotal": group["Count"],
                "DesiredCanaries": group["Update"].get("Canary", 0) if replaced else 0,
                "Promoted": False,
                "AutoPromote": group["Update"].get("AutoPromote", False),
                "AutoRevert": group["Update"].get("AutoRevert", False),
                "PlacedAllocs": 0,
                "HealthyAllocs": 0,
                "UnhealthyAllocs": 0,
            }
        self.deployments.insert(0, made)
        self.tell("Deployment", "DeploymentStatusUpdate", made["ID"], job["ID"])
        return made

    def _group(self, job: Json, group: Json, members: list[Allocation], deployment: Json | None) -> None:
        state = (deployment or {}).get("TaskGroups", {}).get(group["Name"])
        live = [one for one in members if one.is_live]
        old = [one for one in live if destructive(one.job, one.body, job, group)]
        for one in live:
            if one not in old and one.job["Version"] != job["Version"]:
                one.job = job  # updated in its place
                one.healthy, one.deployment = (None, deployment["ID"]) if state and deployment else (one.healthy, "")
        new = [one for one in live if one not in old]
        if deployment is not None and state is not None and deployment["Status"] == "failed":
            return
        canaries = state["DesiredCanaries"] if state and not state["Promoted"] else 0
        if canaries:
            for _ in range(canaries - len(new)):
                self._place(job, group, deployment, canary=True)
            return
        for one in old:
            unready = [one for one in new if not one.healthy]
            if state and len(unready) >= max(1, group["Update"].get("MaxParallel", 1)):
                return
            self._stop(one)
            if len(new) < group["Count"]:
                new.append(self._place(job, group, deployment))
        for _ in range(group["Count"] - len(new)):
            new.append(self._place(job, group, deployment))
        for one in new[group["Count"] :]:
            self._stop(one)

    def _place(self, job: Json, group: Json, deployment: Json | None, *, canary: bool = False) -> Allocation:
        state = (deployment or {}).get("TaskGroups", {}).get(group["Name"])
        self.index += 1
        made = Allocation(id=str(uuid.uuid4()), job=job, group=group["Name"], index=self.index, canary=canary)
        made.due = time.monotonic() + STARTS
        failed = sum(one.group == group["Name"] and one.client == "failed" for one in self.allocations)
        made.due += 0.05 * failed  # what fails again and again waits longer each time
        if deployment is not None and state is not None and deployment["Status"] == "running":
            made.deployment = deployment["ID"]
        if self.nodes:
            self.allocations.append(made)
            return made
        metric = {"NodesEvaluated": 1, "DimensionExhausted": {"memory": 1}}
        for one in self.evaluations.values():
            if one["JobID"] == job["ID"]:
                one["FailedTGAllocs"] = {group["Name"]: metric}
        made.desired = "stop"
        return made

    def _stop(self, one: Allocation) -> None:
        one.desired, one.due = "stop", 0.0

    def _conclude(self, job: Json, deployment: Json | None) -> None:
        if deployment is None or deployment["Status"] != "running":
            return
        done, failed = True, False
        for name, state in deployment["TaskGroups"].items():
            placed = [one for one in self.allocations if one.deployment == deployment["ID"] and one.group == name]
            state["PlacedAllocs"] = len(placed)
            state["HealthyAllocs"] = sum(one.healthy is True and one.is_live for one in placed)
            state["UnhealthyAllocs"] = sum(one.healthy is False for one in placed)
            if state["AutoPromote"] and 0 < state["DesiredCanaries"] <= state["HealthyAllocs"]:
                self.promote(deployment["ID"], [name])
            waiting = state["DesiredCanaries"] and not state["Promoted"]
            done = done and not waiting and state["HealthyAllocs"] >= state["DesiredTotal"]
            failed = failed or bool(state["UnhealthyAllocs"])
        if failed:
            self._fail(job, deployment)
        elif done:
            deployment |= {"Status": "successful", "StatusDescription": "Deployment completed successfully"}
            job["Stable"] = True
            self.tell("Deployment", "DeploymentStatusUpdate", deployment["ID"], job["ID"])

    def _fail(self, job: Json, deployment: Json) -> None:
        deployment |= {"Status": "failed", "StatusDescription": "Failed due to unhealthy allocations"}
        stable = next((one for one in self.versions[job["ID"]][1:] if one["Stable"]), None)
        if stable is not None and any(state["AutoRevert"] for state in deployment["TaskGroups"].values()):
            deployment["StatusDescription"] += f" - rolling back to job version {stable['Version']}"
            self._revert(job["ID"], stable["Version"])

    def promote(self, id: str, groups: list[str]) -> None:
        deployment = next((one for one in self.deployments if one["ID"] == id), None)
        if deployment is None:
            raise Said(404, "deployment not found")
        for state in (deployment["TaskGroups"][group] for group in groups):
            if state["HealthyAllocs"] < state["DesiredCanaries"]:
                raise Said(500, "1 error occurred: not enough healthy canaries to promote")
            state["Promoted"] = True
        for one in self.allocations:
            one.canary = one.canary and not (one.deployment == id and one.group in groups)

    def restart(self, id: str) -> None:
        one = self.allocation(id)
        if one.client != "running":
            raise Said(500, "Task not running")
        self._closes(one)
        one.client, one.due = "pending", time.monotonic() + STARTS
        one.restarts += 1
        self.tell("Allocation", "AllocationUpdated", one.id, one.job["ID"])

    def checks(self, one: Allocation) -> Json:
        """Answered as they were last asked: what a task says of itself, after it has run for a moment."""
        said = {Behaviour.GOOD: "success", Behaviour.SILENT: "failure"}.get(self._behaviour(one), "pending")
        found = [check for service in one.body.get("Services") or () for check in service.get("Checks") or ()]
        return {check["Name"]: {"ID": check["Name"], "Check": check["Name"], "Status": said} for check in found}

    def allocation(self, id: str) -> Allocation:
        for one in self.allocations:
            if one.id == id:
                return one
        raise Said(404, "alloc not found")

    def tell(self, topic: str, kind: str, key: str, *filters: str) -> None:
        self.index += 1
        event = {"Topic": topic, "Type": kind, "Key": key, "FilterKeys": list(filters), "Index": self.index}
        self.events.append((self.index, event))

    def block(self, call: Call) -> None:
        """A blocking query is answered when something has happened, or when its time is over."""
        index, wait = int(call.query.get("index", 0)), call.query.get("wait", "300s")
        if index and call.method == "GET":
            self.lock.wait_for(lambda: self.stopping or self.index > index, timeout=int(wait.removesuffix("s")))

    def close(self) -> None:
        self.stopping = True
        for one in self.allocations:
            self._closes(one)


# -- jobs as data -----------------------------------------------------------------------------------------------------


def canonical(body: Json) -> Json:
    """The job with what Nomad fills in."""
    job: Json = {
        "Type": "service",
        "Priority": 50,
        "Datacenters": ["*"],
        "Stop": False,
        "Meta": None,
        "Constraints": None,
    }
    job |= copy.deepcopy(body)
    job["Name"] = job.get("Name") or job["ID"]
    job["Update"] = {"Stagger": 30 * 10**9, "MaxParallel": 1, "Canary": 0} | (job.get("Update") or {})
    if not job.get("TaskGroups"):
        raise Said(500, "1 error occurred:\n\t* Missing job task groups")
    for group in job["TaskGroups"]:
        _canonical_group(group, job.get("Update"))
    return job


def _canonical_group(group: Json, update: Json | None) -> None:
    defaults = {"MaxParallel": 1, "MinHealthyTime": 10**10, "HealthyDeadline": 3 * 10**11, "Canary": 0}
    group["Update"] = (
        defaults | {"AutoRevert": False, "AutoPromote": False} | (update or {}) | (group.get("Update") or {})
    )
    group["Count"] = 1 if group.get("Count") is None else group["Count"]
    for name, value in {"Networks": None, "Meta": None, "RestartPolicy": {"Attempts": 2, "Mode": "fail"}}.items():
        group.setdefault(name, value)
    if not group.get("Tasks"):
        raise Said(500, f"1 error occurred:\n\t* Task group {group['Name']} validation failed: Missing tasks")
    for task in group["Tasks"]:
        for name, value in {"Env": None, "Meta": None, "Templates": None, "User": "", "KillTimeout": 5 * 10**9}.items():
            task.setdefault(name, value)
        task["Resources"] = {"CPU": 100, "MemoryMB": 300, "Cores": 0} | (task.get("Resources") or {})


def spec(job: Json) -> Json:
    return {name: value for name, value in job.items() if name not in INDEXES}


def destructive(was: Json, old: Json, now: Json, new: Json) -> bool:
    """Whether a group has changed in a way that its allocations must be replaced for."""
    if (was.get("Meta"), old.get("Meta"), old.get("Networks")) != (
        now.get("Meta"),
        new.get("Meta"),
        new.get("Networks"),
    ):
        return True
    tasks, others = ({one["Name"]: one for one in group["Tasks"]} for group in (old, new))
    if tasks.keys() != others.keys():
        return True
    return any(tasks[name].get(what) != others[name].get(what) for name in tasks for what in REPLACED_BY)


def image(one: Allocation) -> str:
    return str((one.body["Tasks"][0].get("Config") or {}).get("image", ""))


# -- tasks ------------------------------------------------------------------------------------------------------------


def served(behaviour: Behaviour, said: str, port: int) -> ThreadingHTTPServer:
    """A task: it listens, after a restart where it did before, and answers what it is."""

    class Task(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good = behaviour is Behaviour.GOOD
            self.send_response(200 if good else 503)
            self.end_headers()
            self.wfile.write(said.encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", port), Task)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(TICK,), daemon=True).start()
    return server


def ended(server: ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()


# -- HTTP -------------------------------------------------------------------------------------------------------------


@dataclass
class Call:
    method: str
    path: list[str]
    query: Mapping[str, str]
    topics: list[str]
    body: Json
    token: str


class Server:
    """The agent behind its HTTP API. `address` is what a target's connection names."""

    def __init__(self) -> None:
        self.agent = Agent()
        agent, server = self.agent, self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def _answer(self) -> None:
                server._answer(self, agent)

            def __getattr__(self, name: str) -> Callable[[], None]:
                if name.startswith("do_"):
                    return self._answer
                raise AttributeError(name)

            def log_message(self, *_: object) -> None: ...

        self._scheme = "http"
        self._http = _Quiet(("127.0.0.1", 0), Handler)
        self._threads = [
            threading.Thread(target=self._http.serve_forever, args=(TICK,), daemon=True),
            threading.Thread(target=agent.run, daemon=True),
        ]

    @property
    def address(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._http.server_address[1]}"

    def behind(self, context: ssl.SSLContext) -> None:
        """TLS from now on."""
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self._scheme = "https"

    def __enter__(self) -> Server:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.agent.close()
        self._http.shutdown()
        self._http.server_close()
        for thread in self._threads:
            thread.join(5)

    def _answer(self, http: BaseHTTPRequestHandler, agent: Agent) -> None:
        parts = urlsplit(http.path)
        length = int(http.headers.get("Content-Length") or 0)
        content = http.rfile.read(length)
        query = parse_qs(parts.query)
        call = Call(
            method=http.command,
            path=[unquote(part) for part in parts.path.removeprefix("/v1/").split("/")],
            query={name: values[-1] for name, values in query.items()},
            topics=query.get("topic", []),
            body=json.loads(content) if content else {},
            token=http.headers.get("X-Nomad-Token", ""),
        )
        location = None
        try:
            agent.requests.append((http.command, parts.path))
            agent.before(http.command, parts.path)
            if call.path[0] == "event":
                self._stream(http, agent, call)
                return
            if call.path[:3] == ["client", "fs", "logs"]:
                self._logs(http, agent, call)
                return
            with agent.lock:
                agent.block(call)
                answer = _route(agent, call)
                status, text = 200, json.dumps(answer)
                index = agent.index
            agent.after(http.command, parts.path)
        except Said as said:
            status, text, index, location = said.status, said.text, agent.index, said.location
        except ConnectionAbortedError:
            http.close_connection = True
            return
        http.send_response(status)
        http.send_header("X-Nomad-Index", str(index))
        if location is not None:
            http.send_header("Location", location)
        http.send_header("Content-Length", str(len(text.encode())))
        http.end_headers()
        http.wfile.write(text.encode())

    def _stream(self, http: BaseHTTPRequestHandler, agent: Agent, call: Call) -> None:
        _allowed(agent, call, "read-job")
        wanted = {tuple(topic.split(":", 1)) for topic in call.topics}
        with self._chunks(http) as write, agent.lock:
            seen = agent.index
            while not agent.stopping:
                new = [event for index, event in agent.events if index > seen and _is_wanted(event, wanted)]
                seen = agent.index
                write(json.dumps({"Index": seen, "Events": new} if new else {}).encode() + b"\n")
                agent.lock.wait_for(partial(_newer, agent, seen), timeout=1)

    def _logs(self, http: BaseHTTPRequestHandler, agent: Agent, call: Call) -> None:
        with agent.lock:
            _allowed(agent, call, "read-logs")
            one = agent.allocation(call.path[3])
        with self._chunks(http) as write:
            sent = 0
            while not agent.stopping:
                with agent.lock:
                    lines = one.lines[sent:]
                    sent = len(one.lines)
                write("".join(f"{line}\n" for line in lines).encode() if lines else b"")
                if call.query.get("follow") != "true":
                    break
                time.sleep(TICK * 3)

    @contextlib.contextmanager
    def _chunks(self, http: BaseHTTPRequestHandler) -> Iterator[Callable[[bytes], None]]:
        http.send_response(200)
        http.send_header("Transfer-Encoding", "chunked")
        http.end_headers()

        def write(piece: bytes) -> None:
            if piece:
                http.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                http.wfile.flush()

        with contextlib.suppress(OSError):
            yield write
            http.wfile.write(b"0\r\n\r\n")
        http.close_connection = True


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A reader that leaves in the middle is no error here."""


def _is_wanted(event: Json, wanted: set[tuple[str, ...]]) -> bool:
    return any((event["Topic"], name) in wanted for name in (event["Key"], *event["FilterKeys"]))


def _newer(agent: Agent, seen: int) -> bool:
    return agent.stopping or (bool(agent.events) and agent.events[-1][0] > seen)


def _allowed(agent: Agent, call: Call, capability: str) -> None:
    if agent.tokens is None:
        return
    if call.token not in agent.tokens:
        raise Said(403, "ACL token not found" if call.token else "Permission denied")
    if capability not in agent.tokens[call.token]:
        raise Said(403, "Permission denied")


def _route(agent: Agent, call: Call) -> Any:
    if call.query.get("namespace", "default") != agent.namespace:
        raise Said(403, "Permission denied")
    match call.method, call.path:
        case "GET", ["job", id, *rest]:
            _allowed(agent, call, "read-job")
            return _job(agent, id, rest)
        case (("POST" | "PUT"), ["jobs", "parse"]):
            _allowed(agent, call, "parse-job")
            return hcl.parsed(call.body["JobHCL"])
        case (("POST" | "PUT"), ["jobs"]):
            _allowed(agent, call, "submit-job")
            return agent.register(call.body)
        case (("POST" | "PUT"), ["job", id, verb]):
            _allowed(agent, call, "submit-job")
            return _job_changed(agent, id, verb, call.body)
        case "DELETE", ["job", id]:
            _allowed(agent, call, "submit-job")
            return agent.deregister(id, purge=call.query.get("purge") in ("true", "True"))
        case "GET", ["agent", "self"]:
            _allowed(agent, call, "agent")
            return {"member": {"Tags": {"build": agent.build}}}
        case "GET", ["evaluation", id]:
            _allowed(agent, call, "read-job")
            return agent.evaluations[id]
        case "GET", ["allocation", id]:
            _allowed(agent, call, "read-job")
            return agent.allocation(id).whole()
        case (("POST" | "PUT"), ["deployment", "promote", id]):
            _allowed(agent, call, "submit-job")
            return agent.promote(id, call.body["Groups"])
        case ("GET", ["client", "allocation", id, "checks"]):
            _allowed(agent, call, "read-job")
            return agent.checks(agent.allocation(id))
        case (("POST" | "PUT"), ["client", "allocation", id, "restart"]):
            _allowed(agent, call, "alloc-lifecycle")
            return agent.restart(id)
        case method, ["var", *path]:
            _allowed(agent, call, "variables")
            return _variable(agent, method, "/".join(path), call)
    raise Said(404, f"Invalid URL {'/'.join(call.path)}")


def _job(agent: Agent, id: str, rest: list[str]) -> Any:
    match rest:
        case []:
            return agent.job(id)
        case ["versions"]:
            agent.job(id)
            return {"Versions": agent.versions[id], "Diffs": None}
        case ["allocations"]:
            return [one.stub() for one in agent.allocations if one.job["ID"] == id and agent.is_of_now(one.job)]
        case ["deployments"]:
            return [one for one in agent.deployments if one["JobID"] == id and agent.is_of_now(one)]
        case ["evaluations"]:
            return [one for one in agent.evaluations.values() if one["JobID"] == id]
    raise Said(404, "Invalid URL")


def _job_changed(agent: Agent, id: str, verb: str, body: Json) -> Any:
    match verb:
        case "plan":
            known = None if id in agent.purged else next(iter(agent.versions.get(id, ())), None)
            index = known["JobModifyIndex"] if known else 0
            failed = {} if agent.nodes else {"api": {"NodesEvaluated": 1, "DimensionExhausted": {"memory": 1}}}
            difference = plan.diff(known, canonical(body["Job"]))
            return {"JobModifyIndex": index, "Diff": difference, "FailedTGAllocs": failed or None}
        case "revert":
            return agent.revert(id, body)
        case "scale":
            return agent.scale(id, body["Target"]["Group"], body["Count"])
        case "evaluate":
            agent.job(id)
            return agent.evaluate(id)
    raise Said(404, "Invalid URL")


def _variable(agent: Agent, method: str, path: str, call: Call) -> Any:
    cas = int(call.query["cas"]) if "cas" in call.query else None
    match method:
        case "GET":
            if path not in agent.variables:
                raise Said(404, "variable not found")
            return agent.variables[path]
        case "PUT":
            return agent.put_variable(path, call.body, cas)
        case "DELETE":
            return agent.delete_variable(path, cas)
    raise Said(405, "Invalid method")
