"""What is signed, and the code of everything that is not: a server that was broken into gets nothing of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import pytest

from api.signer.judge import Facts, Grant, Refusal, judged
from desired_state.hooks import Hook, Hooks
from desired_state.model import Configuration, Volume
from drivers.agent.protocol import Errand, Excerpt, Hold, Task, Trust, Upgrade, Upload, Verb
from drivers.contract import Rendered, RenderedKind, Restart, Stamp
from stickers import digest
from stickers.names import AgentName, Artifact, EnvironmentId, TargetId
from tests.api.signer.papers import (
    WEB,
    Said,
    action,
    asked,
    deploy,
    facts,
    look,
    placement,
    policy,
    removal,
    same,
)

ERRANDS = "health-check, execute-command, upload-files, hold, upgrade, trust"
MORE = "commands: [collect-*]\n    uploads: [certificates]\n    hold: 1h"
WIDE = policy(verbs=ERRANDS, more=MORE)
OTHER = TargetId("default/db-1")
STRANGE = placement("evil", artifact=Artifact("registry.example.com/shop/api", digest.of("evil")))
FILE = Rendered(kind=RenderedKind.COMPOSE_LOCK, name="x", media_type="text/plain", text="evil")

SIGNED: Final[dict[str, tuple[tuple[Task, str], Facts]]] = {
    "a deployment as declared": (asked(), facts()),
    "a deployment with a fence as high as before": (asked(), facts(fence=5)),
    "the way back to what was declared": (asked(verb=Verb.ROLLBACK), facts()),
    "a label on what stands as declared": (
        asked(action(deploy(replaces=same(placement()))), verb=Verb.WRITE_STICKER),
        facts(),
    ),
    "a restart": (
        asked(
            action(
                Restart(placement=placement(), replaces=same(placement()), stamp=Stamp(sequence=1, previous=None)),
            )
        ),
        facts(),
    ),
    "a removal of what nobody declares": (asked(action(removal())), facts(declared=Said(gone=True))),
    "an order to look": (asked(look(), verb=Verb.INSPECT), facts(fence=9)),
    "an order to look, however much was signed": (asked(look(), verb=Verb.INSPECT), facts(recent=lambda rule: 99)),
    "an examination": (asked(look(), verb=Verb.EXAMINE), facts()),
    "lines of a log": (asked(Excerpt(target=WEB, id=placement().id, tail=5), verb=Verb.READ_LOG), facts()),
    "a command that is let": (asked(Errand(name="collect-logs"), verb=Verb.EXECUTE_COMMAND), facts(WIDE)),
    "an upload that is let": (asked(Upload(name="certificates", files=()), verb=Verb.UPLOAD_FILES), facts(WIDE)),
    "a hold that is short enough": (asked(Hold(seconds=3600), verb=Verb.HOLD), facts(WIDE)),
    "our own next key": (asked(Trust(public="ab", overlap=60), verb=Verb.TRUST), facts(WIDE, next_key="ab")),
    "a deployment of a repository that is let, without documents": (asked(), facts(documents=False)),
}

REFUSED: Final[dict[str, tuple[str, tuple[Task, str], Facts]]] = {
    "another body": ("CONTENT", (asked()[0], asked(action(deadline=timedelta(1)))[1]), facts()),
    "a body of another verb": ("MALFORMED", asked(look(), verb=Verb.DEPLOY), facts()),
    "an undeclared image": ("UNDECLARED", asked(action(deploy(STRANGE))), facts()),
    "an undeclared configuration": (
        "UNDECLARED",
        asked(action(deploy(placement(configuration=Configuration(command=("evil",)))))),
        facts(),
    ),
    "an undeclared health check": ("UNDECLARED", asked(action(deploy(placement(health=None)))), facts()),
    "an undeclared hook": (
        "UNDECLARED",
        asked(action(deploy(placement(hooks=Hooks(pre_deploy=Hook(argv=("/bin/evil",))))))),
        facts(),
    ),
    "another release's name on it": ("UNDECLARED", asked(action(deploy(placement(release="shop@9")))), facts()),
    "an undeclared predecessor": ("UNDECLARED", asked(action(deploy(predecessor=STRANGE))), facts()),
    "an undeclared health check in an order": (
        "UNDECLARED",
        asked(look(placement(health=None)), verb=Verb.INSPECT),
        facts(),
    ),
    "another directory of the host": (
        "UNDECLARED",
        asked(action(target=replace(WEB, connection={"via": "agent", "root": "/etc"}))),
        facts(),
    ),
    "a log of an undeclared directory": (
        "UNDECLARED",
        asked(
            Excerpt(target=replace(WEB, connection={"via": "agent", "root": "/"}), id=placement().id, tail=5),
            verb=Verb.READ_LOG,
        ),
        facts(),
    ),
    "a removal of what is declared": ("UNDECLARED", asked(action(removal())), facts()),
    "a removal while the documents err": ("UNDECLARED", asked(action(removal())), facts(declared=Said(gone=None))),
    "files that were rendered elsewhere": ("RENDERED", asked(action(rendered=(FILE,))), facts()),
    "a fence lower than one that was signed": ("STALE_FENCE", asked(), facts(fence=6)),
    "an order with a fence": ("FENCE", asked(look(), verb=Verb.INSPECT, fence=1), facts()),
    "a body about another target": ("MIXED", asked(action(target=replace(WEB, id=OTHER))), facts()),
    "a task about another target": ("MIXED", asked(target=TargetId("default/web-2")), facts()),
    "a target that is reached from the server": (
        "MIXED",
        asked(action(target=replace(WEB, connection={"root": "/srv/web"}))),
        facts(),
    ),
    "a change of another target": (
        "MIXED",
        asked(action(deploy(placement(id=replace(placement().id, target=OTHER))))),
        facts(),
    ),
    "a placement of another environment": (
        "MIXED",
        asked(action(deploy(placement(environment=EnvironmentId("default/prod"))))),
        facts(),
    ),
    "another environment": ("MIXED", asked(environment=EnvironmentId("default/prod")), facts()),
    "another project": ("MIXED", asked(Hold(seconds=1), Verb.HOLD, environment=EnvironmentId("x/y")), facts(WIDE)),
    "an action with another key": ("MIXED", asked(key="0" * 64), facts()),
    "an action with another fence": ("MIXED", asked(fence=6), facts()),
    "an action longer than its task": ("TOO_LONG", asked(within=timedelta(minutes=4)), facts()),
    "a task of days": ("TOO_LONG", asked(within=timedelta(days=2)), facts()),
    "a deployment that is called a label": ("VERB", asked(verb=Verb.WRITE_STICKER), facts()),
    "a verb that no rule has": ("VERB", asked(Hold(seconds=1), verb=Verb.HOLD), facts()),
    "an agent that no rule is about": ("NO_RULE", asked(agent=AgentName("db-1")), facts()),
    "a command that is not let": ("NOT_LET", asked(Errand(name="reboot"), verb=Verb.EXECUTE_COMMAND), facts(WIDE)),
    "an upload that is not let": ("NOT_LET", asked(Upload(name="bin", files=()), verb=Verb.UPLOAD_FILES), facts(WIDE)),
    "a hold that is too long": ("NOT_LET", asked(Hold(seconds=3601), verb=Verb.HOLD), facts(WIDE)),
    "an upgrade from a repository that is not let": (
        "NOT_LET",
        asked(Upgrade(artifact="evil/agent@sha256:1", version="9"), verb=Verb.UPGRADE),
        facts(WIDE),
    ),
    "a key of the server's own": ("NOT_OURS", asked(Trust(public="cd", overlap=1), verb=Verb.TRUST), facts(WIDE)),
    "more than the rule lets in a minute": ("TOO_MANY", asked(), facts(recent=lambda rule: 3)),
    "a hook, without documents": (
        "UNDECLARED",
        asked(action(deploy(placement(hooks=Hooks(post_deploy=Hook(argv=("/bin/evil",))))))),
        facts(documents=False),
    ),
    "a mount of the host, without documents": (
        "UNDECLARED",
        asked(
            action(deploy(placement(configuration=Configuration(volumes=(Volume(source="/", destination="/host"),)))))
        ),
        facts(documents=False),
    ),
    "programs of the host, without documents": (
        "UNDECLARED",
        asked(action(target=replace(WEB, driver="script"))),
        facts(documents=False),
    ),
}
REFUSED["a repository that is not let"] = (
    "NOT_LET",
    asked(action(deploy(placement(artifact=Artifact("evil.example.com/api", digest.of("1")))))),
    facts(documents=False),
)


@pytest.mark.parametrize("case", SIGNED)
def test_it_signs(case: str) -> None:
    (task, body), known = SIGNED[case]
    assert judged(task, body, known) == Grant(rule="staging")


@pytest.mark.parametrize("case", REFUSED)
def test_it_refuses(case: str) -> None:
    code, (task, body), known = REFUSED[case]
    verdict = judged(task, body, known)
    assert isinstance(verdict, Refusal)
    assert (verdict.code, verdict.sentence != "") == (code, True)


def test_every_refusal_has_a_case() -> None:
    codes = {code for code, _, _ in REFUSED.values()}
    assert codes == {
        "CONTENT",
        "FENCE",
        "MALFORMED",
        "MIXED",
        "NOT_LET",
        "NOT_OURS",
        "NO_RULE",
        "RENDERED",
        "STALE_FENCE",
        "TOO_LONG",
        "TOO_MANY",
        "UNDECLARED",
        "VERB",
    }


@pytest.mark.parametrize("change", [lambda p: replace(p, running=False), lambda p: replace(p, release="shop@2")])
def test_what_is_remembered_of_a_placement_is_everything_that_decides(change: Callable[[Any], Any]) -> None:
    from api.signer.judge import placement_name

    assert placement_name(change(placement())) != placement_name(placement())
