"""What an agent does with a task, line by line: each refusal has its own code, and nothing is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from desired_state.model import Target
from drivers.agent import protocol
from drivers.agent.duty import judge
from drivers.agent.duty.journal import Known
from drivers.agent.duty.judge import Again, Attach, Facts, Go, Refusal
from drivers.agent.duty.settings import Command, Settings, UpgradeFrom, UploadTo
from drivers.agent.protocol import Code, Errand, Hold, Priority, Task, Upgrade, Upload, UploadedFile, Verb
from drivers.contract import Action, Look
from stickers import digest, names
from stickers.names import ActionKey, AgentName, Digest, EnvironmentId
from stickers.signature import Envelope, Keyring, Statement
from tests.drivers.agent.scene import AGENT, SIGNER, signer

ENVIRONMENT = EnvironmentId("default/staging")
TARGET = Target(id=names.target_id("default", "t1"), environment=ENVIRONMENT, driver="docker")
OTHER = replace(TARGET, id=names.target_id("default", "t2"))
EPOCH, KEY = "e" * 32, ActionKey("a" * 64)
ZEROS = Digest("sha256:" + "0" * 64)


def act(**said: Any) -> Action:
    plain: dict[str, Any] = {
        "key": KEY,
        "fence": 7,
        "environment": ENVIRONMENT,
        "job": "default/staging:1",
        "revision": "r",
        "target": TARGET,
        "changes": (),
        "deadline": timedelta(seconds=30),
    }
    return Action(**plain | said)


BODY = protocol.body(act())


def task(body: str = BODY, **said: Any) -> Task:
    plain: dict[str, Any] = {
        "id": "t-1",
        "key": KEY,
        "agent": AGENT,
        "generation": 4,
        "epoch": EPOCH,
        "target": TARGET.id,
        "environment": ENVIRONMENT,
        "verb": Verb.DEPLOY,
        "content": protocol.content(body),
        "fence": 7,
        "not_after": 1000,
        "within": timedelta(seconds=30),
    }
    return Task(**plain | said)


def facts(**said: Any) -> Facts:
    plain: dict[str, Any] = {
        "agent": AGENT,
        "generation": 4,
        "epoch": EPOCH,
        "at": 1000,
        "keyring": Keyring([SIGNER.key]),
        "targets": {TARGET.id},
        "kinds": {"docker"},
        "settings": Settings(
            kinds=["docker"],
            commands={"reload": Command(argv=["/bin/reload", "{0}"], arguments=["now|later"])},
            uploads={"pages": UploadTo(directory="/srv/pages", largest=10)},
        ),
        "fence": lambda target: 7,
        "known": {},
        "under_way": {},
        "keys": {},
    }
    return Facts(**plain | said)


def judged(one: Task, body: str = BODY, by: Any = SIGNER, **known: Any) -> judge.Verdict:
    return judge.judged(protocol.sealed(one, by.sign), body, facts(**known))


def code(verdict: judge.Verdict) -> Code | None:
    return verdict.code if isinstance(verdict, Refusal) else None


def test_what_is_in_order_is_carried_out() -> None:
    assert judged(task()) == Go(task=task(), work=act())


TABLE: Mapping[str, tuple[Code, Callable[[], judge.Verdict]]] = {
    "a key nobody pinned": (Code.FORGED, lambda: judged(task(), by=signer(9))),
    "another agent's": (Code.AUDIENCE, lambda: judged(task(agent=AgentName("web-2")))),
    "a target it does not serve": (Code.AUDIENCE, lambda: judged(task(), targets={OTHER.id})),
    "an identity of long ago": (Code.GENERATION, lambda: judged(task(generation=2))),
    "an identity that is not yet": (Code.GENERATION, lambda: judged(task(generation=5))),
    "another run": (Code.EPOCH, lambda: judged(task(epoch="f" * 32))),
    "too late": (Code.EXPIRED, lambda: judged(task(not_after=999))),
    "another body": (Code.CONTENT, lambda: judged(task(), BODY + " ")),
    "a body of another kind": (Code.MALFORMED, lambda: judged(task('{"seconds":1}'), '{"seconds":1}')),
    "an action of another key": (Code.MALFORMED, lambda: authorised(act(key=ActionKey("b" * 64)))),
    "an action under another fence": (Code.MALFORMED, lambda: authorised(act(fence=8))),
    "an action on another target": (Code.MALFORMED, lambda: authorised(act(target=OTHER))),
    "a stale fence": (Code.STALE_FENCE, lambda: judged(task(), fence=lambda target: 8)),
    "a runtime that was not granted": (Code.NOT_GRANTED, lambda: judged(task(), kinds={"process"})),
    "a runtime that the host does not let": (
        Code.NOT_ALLOWED,
        lambda: judged(task(), settings=Settings(kinds=["process"])),
    ),
    "a command without a name here": (Code.NOT_ALLOWED, lambda: authorised(Errand(name="rm"))),
    "an argument of another pattern": (
        Code.NOT_ALLOWED,
        lambda: authorised(Errand(name="reload", arguments=("now; rm",))),
    ),
    "an argument with a line more": (Code.NOT_ALLOWED, lambda: authorised(Errand(name="reload", arguments=("now\n",)))),
    "an argument too many": (Code.NOT_ALLOWED, lambda: authorised(Errand(name="reload", arguments=("now", "now")))),
    "an upload without a name here": (Code.NOT_ALLOWED, lambda: authorised(Upload(name="etc", files=()))),
    "an upload that is too large": (
        Code.NOT_ALLOWED,
        lambda: authorised(Upload(name="pages", files=(file("A" * 40),))),
    ),
    "an upload of a set-id file": (
        Code.NOT_ALLOWED,
        lambda: authorised(Upload(name="pages", files=(file("AAAA", mode=0o4755),))),
    ),
    "an upgrade where none is let": (
        Code.NOT_ALLOWED,
        lambda: authorised(Upgrade(artifact=f"a/b@{ZEROS}", version="2")),
    ),
    "an upgrade from elsewhere": (
        Code.NOT_ALLOWED,
        lambda: authorised(
            Upgrade(artifact=f"evil/agent@{ZEROS}", version="2"),
            settings=Settings(upgrade=UpgradeFrom(directory="/opt/agent", repository="ours/agent")),
        ),
    ),
}

VERBS: Mapping[type[Any], Verb] = {
    Action: Verb.DEPLOY,
    Errand: Verb.EXECUTE_COMMAND,
    Upload: Verb.UPLOAD_FILES,
    Upgrade: Verb.UPGRADE,
    Hold: Verb.HOLD,
    Look: Verb.INSPECT,
}


def file(content: str, mode: int = 0o644) -> UploadedFile:
    return UploadedFile(path="a", content=content, digest=ZEROS, mode=mode)


def authorised(work: object, **known: Any) -> judge.Verdict:
    body = protocol.body(work)
    return judged(task(body, verb=VERBS[type(work)]), body, **known)


@pytest.mark.parametrize("case", TABLE)
def test_each_refusal_has_its_own_code(case: str) -> None:
    expected, verdict = TABLE[case]
    assert code(verdict()) is expected


def test_what_is_no_statement_is_malformed_and_answered_to_nobody() -> None:
    envelope = SIGNER.sign(Statement.TASK, ENVIRONMENT, {"format": "holdfast.task/v1", "said": {}})
    assert judge.judged(envelope, BODY, facts()) == Refusal(code=Code.MALFORMED, detail=ANY, task=None)


def test_what_is_no_envelope_is_forged_and_answered_to_nobody() -> None:
    assert judge.judged(Envelope("{}"), BODY, facts()) == Refusal(code=Code.FORGED, detail=ANY, task=None)


class Anything:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


ANY: Any = Anything()

OTHERS: Mapping[str, Any] = {
    "id": "t-2",
    "key": ActionKey("b" * 64),
    "agent": AgentName("web-2"),
    "generation": 3,
    "epoch": "f" * 32,
    "target": OTHER.id,
    "environment": EnvironmentId("default/production"),
    "verb": Verb.ROLLBACK,
    "content": ZEROS,
    "fence": 8,
    "not_after": 2000,
    "within": timedelta(hours=1),
    "sequence": 99,
    "priority": Priority.URGENT,
}


def test_every_field_of_a_task_has_another_value_to_try() -> None:
    assert set(OTHERS) == {field.name for field in fields(Task)}


@pytest.mark.parametrize("field", OTHERS)
def test_a_task_with_a_field_changed_after_signing_is_refused(field: str) -> None:
    """Its payload says something else than what was signed."""
    changed = replace(task(), **{field: OTHERS[field]})
    signed = json.loads(protocol.sealed(task(), SIGNER.sign))
    forged = json.loads(protocol.sealed(changed, signer(9).sign))
    forged["signatures"] = signed["signatures"]
    envelope = Envelope(json.dumps(forged, separators=(",", ":"), sort_keys=True))
    assert code(judge.judged(envelope, BODY, facts())) is Code.FORGED


@given(some.data())
def test_no_envelope_with_a_byte_changed_is_carried_out(data: some.DataObject) -> None:
    envelope = protocol.sealed(task(), SIGNER.sign)
    at = data.draw(some.integers(0, len(envelope) - 1))
    char = data.draw(some.characters(min_codepoint=32, max_codepoint=126).filter(lambda char: char != envelope[at]))
    found = judge.judged(Envelope(envelope[:at] + char + envelope[at + 1 :]), BODY, facts())
    assert code(found) in (Code.FORGED, Code.MALFORMED)


@given(some.text(max_size=200))
def test_no_other_body_is_carried_out(body: str) -> None:
    assert code(judged(task(), body)) is Code.CONTENT or body == BODY


@given(some.integers(0, 20), some.integers(0, 20), some.sampled_from(sorted(set(Verb) - protocol.READS)))
def test_no_fence_below_the_highest_is_acted_under(fence: int, highest: int, verb: Verb) -> None:
    work: Any = {
        Verb.EXECUTE_COMMAND: Errand(name="reload", arguments=("now",)),
        Verb.UPLOAD_FILES: Upload(name="pages", files=()),
        Verb.HOLD: Hold(seconds=60),
        Verb.UPGRADE: Upgrade(artifact=f"a/b@{ZEROS}", version="2"),
        Verb.TRUST: protocol.Trust(public="00" * 32, overlap=1),
    }.get(verb, act(fence=fence))
    body = protocol.body(work)
    found = judged(task(body, verb=verb, fence=fence), body, fence=lambda target: highest)
    assert (code(found) is Code.STALE_FENCE) == (fence < highest)


def test_what_nobody_signed_is_forged_whatever_else_is_wrong_with_it() -> None:
    wrong = task(agent=AgentName("x"), generation=1, epoch="x", not_after=0, fence=0, content=ZEROS)
    assert code(judged(wrong, by=signer(9))) is Code.FORGED


ORDERED: Mapping[Code, dict[str, Any]] = {
    Code.AUDIENCE: {"agent": AgentName("web-2")},
    Code.GENERATION: {"generation": 1},
    Code.EPOCH: {"epoch": "x"},
    Code.EXPIRED: {"not_after": 0},
    Code.CONTENT: {"content": ZEROS},
    Code.STALE_FENCE: {"fence": 0},
}


@pytest.mark.parametrize("first", [one for one in ORDERED if one is not Code.STALE_FENCE])
def test_what_is_wrong_in_several_ways_is_refused_for_the_first(first: Code) -> None:
    later = list(ORDERED)[list(ORDERED).index(first) :]
    wrong: dict[str, Any] = {name: value for one in later for name, value in ORDERED[one].items()}
    assert code(judged(task(**wrong))) is first


# -- again -------------------------------------------------------------------------------------------------------------


def known(one: Task, *, how: Code = Code.DONE, acknowledged: bool = False) -> dict[str, Any]:
    kept = Known(id=one.id, key=one.key, verb=one.verb, content=one.content, code=how, acknowledged=acknowledged)
    return {"known": {one.id: kept}}


def test_what_is_done_has_its_answer_though_its_time_is_over_and_its_fence_was_passed() -> None:
    late: dict[str, Any] = {"at": 10**9, "fence": lambda target: 99, "epoch": "f" * 32, "generation": 9, "kinds": set()}
    assert judged(task(), **known(task()), **late) == Again(task=task(), id="t-1")


def test_what_failed_has_its_answer_too() -> None:
    assert judged(task(), **known(task(), how=Code.FAILED)) == Again(task=task(), id="t-1")


@pytest.mark.parametrize("field", ["key", "content"])
def test_an_authorisation_is_used_for_one_thing(field: str) -> None:
    other = replace(task(), **{field: OTHERS[field]})
    assert code(judged(task(), **known(other))) is Code.USED


def test_a_new_authorisation_of_what_was_done_is_told_what_nobody_has_heard() -> None:
    assert judged(task(id="t-2"), **known(task())) == Again(task=task(id="t-2"), id="t-1")


def test_a_new_authorisation_of_what_was_done_and_heard_of_is_looked_at_again() -> None:
    assert isinstance(judged(task(id="t-2"), **known(task(), acknowledged=True)), Go)


def test_a_new_authorisation_of_what_failed_is_carried_out() -> None:
    assert isinstance(judged(task(id="t-2"), **known(task(), how=Code.FAILED)), Go)


@pytest.mark.parametrize("acknowledged", [False, True])
def test_a_command_is_not_run_twice_under_a_key(acknowledged: bool) -> None:
    body = protocol.body(Errand(name="reload", arguments=("now",)))
    first = task(body, verb=Verb.EXECUTE_COMMAND)
    again = replace(first, id="t-2")
    assert judged(again, body, **known(first, acknowledged=acknowledged)) == Again(task=again, id="t-1")


def test_a_key_of_a_command_is_used_for_no_other() -> None:
    first = task(protocol.body(Errand(name="reload", arguments=("now",))), verb=Verb.EXECUTE_COMMAND)
    body = protocol.body(Errand(name="reload", arguments=("later",)))
    assert code(judged(replace(first, id="t-2", content=protocol.content(body)), body, **known(first))) is Code.USED


def under_way(one: Task) -> dict[str, Any]:
    return {"under_way": {one.id: (one.id, one)}, "keys": {one.key: (one.id, one)}}


def test_the_same_task_again_attaches_to_itself() -> None:
    assert judged(task(), **under_way(task()), at=10**9) == Attach(task=task(), id="t-1")


def test_a_newer_authorisation_attaches_to_the_one_under_way() -> None:
    newer = act(fence=8)
    body = protocol.body(newer)
    again = task(body, id="t-2", fence=8)
    assert judged(again, body, **under_way(task())) == Attach(task=again, id="t-1")


def test_a_newer_authorisation_that_is_too_late_attaches_to_nothing() -> None:
    assert code(judged(task(id="t-2", not_after=0), **under_way(task()))) is Code.EXPIRED


def test_a_key_under_way_for_another_target_is_no_reason_to_attach() -> None:
    assert code(judged(task(id="t-2"), **under_way(task(target=OTHER.id)))) is Code.USED


def test_the_generation_before_is_still_believed() -> None:
    assert isinstance(judged(task(generation=3)), Go)


@pytest.mark.parametrize("verb", sorted(protocol.READS - {Verb.READ_LOG}))
def test_a_look_needs_no_fence(verb: Verb) -> None:
    body = protocol.body(Look(target=TARGET))
    assert isinstance(judged(task(body, verb=verb, fence=0), body), Go)


def test_each_verb_has_a_body() -> None:
    assert set(judge.BODIES) == set(Verb)


def test_a_digest_is_of_the_very_text() -> None:
    assert protocol.content("é") == digest.of_bytes("é".encode())
