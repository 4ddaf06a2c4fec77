"""Every door asks for its verb: the whole table of routes against every role, in its own environment and in another."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import timedelta

import anyio
import httpx2
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from api import commands
from api.commands import rights
from api.commands.rights import Where
from api.house import House
from api.http import routers
from api.http.app import application
from api.http.guard import Guard, Known, Open, guards, insist
from api.http.routes.absent import WITHOUT_ROUTE
from api.people.principal import Verb
from desired_state.model import Policy, Sync
from tests.api.http.doors import ROLES, Believing, Door, door
from tests.harness import virtual_time
from tests.reconciler.rig import declared

anyio_backend = virtual_time.backend()

V1 = "/api/v1"
ASKS = Sync(interval=timedelta(seconds=30), mode=Policy.ASK, heal=Policy.ASK)
PLACE = V1 + "/environments/{project}/{environment}"
JOB = PLACE + "/jobs/{number}"
TARGET = V1 + "/targets/{project}/{target}"

# the golden table: what each route asks for, and where
GOLDEN = {
    ("POST", "/v1/{command}"): "known",
    ("GET", V1 + "/openapi.json"): "open",
    ("GET", "/livez"): "open",
    ("GET", "/readyz"): "open",
    ("GET", "/metrics"): "read installation",
    ("GET", V1 + "/environments"): "read somewhere",
    ("GET", PLACE): "read environment",
    ("GET", PLACE + "/plan"): "read environment",
    ("GET", PLACE + "/history"): "read environment",
    ("GET", V1 + "/drift"): "read somewhere",
    ("GET", PLACE + "/drift"): "read environment",
    ("GET", PLACE + "/targets"): "read environment",
    ("GET", PLACE + "/components"): "read environment",
    ("GET", TARGET + "/why"): "read somewhere",
    ("GET", TARGET + "/components/{component}/logs"): "read somewhere",
    ("GET", TARGET + "/components/{component}/logs/stream"): "read somewhere",
    ("POST", PLACE + "/sync"): "deploy environment",
    ("POST", PLACE + "/rollback"): "rollback environment",
    ("POST", PLACE + "/adopt"): "deploy environment",
    ("POST", PLACE + "/suspend"): "freeze environment",
    ("POST", PLACE + "/resume"): "freeze environment",
    ("GET", V1 + "/jobs"): "read somewhere",
    ("GET", PLACE + "/jobs"): "read environment",
    ("GET", JOB): "read environment",
    ("GET", JOB + "/tasks"): "read environment",
    ("GET", JOB + "/events"): "read environment",
    ("POST", JOB + "/pause"): "deploy environment",
    ("POST", JOB + "/continue"): "deploy environment",
    ("POST", JOB + "/cancel"): "deploy environment",
    ("GET", V1 + "/evidence/{id}"): "read somewhere",
    ("GET", V1 + "/releases"): "read somewhere",
    ("GET", V1 + "/releases/{project}/{release}"): "read somewhere",
    ("GET", V1 + "/events"): "read somewhere",
    ("GET", PLACE + "/events"): "read environment",
    ("GET", JOB + "/artifacts"): "read environment",
    ("GET", JOB + "/artifacts/{digest}"): "read environment",
    ("GET", V1 + "/sources"): "read somewhere",
    ("GET", V1 + "/sources/{source}"): "read somewhere",
    ("POST", V1 + "/sources/{source}/refresh"): "request somewhere",
    ("GET", V1 + "/documents"): "read somewhere",
    ("POST", V1 + "/documents"): "target.edit somewhere",
    ("DELETE", V1 + "/documents/{kind}/{project}/{name}"): "target.edit somewhere",
    ("GET", V1 + "/audit"): "audit.read installation",
    ("GET", PLACE + "/audit"): "audit.read environment",
    ("POST", V1 + "/audit/verify"): "audit.read installation",
    ("POST", PLACE + "/audit/verify"): "audit.read environment",
    ("GET", V1 + "/users"): "admin installation",
    ("POST", V1 + "/users"): "admin installation",
    ("POST", V1 + "/users/{name}/password"): "admin installation",
    ("POST", V1 + "/users/{name}/disable"): "admin installation",
    ("POST", V1 + "/users/{name}/enable"): "admin installation",
    ("POST", V1 + "/users/{name}/grants"): "admin somewhere",
    ("DELETE", V1 + "/users/{name}/grants"): "admin somewhere",
    ("GET", V1 + "/tokens"): "token.admin somewhere",
    ("POST", V1 + "/tokens"): "token.admin somewhere",
    ("DELETE", V1 + "/tokens/{id}"): "token.admin somewhere",
    ("GET", V1 + "/agents"): "read somewhere",
    ("POST", V1 + "/agents"): "agent.admin installation",
    ("GET", V1 + "/agents/{name}"): "read somewhere",
    ("DELETE", V1 + "/agents/{name}"): "agent.admin installation",
    ("POST", V1 + "/agents/{name}/lock"): "agent.admin installation",
    ("POST", V1 + "/agents/{name}/unlock"): "agent.admin installation",
    ("POST", V1 + "/agents/{name}/drain"): "agent.admin installation",
    ("POST", V1 + "/agents/{name}/upgrade"): "agent.admin installation",
    ("POST", V1 + "/agents/{name}/declare-dead"): "agent.admin installation",
    ("POST", V1 + "/agents/{name}/kinds"): "agent.admin installation",
    ("DELETE", V1 + "/agents/{name}/kinds"): "agent.admin installation",
    ("POST", V1 + "/agents/{name}/targets"): "agent.admin installation",
    ("DELETE", V1 + "/agents/{name}/targets/{project}/{target}"): "agent.admin installation",
    ("POST", V1 + "/agents/{name}/targets/{project}/{target}/take"): "agent.admin installation",
    ("POST", TARGET + "/hold"): "agent.admin installation",
    ("POST", TARGET + "/run"): "agent.admin installation",
    ("POST", TARGET + "/inspect"): "agent.admin installation",
    ("POST", TARGET + "/upload"): "agent.admin installation",
    ("POST", V1 + "/signer/trust"): "agent.admin installation",
    ("GET", V1 + "/authority"): "agent.admin installation",
    ("POST", V1 + "/authority/rotate"): "agent.admin installation",
    ("POST", V1 + "/authority/{id}/retire"): "agent.admin installation",
}
ENDLESS = {V1 + "/events", PLACE + "/events", TARGET + "/components/{component}/logs/stream"}
VALUES = {
    "project": "default",
    "environment": "prod",
    "target": "prod-0",
    "component": "api",
    "number": "1",
    "release": "shop@1.0.0",
    "id": "sha256:" + "0" * 64,
    "command": "status",
    "digest": "sha256:" + "0" * 64,
    "source": "main",
    "kind": "Target",
    "name": "ada",
}
BODIES = {
    "/suspend": {"reason": "a test"},
    "/grants": {"what": "viewer", "place": "default/prod"},
    "/documents": {"files": {"a.yaml": "kind: Target"}},
    "/users": {"name": "ada"},
    "/agents": {"name": "ada", "targets": ["prod-0"]},
    "/kinds": {"kinds": ["docker"]},
    "{name}/targets": {"target": "prod-0"},
    "/hold": {"span": "7d"},
    "/run": {"name": "reload"},
    "/upgrade": {"artifact": "registry.example.com/agent@sha256:" + "0" * 64, "version": "2"},
    "/upload": {"name": "pages", "files": [{"path": "a", "content": "", "digest": "sha256:" + "0" * 64}]},
    "/tokens": {"name": "ci", "scopes": ["freeze"], "places": ["default/prod"]},
}
# where a grant in another environment does not reach, the thing is not there or the verb is missing
UNSEEN = {404, 403}


def asked(route: APIRoute) -> str:
    [guard] = guards(route)
    match guard:
        case Guard(verb=verb, environment_from="environment"):
            return f"{verb} environment"
        case Guard(verb=verb, environment_from=None):
            return f"{verb} installation"
        case Guard(verb=verb):
            return f"{verb} somewhere"
        case Known():
            return "known"
        case Open():
            return "open"


@pytest.fixture
async def made() -> AsyncIterator[Door]:
    async with door(declared("1.0.0", sync=ASKS)) as opened:
        await anyio.sleep(5)
        yield opened


def routes(app: FastAPI) -> list[APIRoute]:
    return [route for route in app.routes if isinstance(route, APIRoute)]


async def test_the_table_of_routes_is_the_golden_one(made: Door) -> None:
    found = {(method, route.path): asked(route) for route in routes(made.app) for method in route.methods or ()}
    assert found == GOLDEN


async def test_a_route_without_a_guard_is_never_served(made: Door) -> None:
    def forgetful(house: House) -> APIRouter:
        router = APIRouter()

        @router.get("/forgotten")
        async def forgotten() -> str:
            return "anything"

        return router

    with pytest.raises(TypeError, match="/forgotten declares no guard"):
        application(made.house, Believing(), more=[forgetful])
    with pytest.raises(TypeError):
        insist(FastAPI().routes)  # its own documentation pages among them


@pytest.mark.parametrize("role", sorted(ROLES))
async def test_every_role_at_every_door(made: Door, role: str) -> None:
    for where in ("default/prod", "default/other", "default/*", "elsewhere/*"):
        await _at_every_door(made, role, where)


async def _at_every_door(made: Door, role: str, where: str) -> None:
    here = where in ("default/prod", "default/*")
    for (method, path), wants in GOLDEN.items():
        if path in ENDLESS and _may(role, wants) and (here or path == V1 + "/events"):
            continue  # it is let in, and never ends
        if path == "/v1/{command}" or path == JOB + "/events":
            continue
        if (method, path) == ("POST", V1 + "/tokens"):  # hands on no more than its maker has
            continue
        asks = {"what": "viewer", "place": "default/prod"} if (method, path[-7:]) == ("DELETE", "/grants") else None
        answer = await made.ask(method, path.format(**VALUES), f"{role}@{where}", json=_body(method, path), params=asks)
        seen = f"{role}@{where} {method} {path}: {answer.status_code} {answer.text[:80]}"
        if wants == "open":
            assert answer.status_code == 200, seen
        elif not _may(role, wants) or wants.endswith("installation") or (wants.endswith("environment") and not here):
            assert answer.status_code == 403, seen
        elif here:
            assert answer.status_code not in (401, 403, 500), seen
        elif "default" in path or path.startswith(TARGET):
            assert answer.status_code in UNSEEN, seen
        else:
            assert answer.status_code in (200, 403, 404), seen
            assert answer.status_code == 403 or "prod" not in answer.text, seen  # a refusal repeats what was named


# every command beside the route that carries it out; those without one say why
CARRIED = {
    "status": ("GET", V1 + "/environments"),
    "drift": ("GET", V1 + "/drift"),
    "plan": ("GET", PLACE + "/plan"),
    "why": ("GET", TARGET + "/why"),
    "evidence": ("GET", V1 + "/evidence/{id}"),
    "history": ("GET", PLACE + "/history"),
    "sync": ("POST", PLACE + "/sync"),
    "rollback": ("POST", PLACE + "/rollback"),
    "adopt": ("POST", PLACE + "/adopt"),
    "suspend": ("POST", PLACE + "/suspend"),
    "resume": ("POST", PLACE + "/resume"),
    "jobs": ("GET", V1 + "/jobs"),
    "job": ("GET", JOB),
    "request": ("POST", JOB + "/pause"),
    "artifacts": ("GET", JOB + "/artifacts"),
    "logs": ("GET", TARGET + "/components/{component}/logs"),
    "sources": ("GET", V1 + "/sources"),
    "source": ("GET", V1 + "/sources/{source}"),
    "refresh": ("POST", V1 + "/sources/{source}/refresh"),
    "apply": ("POST", V1 + "/documents"),
    "export": ("GET", V1 + "/documents"),
    "targets": ("GET", PLACE + "/targets"),
    "components": ("GET", PLACE + "/components"),
    "releases": ("GET", V1 + "/releases"),
    "release": ("GET", V1 + "/releases/{project}/{release}"),
    "users": ("GET", V1 + "/users"),
    "user_add": ("POST", V1 + "/users"),
    "user_password": ("POST", V1 + "/users/{name}/password"),
    "user_disable": ("POST", V1 + "/users/{name}/disable"),
    "user_enable": ("POST", V1 + "/users/{name}/enable"),
    "user_grant": ("POST", V1 + "/users/{name}/grants"),
    "user_revoke": ("DELETE", V1 + "/users/{name}/grants"),
    "tokens": ("GET", V1 + "/tokens"),
    "token_create": ("POST", V1 + "/tokens"),
    "token_revoke": ("DELETE", V1 + "/tokens/{id}"),
    "agents": ("GET", V1 + "/agents"),
    "agent": ("GET", V1 + "/agents/{name}"),
    "agent_invite": ("POST", V1 + "/agents"),
    "agent_lock": ("POST", V1 + "/agents/{name}/lock"),
    "agent_unlock": ("POST", V1 + "/agents/{name}/unlock"),
    "agent_remove": ("DELETE", V1 + "/agents/{name}"),
    "agent_drain": ("POST", V1 + "/agents/{name}/drain"),
    "agent_grant": ("POST", V1 + "/agents/{name}/kinds"),
    "agent_revoke": ("DELETE", V1 + "/agents/{name}/kinds"),
    "agent_bind": ("POST", V1 + "/agents/{name}/targets"),
    "agent_unbind": ("DELETE", V1 + "/agents/{name}/targets/{project}/{target}"),
    "agent_take": ("POST", V1 + "/agents/{name}/targets/{project}/{target}/take"),
    "agent_declare_dead": ("POST", V1 + "/agents/{name}/declare-dead"),
    "agent_hold": ("POST", TARGET + "/hold"),
    "agent_run": ("POST", TARGET + "/run"),
    "agent_upload": ("POST", TARGET + "/upload"),
    "agent_upgrade": ("POST", V1 + "/agents/{name}/upgrade"),
    "agent_inspect": ("POST", TARGET + "/inspect"),
    "agent_trust": ("POST", V1 + "/signer/trust"),
    "authority": ("GET", V1 + "/authority"),
    "authority_rotate": ("POST", V1 + "/authority/rotate"),
    "authority_retire": ("POST", V1 + "/authority/{id}/retire"),
    "audit": ("GET", V1 + "/audit"),
    "audit_verify": ("POST", V1 + "/audit/verify"),
}


def test_every_command_has_a_route_or_a_reason() -> None:
    assert set(CARRIED) | set(WITHOUT_ROUTE) == set(commands.COMMANDS)
    assert not set(CARRIED) & set(WITHOUT_ROUTE)
    for name, route in CARRIED.items():
        assert GOLDEN[route].split()[0] == rights.RIGHTS[name].verb, name


def _may(role: str, wants: str) -> bool:
    return wants in ("open", "known") or Verb(wants.split()[0]) in ROLES[role]


def _body(method: str, path: str) -> object:
    return next((body for end, body in BODIES.items() if path.endswith(end)), None) if method == "POST" else None


async def test_nobody_unknown_passes_any_door(made: Door) -> None:
    for (method, path), wants in GOLDEN.items():
        if wants != "open":
            answer = await made.ask(method, path.format(**VALUES), "stranger")
            assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED"), path
            assert answer.headers["www-authenticate"] == "Bearer"


OPEN = {
    "/api/v1/login",
    "/api/v1/openapi.json",
    "/hooks/{source}",
    "/livez",
    "/login",
    "/login/oidc",
    "/login/oidc/callback",
    "/readyz",
    "/static/{name}",
    "/theme",
    "/{path:path}",
}


async def test_of_all_that_is_mounted_only_these_are_open_to_all(made: Door) -> None:
    app = application(made.house, Believing(), more=routers.MORE)
    assert {route.path for route in routes(app) if asked(route) == "open"} == OPEN


async def test_nobody_unknown_passes_any_door_of_the_others_either(made: Door) -> None:
    app = application(made.house, Believing(), more=routers.MORE)
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    values = VALUES | {"name": "x", "source": "x", "path": "x", "moment": "x", "digest": "x"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://holdfast") as client:
        for route in (each for each in routes(app) if asked(each) != "open"):
            path = re.sub(r"{(\w+)(:\w+)?}", lambda found: str(values.get(found[1], "x")), route.path)
            for method in route.methods or ():
                answer = await client.request(method, path)
                assert answer.status_code in (401, 303), f"{method} {path}: {answer.status_code}"
                assert answer.status_code == 401 or answer.headers["location"].startswith("/login"), path


# -- the command layer ------------------------------------------------------------------------------------------------


def test_every_command_has_a_right() -> None:
    assert set(rights.RIGHTS) == set(commands.COMMANDS)


ARGUMENTS = {
    "environment": "prod",
    "job": "prod:99",
    "target": "prod-0",
    "component": "api",
    "id": VALUES["id"],
    "reason": "a test",
    "what": "pause",
    "source": "main",
    "files": {},
    "release": "shop@1.0.0",
    "name": "ada",
    "kinds": ["docker"],
    "for": "7d",
}


GRANTING = {"name": "ada", "what": "viewer", "place": "default/prod"}
OWN = {
    "history": {"environment": "prod"},
    "user_grant": GRANTING,
    "user_revoke": GRANTING,
}


@pytest.mark.parametrize("role", sorted(ROLES))
async def test_the_wire_forgets_no_check(made: Door, role: str) -> None:
    """Every command by every role: with the grant in this environment, and in another."""
    for name in commands.COMMANDS:
        await _at_the_wire(made, role, name)


async def _at_the_wire(made: Door, role: str, name: str) -> None:
    right = rights.RIGHTS[name]
    if right.where is Where.ANYBODY or name == "token_create":  # that one hands on no more than its maker has
        return
    allowed = right.verb in ROLES[role] and right.where is not Where.INSTALLATION
    arguments = OWN.get(name, {**ARGUMENTS, "limit": 1})
    here = (await made.post(f"/v1/{name}", f"{role}@default/prod", json=arguments)).text
    assert ('"FORBIDDEN"' in here) is not allowed, here
    there = (await made.post(f"/v1/{name}", f"{role}@elsewhere/other", json=arguments)).text
    assert any(mark in there for mark in ('"FORBIDDEN"', '"NO_', ": []")), there


async def test_what_is_named_by_no_environment_is_looked_for_where_one_may_see(made: Door) -> None:
    await made.post(f"{V1}/environments/default/prod/sync")
    await made.rig.ended(1)
    [cell] = [each for each in await _placements(made) if each["target"] == "default/prod-0"]
    assert (await made.get(f"{V1}/evidence/{cell['evidence']}", "viewer@default/prod")).status_code == 200
    assert (await made.get(f"{V1}/evidence/{cell['evidence']}", "viewer@default/other")).status_code == 404
    assert (await made.get(f"{V1}/jobs", "viewer@default/other")).json()["jobs"] == []
    assert len((await made.get(f"{V1}/jobs", "viewer@default/prod")).json()["jobs"]) == 1


async def _placements(made: Door) -> list[dict[str, str]]:
    found: list[dict[str, str]] = (await made.get(f"{V1}/targets/default/prod-0/why")).json()["placements"]
    return found


async def test_who_may_freeze_may_not_lift_what_was_refused(made: Door) -> None:
    place = f"{V1}/environments/default/prod/resume"
    refused = await made.post(place, "freezer@default/prod", json={"lift_refused": True})
    assert refused.status_code == 403
    assert (await made.post(place, "freezer@default/prod")).status_code == 200
    assert (await made.post(place, "operator@default/prod", json={"lift_refused": True})).status_code == 200
