"""Policies, placements and tasks for the tests of the signer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from api.signer.judge import Declared, Facts, placement_name, target_name
from api.signer.policy import Policy, parsed
from desired_state.health import Health, TcpCheck
from desired_state.model import Configuration, Placement, Target
from drivers.agent import protocol
from drivers.agent.protocol import READS, Task, Verb
from drivers.contract import Action, Deploy, Footing, Look, Remove, Stamp, claim_of
from stickers import digest
from stickers.names import (
    ActionKey,
    AgentName,
    Artifact,
    ComponentName,
    Digest,
    EnvironmentId,
    InstallationId,
    JobId,
    PlacementId,
    ReleaseName,
    TargetId,
)

STAGING = EnvironmentId("default/staging")
WEB = Target(
    id=TargetId("default/web-1"),
    environment=STAGING,
    driver="process",
    connection={"via": "agent", "root": "/srv/web"},
)
KEY = ActionKey(hashlib.sha256(b"key").hexdigest())

POLICY = """\
apiVersion: holdfast/v1
kind: SignerPolicy
ask: {{users: [0]}}
{documents}
rules:
  - name: staging
    environments: [default/staging]
    agents: [web-*]
    targets: [default/web-*]
    verbs: [deploy, rollback, write-sticker, inspect, read-log, examine, {verbs}]
    repositories: [registry.example.com/shop/*]
    per_minute: 3
    {more}
"""


def policy(*, documents: bool = True, verbs: str = "health-check", more: str = "") -> Policy:
    where = "documents: {directory: /nonexistent/documents}" if documents else ""
    found, findings = parsed("policy.yaml", POLICY.format(documents=where, verbs=verbs, more=more).encode())
    assert found is not None, findings
    return found


def placement(version: str = "1", **changes: Any) -> Placement:
    made = Placement(
        id=PlacementId(WEB.id, ComponentName("api")),
        environment=STAGING,
        release=ReleaseName(f"shop@{version}"),
        artifact=Artifact("registry.example.com/shop/api", digest.of(version)),
        configuration=Configuration(command=("serve",)),
        health=Health(check=TcpCheck(port=8080)),
    )
    return replace(made, **changes)


def deploy(one: Placement | None = None, **changes: Any) -> Deploy:
    made = Deploy(placement=one or placement(), replaces=None, stamp=Stamp(sequence=1, previous=None))
    return replace(made, **changes)


def removal(one: Placement | None = None) -> Remove:
    one = one or placement()
    claim = claim_of(one, InstallationId("here"))
    return Remove(id=one.id, claim=claim, replaces=None, stamp=Stamp(sequence=1, previous=None))


def same(one: Placement) -> Footing:
    return Footing(instance="i", artifact=one.artifact.digest, configuration=one.configuration_digest)


def action(*changes: Any, **more: Any) -> Action:
    made = Action(
        key=KEY,
        fence=5,
        environment=STAGING,
        job=JobId("default/staging:1"),
        revision="r",
        target=WEB,
        changes=changes or (deploy(),),
        deadline=timedelta(minutes=5),
    )
    return replace(made, **more)


def asked(work: object = None, verb: Verb = Verb.DEPLOY, **changes: Any) -> tuple[Task, str]:
    """A task and its body, as an honest server asks."""
    body = protocol.body(action() if work is None else work)
    task = Task(
        id="t1",
        key=KEY,
        agent=AgentName("web-1"),
        generation=1,
        epoch="e",
        target=WEB.id,
        environment=STAGING,
        verb=verb,
        content=protocol.content(body),
        fence=0 if verb in READS else 5,
        not_after=1000,
        within=timedelta(minutes=5),
    )
    return replace(task, **changes), body


def look(*placements: Placement) -> Look:
    return Look(target=WEB, placements=placements or (placement(),))


@dataclass
class Said(Declared):
    """What the test declares."""

    targets: set[Digest] = field(default_factory=lambda: {target_name(WEB)})
    placements: set[Digest] = field(default_factory=lambda: {placement_name(placement())})
    gone: bool | None = False

    def target(self, name: Digest, /) -> bool:
        return name in self.targets

    def placement(self, name: Digest, /) -> bool:
        return name in self.placements

    def is_gone(self, id: PlacementId, environment: str, /) -> bool | None:
        return self.gone


def facts(
    said: Policy | None = None,
    *,
    declared: Declared | None = None,
    documents: bool = True,
    fence: int = 0,
    recent: Callable[[str], int] = lambda rule: 0,
    next_key: str | None = None,
) -> Facts:
    return Facts(
        policy=said or policy(documents=documents),
        declared=(declared or Said()) if documents else None,
        fences={WEB.id: fence},
        recent=recent,
        next_key=next_key,
    )
