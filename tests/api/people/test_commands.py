"""The commands about people, tokens and the audit log: what they do, and whom they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, text, update

from api import commands, keys
from api.commands.rights import RIGHTS
from api.house import House
from api.people import passwords, roles
from api.people.first import first_admin
from api.people.principal import Grant, Principal, Verb
from api.people.roles import ROLES
from api.problem import Problem
from api.settings import BadSetting
from reconciler.store import audit, people, rules
from reconciler.store.people import Granted
from reconciler.store.tables import audit as table
from stickers.names import EnvironmentId
from tests.api.people.conftest import PASSWORD, Clock, asked

CHAINS = ("installation", "shop/prod")


def somebody(role: str, place: str = "*") -> Principal:
    return Principal(actor=f"a {role}", grants=roles.grants([Granted(role, place)]), natural=True)


async def code(house: House, command: str, principal: Principal, **arguments: Any) -> str:
    """The problem that the command ends in; `` when it is carried out."""
    try:
        await asked(house, command, principal, **arguments)
    except Problem as problem:
        return problem.code
    return ""


async def test_every_role_may_give_the_commands_of_its_verbs_and_no_other(house: House) -> None:
    """The whole table: command by role. Arguments are such that nothing is found, so nothing is done."""
    absent = {"environment": "shop/prod", "job": "shop/prod:1", "target": "shop/web", "name": "nobody", "id": "x"}
    absent |= {"what": "cancel", "reason": "x", "component": "api", "grants": [], "scopes": []}
    for name in commands.COMMANDS:
        for role in ROLES:
            given = absent | ({"what": "viewer"} if name.startswith("user_") else {})
            allowed = RIGHTS[name].where == "anybody" or RIGHTS[name].verb in ROLES[role]
            found = await code(house, name, somebody(role), **given)
            assert (found != "FORBIDDEN") is allowed, (name, role, found)


async def test_whoever_administers_one_project_grants_there_and_nowhere_else(house: House) -> None:
    await asked(house, "user_add", name="ada", password=PASSWORD)
    local = somebody("admin", "shop/*")
    assert await code(house, "user_grant", local, name="ada", what="operator", place="shop/prod") == ""
    assert await code(house, "user_grant", local, name="ada", what="operator", place="shop/*") == ""
    for place in ("bank/prod", "bank/*", "*", None):
        assert await code(house, "user_grant", local, name="ada", what="operator", place=place) == "FORBIDDEN"
    assert await code(house, "user_add", local, name="joe") == "FORBIDDEN"
    assert await code(house, "user_password", local, name="ada") == "FORBIDDEN"
    assert await code(house, "users", local) == "FORBIDDEN"


async def test_a_token_hands_on_no_more_than_its_maker_has(house: House) -> None:
    maker = Principal(actor="joe", grants=roles.grants([Granted("admin", "shop/*"), Granted("operator", "shop/prod")]))
    assert await code(house, "token_create", maker, name="ci", scopes=["operator"], places=["shop/prod"]) == ""
    assert await code(house, "token_create", maker, name="ci", scopes=["read"], places=["shop/staging"]) == ""
    for scopes, places in (
        (["operator"], ["shop/staging"]),
        (["operator"], ["shop/prod", "shop/staging"]),
        (["operator"], ["bank/prod"]),
        (["read"], []),
    ):
        assert await code(house, "token_create", maker, name="ci", scopes=scopes, places=places) == "FORBIDDEN"


@pytest.mark.parametrize("scope", ["approve", "approver", "admin", "token.admin"])
async def test_no_token_approves_or_administers(house: House, scope: str) -> None:
    with pytest.raises(Problem, match="done by a person"):
        await asked(house, "token_create", name="ci", scopes=[scope])


async def test_tokens_of_other_places_are_neither_seen_nor_revoked(house: House) -> None:
    made = await asked(house, "token_create", name="ci", scopes=["viewer"], places=["bank/prod"])
    local = somebody("admin", "shop/*")
    assert (await asked(house, "tokens", local))["tokens"] == []
    assert await code(house, "token_revoke", local, id=made["id"]) == "NO_TOKEN"
    assert [each["id"] for each in (await asked(house, "tokens"))["tokens"]] == [made["id"]]


@pytest.mark.parametrize("name", ["", "Ada", "a b", "holdfast", "root", "1a", "ada@idp", "a" * 64, "ada (uid 0)"])
async def test_names_that_could_be_taken_for_another_are_refused(house: House, name: str) -> None:
    with pytest.raises(Problem):
        await asked(house, "user_add", name=name)


async def test_a_name_is_somebodys_once(house: House) -> None:
    await asked(house, "user_add", name="ada")
    assert await code(house, "user_add", somebody("admin"), name="ada") == "NAME_TAKEN"


async def test_a_password_is_told_when_it_was_made_here_and_never_else(house: House) -> None:
    made = await asked(house, "user_add", name="ada")
    ada = await house.store.read(lambda c: people.by_name(c, "ada"))
    assert ada is not None
    assert await passwords.fits(made["password"], ada.password)
    assert (await asked(house, "user_password", name="ada", password=PASSWORD))["password"] is None
    said = json.dumps([await asked(house, "users"), await asked(house, "audit", limit=500)], default=str)
    assert made["password"] not in said
    assert PASSWORD not in said
    assert "scrypt" not in said


async def test_everything_about_people_is_in_the_audit_log_with_its_actor(house: House) -> None:
    boss = somebody("admin")
    await asked(house, "user_add", boss, name="ada", grants=["viewer"], place="shop/*")
    await asked(house, "user_grant", boss, name="group:platform", what="operator")
    await asked(house, "user_password", boss, name="ada")
    await asked(house, "user_disable", boss, name="ada")
    await asked(house, "user_enable", boss, name="ada")
    await asked(house, "user_revoke", boss, name="group:platform", what="operator")
    await asked(house, "user_revoke", boss, name="group:platform", what="operator")  # nothing any more
    made = await asked(house, "token_create", boss, name="ci", scopes=["audit.read"])
    await asked(house, "token_revoke", boss, id=made["id"])
    entries = (await asked(house, "audit"))["entries"]
    assert [each["action"] for each in reversed(entries)] == [
        "user.added",
        "grant.given",
        "grant.given",
        "user.password",
        "user.disabled",
        "user.enabled",
        "grant.taken",
        "token.created",
        "token.revoked",
    ]
    assert {each["actor"] for each in entries} == {"a admin"}


# -- the audit log ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def told(house: House) -> list[dict[str, Any]]:
    """Two chains of five entries, and what their export says."""

    def written(c: Connection) -> None:
        for number in range(5):
            said = {"number": number}
            for environment in (None, EnvironmentId("shop/prod")):
                audit.append(
                    c, environment=environment, actor="ada", action="tested", subject="s", detail=said, now=house.now()
                )

    await house.store.write(written)
    return await exported(house)


async def exported(house: House, **arguments: Any) -> list[dict[str, Any]]:
    events = commands.carry_out(house, "audit_export", arguments, principal=somebody("auditor"))
    return [event["event"] async for event in events if "event" in event]


def checkpoints(export: list[dict[str, Any]]) -> list[str]:
    return [each["checkpoint"] for each in export if "checkpoint" in each]


async def falsify(house: House, *statements: Any) -> None:
    """As somebody does who has the database and takes the rules away first."""

    def change(c: Connection) -> None:
        for rule in rules.RULES:
            if rule.table == "audit":
                c.execute(text(f"drop trigger {rule.name}"))
        for statement in statements:
            c.execute(statement)

    await house.store.write(change)


async def verified(house: House, export: list[dict[str, Any]] | None = None, **more: Any) -> Any:
    return await asked(house, "audit_verify", checkpoints=checkpoints(export or []), **more)


async def test_what_nobody_touched_verifies_by_itself_and_against_checkpoints(
    house: House, told: list[dict[str, Any]]
) -> None:
    found = await verified(house, told)
    assert (found["ok"], found["checkpoints"]) == (True, 2)
    assert [(each["chain"], each["entries"]) for each in found["chains"]] == [(chain, 5) for chain in CHAINS]
    await asked(house, "user_add", name="ada")
    assert (await verified(house, told))["ok"]  # a chain may grow


@pytest.mark.parametrize("keep", range(5))
async def test_an_end_that_was_cut_off_is_found_against_a_checkpoint(
    house: House, told: list[dict[str, Any]], keep: int
) -> None:
    await falsify(house, delete(table).where(table.c.chain == "shop/prod", table.c.seq > keep))
    assert (await verified(house))["ok"]  # in itself what is left is whole, which is what checkpoints are for
    [fault] = (await verified(house, told))["faults"]
    assert (fault["chain"], fault["seq"]) == ("shop/prod", keep + 1)
    assert "reached entry 5" in fault["says"]


@pytest.mark.parametrize("at", range(1, 6))
async def test_an_edit_in_the_database_is_named(house: House, told: list[dict[str, Any]], at: int) -> None:
    edited = update(table).where(table.c.chain == "shop/prod", table.c.seq == at).values(actor="somebody else")
    await falsify(house, edited)
    [fault] = (await verified(house))["faults"]
    assert (fault["chain"], fault["seq"]) == ("shop/prod", at)


async def test_a_chain_that_was_written_anew_as_a_whole_is_found_against_a_checkpoint(
    house: House, told: list[dict[str, Any]]
) -> None:
    await falsify(house, delete(table).where(table.c.chain == "shop/prod"))

    def anew(c: Connection) -> None:
        for _ in range(7):
            audit.append(
                c,
                environment=EnvironmentId("shop/prod"),
                actor="mallory",
                action="tested",
                subject="s",
                detail={},
                now=house.now(),
            )

    await house.store.write(anew)
    assert (await verified(house))["ok"]
    [fault] = (await verified(house, told))["faults"]
    assert (fault["chain"], fault["seq"]) == ("shop/prod", 5)


async def test_a_brief_export_has_the_checkpoints_alone(house: House, told: list[dict[str, Any]]) -> None:
    brief = await exported(house, brief=True)
    assert [set(each) for each in brief] == [{"checkpoint"}] * 2
    assert (await verified(house, brief))["checkpoints"] == 2


async def test_an_export_carries_every_entry_so_that_anybody_can_verify_it(
    house: House, told: list[dict[str, Any]]
) -> None:
    entries = [each["entry"] for each in told if "entry" in each]
    assert [(each["chain"], each["seq"]) for each in entries] == [(chain, n) for chain in CHAINS for n in range(1, 6)]
    kept = await house.store.read(lambda c: audit.entry(c, "shop/prod", 3))
    assert kept is not None
    again = json.dumps(entries[7]["detail"], sort_keys=True, separators=(",", ":"))
    assert again == kept.detail


async def test_of_one_environment_only_its_own_chain_is_told(house: House, told: list[dict[str, Any]]) -> None:
    local = somebody("auditor", "shop/*")
    entries = (await asked(house, "audit", local, environment="shop/prod"))["entries"]
    assert {each["chain"] for each in entries} == {"shop/prod"}
    assert await code(house, "audit", local) == "FORBIDDEN"
    assert await code(house, "audit_export", local, environment="bank/prod") == "FORBIDDEN"
    found = await asked(house, "audit_verify", local, environment="shop/prod", checkpoints=checkpoints(told))
    assert (found["ok"], found["checkpoints"]) == (True, 1)


async def test_a_checkpoint_that_this_installation_did_not_sign_is_not_believed(
    house: House, told: list[dict[str, Any]], tmp_path: Path
) -> None:
    keys.init(tmp_path / "other")
    stranger = replace(house, sign=keys.load_signer(tmp_path / "other").sign)
    for wrong in (checkpoints(await exported(stranger)), ["{}"], ["x"], [checkpoints(told)[0].replace("sig", "sog")]):
        assert await code(house, "audit_verify", somebody("auditor"), checkpoints=wrong) == "BAD_CHECKPOINT"


async def test_a_checkpoint_of_another_installation_is_refused(house: House, told: list[dict[str, Any]]) -> None:
    elsewhere = replace(house, installation="elsewhere")
    assert await code(elsewhere, "audit_verify", somebody("auditor"), checkpoints=checkpoints(told)) == "BAD_CHECKPOINT"


async def test_a_cursor_that_is_none_is_refused(house: House) -> None:
    for wrong in ("x", "a b c", "2026-11-21T00:00:00+00:00 x y"):
        assert await code(house, "audit", somebody("auditor"), before=wrong) == "BAD_ARGUMENT"


# -- the first admin --------------------------------------------------------------------------------------------------


async def test_the_first_admin_is_made_once_with_a_random_password(house: House) -> None:
    told = await first_admin(house)
    assert told is not None
    password = told.split("the password ")[1].split(" ")[0]
    admin = await house.store.read(lambda c: people.by_name(c, "admin"))
    assert admin is not None
    assert await passwords.fits(password, admin.password)
    granted = roles.grants(await house.store.read(lambda c: people.grants(c, admin.holders)))
    assert Grant(verb=Verb.ADMIN) in granted
    assert Verb.APPROVE not in {grant.verb for grant in granted}
    assert await first_admin(house) is None


async def test_the_first_admins_password_may_come_from_a_file(house: House, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    given = replace(house, settings=replace(house.settings, admin_password_file=str(tmp_path / "password")))
    told = await first_admin(given)
    assert told is not None
    assert PASSWORD not in told
    admin = await house.store.read(lambda c: people.by_name(c, "admin"))
    assert admin is not None
    assert await passwords.fits(PASSWORD, admin.password)


async def test_a_password_file_that_is_not_there_makes_nobody(house: House) -> None:
    given = replace(house, settings=replace(house.settings, admin_password_file="/nowhere"))
    with pytest.raises(BadSetting, match="HOLDFAST_ADMIN_PASSWORD_FILE"):
        await first_admin(given)
    assert await house.store.read(people.all) == ()


async def test_where_somebody_is_known_no_admin_is_made(house: House, clock: Clock) -> None:
    await asked(house, "user_add", name="ada")
    assert await first_admin(house) is None
