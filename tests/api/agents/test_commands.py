"""What operators ask about agents, through a real house: by commands, by the command line, and what each answers."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from api import keys
from api.cli.main import main
from api.commands.agents import presence
from api.house import House
from api.people.principal import Grant, Principal, Verb
from api.problem import Problem
from api.settings import Settings
from api.wiring import built
from drivers.agent import host
from drivers.agent.duty.identity import JoinToken
from reconciler.store import agents, audit
from reconciler.store.agents import Heard, Invite, Keys
from reconciler.store.records import AgentState
from stickers.names import AgentName, TargetId
from stickers.signature import Statement
from tests.api.agents.test_enrolled import enrolled, issued
from tests.api.houses import ask

SIGNER = "ab" * 32


@pytest.fixture
def settings(tmp_path: Path, blank: Path) -> Settings:
    made = Settings(
        state=tmp_path / "state",
        documents=tmp_path / "none",
        log_level="error",
        agents_url="https://holdfast.test:8421",
    )
    keys.init(made.keys)
    shutil.copy(blank, made.state / "holdfast.db")
    made.signer_public.write_text(f"{SIGNER}\n")
    return made


@pytest.fixture
async def house(settings: Settings) -> AsyncIterator[House]:
    async with built(settings) as opened:
        yield opened


async def invited(house: House, name: str = "web-1", *targets: str, **more: Any) -> dict[str, Any]:
    return dict(await ask(house, "agent_invite", name=name, targets=list(targets or ("t1",)), kinds=["docker"], **more))


async def joins(house: House, name: str, *targets: str, key: str = "k") -> int:
    return await enrolled(house.store, house.now, AgentName(name), *map(TargetId, targets), key=key)


async def test_an_invitation_is_a_token_that_names_authority_and_signer(house: House) -> None:
    answer = await invited(house)
    token = JoinToken.parse(answer["token"])
    assert house.agents is not None
    assert token.authority == house.agents.authority.fingerprint
    assert token.signer == hashlib.sha256(bytes.fromhex(SIGNER)).hexdigest()
    assert host.parsed(shlex.split(answer["run"])[1:]).file == "-"
    assert answer["run"] == "holdfast-agent join https://holdfast.test:8421 --token-file -"
    assert (answer["state"], answer["targets"], answer["granted"]) == ("invited", ["default/t1"], ["docker"])
    assert answer["expires_at"] - house.now() < timedelta(minutes=15)
    assert "tokens" not in json.dumps(await ask(house, "agents"), default=str)
    kept = json.dumps(await ask(house, "agent", name="web-1"), default=str)
    assert token.secret not in kept


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"name": "Web 1", "targets": ["t1"]}, "BAD_ARGUMENT"),
        ({"name": "web-1", "targets": ["T 1"]}, "BAD_ARGUMENT"),
        ({"name": "web-1", "targets": []}, "BAD_ARGUMENT"),
        ({"name": "web-1", "targets": ["t1"], "kinds": ["nomad"]}, "BAD_ARGUMENT"),
        ({"name": "web-1"}, "BAD_ARGUMENT"),
    ],
)
async def test_what_cannot_be_invited_is_named_and_leaves_nothing(house: House, given: Any, code: str) -> None:
    with pytest.raises(Problem) as raised:
        await ask(house, "agent_invite", **given)
    assert raised.value.code == code
    assert (await ask(house, "agents"))["agents"] == []


async def test_without_a_signer_nobody_is_invited(house: House) -> None:
    house.settings.signer_public.unlink()
    with pytest.raises(Problem, match="signer init") as raised:
        await invited(house)
    assert raised.value.code == "NO_SIGNER"


async def test_a_target_that_is_served_is_not_given_to_another(house: House) -> None:
    await invited(house)
    with pytest.raises(Problem, match="web-1") as raised:
        await invited(house, "web-2")
    assert raised.value.code == "TARGET_TAKEN"


@pytest.mark.parametrize(
    ("silent", "said"), [(0, "online"), (45, "online"), (46, "degraded"), (90, "degraded"), (91, "offline")]
)
async def test_an_agent_is_online_degraded_or_offline_by_its_silence(house: House, silent: int, said: str) -> None:
    await joins(house, "web-1", "default/t1")
    now = house.now()
    at = now - timedelta(seconds=silent)
    row = Heard(agent=AgentName("web-1"), at=at, version="1", reported=(), queue=2, way="polling", peer="p", server="s")
    await house.store.write(lambda c: agents.heard(c, [row]))
    found = await house.store.read(lambda c: agents.by_name(c, AgentName("web-1")))
    assert found is not None
    assert presence(found, now) == said


async def test_status_counts_agents(house: House) -> None:
    await joins(house, "web-1", "default/t1")
    await invited(house, "web-2", "t2")
    assert (await ask(house, "status"))["agents"] == {"offline": 1, "invited": 1}


async def test_whoever_sees_no_target_of_an_agent_does_not_see_it(house: House) -> None:
    await joins(house, "web-1", "default/t1")
    reader = Principal(actor="eve", grants=(Grant(verb=Verb.READ, where="shop/*"),))
    assert (await ask(house, "agents", reader))["agents"] == []
    with pytest.raises(Problem) as raised:
        await ask(house, "agent", reader, name="web-1")
    assert raised.value.code == "NO_AGENT"


async def test_whoever_keeps_no_agents_changes_none(house: House) -> None:
    await joins(house, "web-1", "default/t1")
    everything = tuple(Grant(verb=verb) for verb in Verb if verb is not Verb.AGENT_ADMIN)
    for name in ("agent_invite", "agent_lock", "agent_remove", "agent_declare_dead", "agent_hold", "authority_rotate"):
        with pytest.raises(Problem) as raised:
            await ask(house, name, Principal(actor="eve", grants=everything), name="web-1", target="t1")
        assert raised.value.code == "FORBIDDEN", name


async def test_every_change_of_an_operator_has_its_line_in_the_audit_log(house: House) -> None:
    await invited(house)
    await joins(house, "web-1", "default/t1")
    for command, more in (
        ("agent_lock", {"reason": "stolen"}),
        ("agent_unlock", {}),
        ("agent_drain", {}),
        ("agent_drain", {"end": True}),
        ("agent_grant", {"kinds": ["systemd"]}),
        ("agent_revoke", {"kinds": ["docker"]}),
        ("agent_bind", {"target": "t2"}),
        ("agent_unbind", {"target": "t2"}),
        ("agent_declare_dead", {}),
        ("agent_remove", {}),
    ):
        await ask(house, command, name="web-1", **more)
    entries = await house.store.read(lambda c: audit.page(c, limit=100))
    mine = [each.action for each in reversed(entries.items) if each.actor == "ann" and each.subject == "web-1"]
    said = ["invited", "invited", "locked", "unlocked", "draining", "resumed", "granted", "revoked", "bound", "unbound"]
    assert mine == [f"agent.{each}" for each in (*said, "locked", "declared_dead", "removed")]


async def test_what_an_agent_signs_is_believed_of_its_own_targets_as_long_as_it_is_there(house: House) -> None:
    before = dict(house.keyring.keys)
    await joins(house, "web-1", "default/t1")
    assert house.agents is not None
    await house.agents.roll.refresh()
    [new] = [key for id, key in house.keyring.keys.items() if id not in before]
    assert new.allows(f"{Statement.STICKER}:default/prod/t1")
    assert not new.allows(f"{Statement.STICKER}:default/prod/t2")
    await ask(house, "agent_remove", name="web-1")
    [left] = [key for id, key in house.keyring.keys.items() if id not in before]
    assert not left.allows(f"{Statement.STICKER}:default/prod/t1")
    assert left.allows(f"{Statement.RESULT}:default/prod/t1")


async def test_a_house_that_opens_believes_the_agents_there_are(settings: Settings) -> None:
    async with built(settings) as house:
        await joins(house, "web-1", "default/t1")
    async with built(settings) as house:
        assert len(house.keyring.keys) == 2


async def test_nobody_can_be_told_to_hold_where_nobody_listens(house: House) -> None:
    with pytest.raises(Problem, match="speaks with no agents") as raised:
        await ask(house, "agent_hold", target="t1", **{"for": "7d"})
    assert raised.value.code == "NO_AGENTS"


@pytest.mark.parametrize("text", ["7", "d", "-1d", "31d", "1w", "1e3d", "٣d"])
async def test_a_span_that_cannot_be_meant_is_named(house: House, text: str) -> None:
    with pytest.raises(Problem) as raised:
        await ask(house, "agent_hold", target="t1", **{"for": text})
    assert raised.value.code == "BAD_ARGUMENT"


# -- the authority ----------------------------------------------------------------------------------------------------


async def test_an_issuer_is_retired_when_nobody_depends_on_it_or_by_force(house: House) -> None:
    shown = await ask(house, "authority")
    [former] = shown["issuers"]
    assert (former["issues"], shown["root"]["key_here"], shown["due"]) == (True, True, False)
    await ask(house, "authority_rotate")
    name = AgentName("web-1")
    await _issued_by(house, name, former["id"])
    with pytest.raises(Problem, match="1 agents") as raised:
        await ask(house, "authority_retire", id=former["id"])
    assert raised.value.code == "AUTHORITY_IN_USE"
    await ask(house, "authority_retire", id=former["id"], force=True)
    assert house.agents is not None
    assert house.agents.roll.retired == frozenset({former["id"]})
    rows = {each.id: each.retired_at is not None for each in await house.store.read(agents.authorities)}
    assert rows[former["id"]]


async def _issued_by(house: House, name: AgentName, issuer: str) -> None:
    now = house.now()
    invite = Invite(hash="h", agent=name, created_at=now, created_by="ann", expires_at=now + timedelta(minutes=15))
    keys = Keys(key="k", signing="aa" * 32, sealing="bb" * 32)
    await house.store.write(lambda c: agents.invite(c, invite, [TargetId("default/t1")], []))
    await house.store.write(
        lambda c: agents.join(
            c,
            "h",
            keys,
            lambda it: replace(issued(it, "k", house.now), issuer=issuer),
            by="",
            now=now,
        )
    )


async def test_where_agents_trust_a_root_that_is_not_here_no_second_one_is_made(house: House) -> None:
    await invited(house)
    shutil.move(house.settings.authority, house.settings.state / "away")
    with pytest.raises(Problem, match="bring its files") as raised:
        await invited(house, "web-2", "t2")
    assert raised.value.code == "AUTHORITY_MISSING"


# -- the command line -------------------------------------------------------------------------------------------------


def run(settings: Settings, line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main([*shlex.split(line), "--state", str(settings.state), "--documents", str(settings.documents)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_line_from_the_invitation_to_the_end(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_LOG_LEVEL", "error")
    code, out, _ = run(settings, "agent list", capsys)
    assert (code, "holdfast agent invite" in out) == (0, True)
    code, out, err = run(settings, "agent invite web-1 --target t1 --kind docker", capsys)
    assert (code, out.startswith("holdfast-join:"), out.count("\n")) == (0, True, 1)
    assert "`holdfast-agent join https://HOST:PORT --token-file -` on the host" in err
    assert "can join until" in err
    code, out, _ = run(settings, "agent list", capsys)
    assert (code, "web-1" in out, "invited" in out, "default/t1" in out) == (0, True, True, True)
    assert run(settings, "agent show web-1", capsys)[0] == 1  # it may not speak yet
    assert run(settings, "agent lock web-1 --reason stolen", capsys)[0] == 0
    code, out, _ = run(settings, "agent show web-1 --output json", capsys)
    assert (code, json.loads(out)["reason"]) == (1, "stolen")
    assert run(settings, "agent unlock web-1", capsys)[0] == 0
    assert run(settings, "agent grant web-1 systemd", capsys)[1] == "agent web-1 may work with docker, systemd\n"
    assert run(settings, "agent remove web-1", capsys)[0] == 0
    code, _, err = run(settings, "agent lock none", capsys)
    assert (code, "NO_AGENT" in err) == (2, True)
    code, out, _ = run(settings, "authority show", capsys)
    assert (code, "issues" in out) == (0, True)
    code, out, _ = run(settings, "authority rotate", capsys)
    assert (code, "issues from now on" in out) == (0, True)


async def test_a_state_is_the_one_that_is_told(house: House) -> None:
    await joins(house, "web-1", "default/t1")
    answer = await ask(house, "agent_drain", name="web-1")
    assert (answer["state"], answer["changed"]) == (AgentState.DRAINING, True)
