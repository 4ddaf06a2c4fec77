"""Agents on hosts that nothing can reach, and the authority that issues their certificates."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from api.house import House
from api.http import shapes
from api.http.answers import answered, result_of, shown
from api.http.guard import SOMEWHERE, guarded
from api.http.routes.words import PREFIX, Project, TargetName
from api.people.principal import Verb
from stickers import names

READS = [guarded(Verb.READ, SOMEWHERE)]
KEEPERS = [guarded(Verb.AGENT_ADMIN, None)]
AgentName = Annotated[str, Path(pattern=f"^{names.NAME.pattern}$", max_length=63, examples=["web-1"])]
IssuerId = Annotated[str, Path(min_length=1, max_length=80)]
Kinds = Annotated[list[str], Query(min_length=1, max_length=20, description="runtimes, such as docker")]
TARGET = "/targets/{project}/{target}"


def router(house: House) -> APIRouter:
    router = APIRouter(prefix=PREFIX, tags=["agents"])
    _all(router, house)
    _standing(router, house)
    _rights(router, house)
    _targets(router, house)
    _authority(router, house)
    return router


def _all(router: APIRouter, house: House) -> None:
    @router.get("/agents", response_model=shapes.Agents, dependencies=READS)
    async def index(request: Request) -> Response:
        """Every agent that serves a target which you may see."""
        return await shown(house, request, "agents")

    @router.post("/agents", status_code=201, response_model=shapes.AgentInvited, dependencies=KEEPERS)
    async def invite(request: Request, asked: shapes.AgentAsked) -> Response:
        """Invite a host. The join token counts for 15 minutes and once, and is told this once."""
        return answered(request, await result_of(house, request, "agent_invite", **asked.model_dump()), 201)

    @router.get("/agents/{name}", response_model=shapes.WholeAgent, dependencies=READS)
    async def one(name: AgentName, request: Request) -> Response:
        """One agent, with its certificates."""
        return await shown(house, request, "agent", name=name)

    @router.delete("/agents/{name}", response_model=shapes.AgentMoved, dependencies=KEEPERS)
    async def remove(name: AgentName, request: Request) -> Response:
        """Forget it: its identity, its rights and its targets. What runs on the host goes on running."""
        return await shown(house, request, "agent_remove", name=name)


def _standing(router: APIRouter, house: House) -> None:
    @router.post("/agents/{name}/lock", response_model=shapes.AgentMoved, dependencies=KEEPERS)
    async def lock(name: AgentName, request: Request, asked: shapes.LockAsked | None = None) -> Response:
        """Speak with it no more, at once."""
        return await shown(house, request, "agent_lock", name=name, **(asked or shapes.LockAsked()).model_dump())

    @router.post("/agents/{name}/unlock", response_model=shapes.AgentMoved, dependencies=KEEPERS)
    async def unlock(name: AgentName, request: Request) -> Response:
        """Speak with it again; one whose identity was copied has to be invited anew."""
        return await shown(house, request, "agent_unlock", name=name)

    @router.post("/agents/{name}/drain", response_model=shapes.AgentMoved, dependencies=KEEPERS)
    async def drain(name: AgentName, request: Request, asked: shapes.DrainAsked | None = None) -> Response:
        """Let it end what it does, and give it nothing new."""
        return await shown(house, request, "agent_drain", name=name, **(asked or shapes.DrainAsked()).model_dump())

    @router.post("/agents/{name}/declare-dead", response_model=shapes.AgentMoved, dependencies=KEEPERS)
    async def declare_dead(name: AgentName, request: Request) -> Response:
        """Answer for it that nothing runs on its host any more: others take over, and it is fenced off."""
        return await shown(house, request, "agent_declare_dead", name=name)

    @router.post("/agents/{name}/upgrade", response_model=shapes.AgentUpgraded, dependencies=KEEPERS)
    async def upgrade(name: AgentName, request: Request, asked: shapes.UpgradeAsked) -> Response:
        """Have it take another version's place. Answered when that has reported, or was undone."""
        return await shown(house, request, "agent_upgrade", name=name, **asked.model_dump())


def _rights(router: APIRouter, house: House) -> None:
    @router.post("/agents/{name}/kinds", response_model=shapes.AgentMoved, dependencies=KEEPERS)
    async def grant(name: AgentName, request: Request, asked: shapes.KindsAsked) -> Response:
        """Let it work with these runtimes."""
        return await shown(house, request, "agent_grant", name=name, **asked.model_dump())

    @router.delete("/agents/{name}/kinds", response_model=shapes.AgentMoved, dependencies=KEEPERS)
    async def revoke(name: AgentName, request: Request, kind: Kinds) -> Response:
        """Let it work with these runtimes no more."""
        return await shown(house, request, "agent_revoke", name=name, kinds=kind)


def _targets(router: APIRouter, house: House) -> None:
    @router.post("/agents/{name}/targets", response_model=shapes.AgentMoved, dependencies=KEEPERS)
    async def bind(name: AgentName, request: Request, asked: shapes.BindAsked) -> Response:
        """Give it one more target."""
        return await shown(house, request, "agent_bind", name=name, **asked.model_dump())

    @router.delete("/agents/{name}" + TARGET, response_model=shapes.AgentMoved, dependencies=KEEPERS)
    async def unbind(name: AgentName, project: Project, target: TargetName, request: Request) -> Response:
        """Take a target from it."""
        return await shown(house, request, "agent_unbind", name=name, target=f"{project}/{target}")

    @router.post("/agents/{name}" + TARGET + "/take", response_model=shapes.AgentMoved, dependencies=KEEPERS)
    async def take(name: AgentName, project: Project, target: TargetName, request: Request) -> Response:
        """Let this one, of the agents that share the target, hold it from now on."""
        return await shown(house, request, "agent_take", name=name, target=f"{project}/{target}")

    @router.post(TARGET + "/hold", response_model=shapes.TargetHeld, dependencies=KEEPERS)
    async def hold(project: Project, target: TargetName, request: Request, asked: shapes.HoldAsked) -> Response:
        """Let the agent of the target keep it as it is while it can reach no server."""
        words = {"target": f"{project}/{target}", "for": asked.span}
        return await shown(house, request, "agent_hold", **words)

    @router.post(TARGET + "/run", response_model=shapes.CommandEnded, dependencies=KEEPERS)
    async def run(project: Project, target: TargetName, request: Request, asked: shapes.CommandAsked) -> Response:
        """Run a command that the target's host has given a name, through its agent."""
        return await shown(house, request, "agent_run", target=f"{project}/{target}", **asked.model_dump())

    @router.post(TARGET + "/inspect", response_model=shapes.Inspected, dependencies=KEEPERS)
    async def inspect(project: Project, target: TargetName, request: Request) -> Response:
        """Have the target's agent look at it now, and ask its health checks once."""
        return await shown(house, request, "agent_inspect", target=f"{project}/{target}")

    @router.post(TARGET + "/upload", response_model=shapes.FilesUploaded, dependencies=KEEPERS)
    async def upload(project: Project, target: TargetName, request: Request, asked: shapes.UploadAsked) -> Response:
        """Put files into a directory that the target's host has given a name, through its agent."""
        files = {file.path: file.model_dump() for file in asked.files}
        words = {"target": f"{project}/{target}", "name": asked.name, "files": files}
        return await shown(house, request, "agent_upload", **words)

    @router.post("/signer/trust", response_model=shapes.KeyTrusted, dependencies=KEEPERS)
    async def trust(request: Request) -> Response:
        """Have every agent believe the key that a rotation of the signer has made."""
        return await shown(house, request, "agent_trust")


def _authority(router: APIRouter, house: House) -> None:
    @router.get("/authority", response_model=shapes.Authority, dependencies=KEEPERS)
    async def authority(request: Request) -> Response:
        """Who issues the certificates of agents, and how many depend on each issuer."""
        return await shown(house, request, "authority")

    @router.post("/authority/rotate", response_model=shapes.AuthorityRotated, dependencies=KEEPERS)
    async def rotate(request: Request) -> Response:
        """Make a new issuer; the former one counts until it is retired."""
        return await shown(house, request, "authority_rotate")

    @router.post("/authority/{id}/retire", response_model=shapes.AuthorityRetired, dependencies=KEEPERS)
    async def retire(id: IssuerId, request: Request, asked: shapes.RetireAsked | None = None) -> Response:
        """Believe a former issuer no more."""
        return await shown(house, request, "authority_retire", id=id, **(asked or shapes.RetireAsked()).model_dump())
