"""What the database itself refuses, whatever the code above it says. Each refusal is shown to come from its rule: with
the rule taken away, the same statement passes."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from drivers.contract import Rendered, RenderedKind
from reconciler.core import machine
from reconciler.core.machine import JOB, JOB_TERMINAL, TASK, JobState, TaskState
from reconciler.store import (
    agents,
    artifacts,
    engines,
    environments,
    history,
    installations,
    jobs,
    memories,
    people,
    releases,
    rules,
    schema,
)
from reconciler.store.records import Decision, Direction, Wish
from stickers.names import TargetId
from tests.harness import postgres
from tests.reconciler.core.builders import NOW, PROD, fleet
from tests.reconciler.store.builders import LATER, certified, held, invited, judged, keep_good, new_job, token


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A store in which there is one row of everything. No test commits what it does to it."""
    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            address = f"sqlite:///{tmp_path_factory.mktemp('rules') / 'holdfast.db'}"
        else:
            address = stack.enter_context(postgres.database(request.getfixturevalue("server")))
        made = engines.writer(address)
        stack.callback(made.dispose)
        schema.bring_up_to_date(made)
        with made.begin() as connection:
            _fill(connection)
        yield made


def _fill(c: Connection) -> None:
    desired = fleet(1)
    installations.settle(c, "holdfast-1", NOW)  # type: ignore[arg-type]
    environments.accept(c, desired, now=NOW)
    lease = held(c)
    releases.keep(c, desired.release, NOW)
    job = jobs.create(c, new_job(desired), lease, NOW)
    file = Rendered(kind=RenderedKind.MANIFEST, name="manifest.json", media_type="application/json", text="{}")
    batch = artifacts.Batch(target=None, files=(file,), placements={})
    artifacts.keep(c, job, Direction.FORWARD, [batch], lease, NOW)
    memories.good(c, keep_good(c, desired), lease, NOW)
    history.decide(c, PROD, Decision(rule="nothing to do"), lease, NOW)
    history.decide(c, PROD, Decision(rule="nothing to do"), lease, NOW)
    history.standings(c, PROD, [judged(desired.placements[0])], [], lease, NOW)
    person = people.add(c, people.Person(id="p1", name="ada", password="x", created_at=NOW, created_by="joe"))
    people.add_token(c, token())
    people.revoke_token(c, "t1", "joe", NOW)
    ends = {"begun_at": NOW, "seen_at": NOW, "ends_at": LATER}
    people.begin(c, people.Session(hash="h", person=person.id, **ends), "ada", "password")
    _fill_agents(c)


def _fill_agents(c: Connection) -> None:
    """One that has joined, and one that is only invited."""
    for name in ("web-1", "web-2"):
        asked = invited(name)
        agents.invite(c, asked, [TargetId(f"default/{name}")], ["docker"])
    keys = agents.Keys(key="k1", signing="aa", sealing="bb")
    agents.join(c, invited("web-1").hash, keys, lambda wanted: certified(wanted, "k1"), by="", now=NOW)
    agents.keep_authority(c, agents.Authority(id="a1", role="root", pem="", made_at=NOW), "joe")
    agents.retire_authority(c, "a1", "joe", NOW)


@dataclass(frozen=True)
class Case:
    rule: str
    statement: str
    before: str = "select 1"


_MORE: Final = (
    "insert into agent (name, granted, reported, invited_by, revision, invited_at, state)"
    " select 'db', '[]', '[]', 'joe', 0, invited_at,"
)
CANCELLED: Final = "update job set wish = 'cancel', wished_by = 'joe'"
CASES: Final = (
    Case("job_fixed", "update job set plan_hash = 'another'"),
    Case("job_fixed", "update job set requested_by = 'somebody else'"),
    Case("job_fixed", "update job set generation = 7"),
    Case("task_fixed", "update task set key = 'another'"),
    Case("task_fixed", "update task set intent = '{}'"),
    Case("task_fixed", "update task set target = 'default/another'"),
    Case("job_wish_final", "update job set wish = 'continue'", CANCELLED),
    Case("job_wish_final", "update job set wish = null, wished_by = null", CANCELLED),
    Case("job_ended_first", "delete from job", "delete from task"),
    Case("installation_no_update", "update installation set id = 'another'"),
    Case("installation_no_delete", "delete from installation"),
    Case("release_no_update", "update release set digest = 'another'"),
    Case("release_no_delete", "delete from release"),
    Case("artifact_no_update", "update artifact set name = 'another'"),
    Case("content_no_update", "update content set body = '{}'"),
    Case("evidence_no_update", "update evidence set envelope = '{}'"),
    Case("decision_fixed", "update decision set content = '[]'"),
    Case("decision_fixed", "update decision set rule = 'another'"),
    Case("decision_fixed", "update decision set digest = 'another'"),
    Case("decision_grows", "update decision set turns = turns - 1"),
    Case("decision_grows", "update decision set until = '2020-01-01 00:00:00+00:00'"),
    Case("standing_fixed", "update standing set verdict = 'missing'"),
    Case("standing_fixed", "update standing set content = '{}'"),
    Case("standing_fixed", "update standing set since = '2020-01-01 00:00:00+00:00'"),
    Case("standing_closes", "update standing set until = null", "update standing set until = since"),
    Case("memory_rises", "update memory set sequence = sequence - 1"),
    Case("memory_no_delete", "delete from memory", "delete from last_good"),
    Case("lease_rises", "update lease set token = token - 1"),
    Case("lease_rises", "update lease set holder = 'another'"),
    Case("lease_no_delete", "delete from lease"),
    Case("audit_no_update", "update audit set actor = 'somebody else'"),
    Case("audit_no_delete", "delete from audit"),
    Case("token_fixed", "update token set hash = 'another'"),
    Case("token_fixed", "update token set scopes = '[]'"),
    Case("token_fixed", "update token set expires_at = '2099-01-01 00:00:00+00:00'"),
    Case("token_revoked_once", "update token set revoked_at = null, revoked_by = null"),
    Case("person_fixed", "update person set name = 'somebody else'"),
    Case("session_fixed", "update session set ends_at = '2099-01-01 00:00:00+00:00'"),
    Case("agent_begins", f"{_MORE} 'locked' from agent where name = 'web-2'"),
    Case("agent_fixed", "update agent set name = 'dc' where name = 'db'", f"{_MORE} 'invited' from agent limit 1"),
    Case("agent_generation_rises", "update agent set generation = 0 where name = 'web-1'"),
    Case("agent_generation_rises", "update agent set state = 'active' where name = 'web-1'",
         "update agent set state = 'removed' where name = 'web-1'"),
    Case("agent_no_delete", "delete from agent where name = 'db'", f"{_MORE} 'invited' from agent limit 1"),
    Case("certificate_fixed", "update certificate set not_after = '2099-01-01 00:00:00+00:00'"),
    Case("certificate_fixed", "update certificate set generation = 7"),
    Case("certificate_revoked_once", "update certificate set revoked_at = null",
         "update certificate set revoked_at = issued_at"),
    Case("invite_fixed", "update invite set expires_at = '2099-01-01 00:00:00+00:00'"),
    Case("invite_used_once", "update invite set used_at = null, certificate = null where agent = 'web-1'"),
    Case("invite_used_once", "update invite set used_at = created_at, certificate = (select serial from certificate)"
         " where agent = 'web-2'", "update invite set withdrawn_at = created_at where agent = 'web-2'"),
    Case("authority_fixed", "update authority set pem = 'another'"),
    Case("authority_retired_once", "update authority set retired_at = null"),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}: {case.statement[:40]}")
def test_a_rule_refuses_what_it_is_for_and_nothing_else_does(engine: Engine, case: Case) -> None:
    with engine.connect() as c:
        c.execute(text(case.before))
        with pytest.raises(IntegrityError, match=f"{case.rule}: "), c.begin_nested():
            c.execute(text(case.statement))
        on = f" on {_table(case.rule)}" if engine.dialect.name == "postgresql" else ""
        c.execute(text(f"drop trigger {case.rule}{on}"))
        c.execute(text(case.statement))


def test_every_rule_has_a_case() -> None:
    machines = {"job_begins", "task_begins", "job_transition", "task_transition"}
    assert {rule.name for rule in rules.RULES} == {case.rule for case in CASES} | machines


def test_a_job_moves_as_its_table_lists_and_no_other_way(engine: Engine) -> None:
    _moves_as_listed(engine, "job", JOB, JobState.PENDING)


def test_a_task_moves_as_its_table_lists_and_no_other_way(engine: Engine) -> None:
    _moves_as_listed(engine, "task", TASK, TaskState.PENDING)


def _moves_as_listed(engine: Engine, table: str, moves: machine.Table[Any, Any], first: StrEnum) -> None:
    """Every pair of states, from a row brought to the first of them on a way that the table allows."""
    listed = {(before, after) for (before, _), after in moves.items()}
    with engine.connect() as c:
        for before, way in _ways(moves, first).items():
            with c.begin_nested() as reached:
                for state in way:
                    _set_state(c, table, state)
                for after in type(first):
                    allowed = after == before or (before, after) in listed
                    assert _accepts(c, table, after) is allowed, f"{table}: {before} to {after}"
                reached.rollback()


def _ways(moves: machine.Table[Any, Any], first: StrEnum) -> Mapping[StrEnum, tuple[StrEnum, ...]]:
    """For every state a shortest way to it."""
    ways: dict[StrEnum, tuple[StrEnum, ...]] = {first: ()}
    waiting = deque([first])
    while waiting:
        state = waiting.popleft()
        for (before, _), after in moves.items():
            if before == state and after not in ways:
                ways[after] = (*ways[state], after)
                waiting.append(after)
    assert set(ways) == set(type(first))
    return ways


def _accepts(c: Connection, table: str, state: StrEnum) -> bool:
    """Whether the row may go there; it is left where it was."""
    try:
        with c.begin_nested() as tried:
            _set_state(c, table, state)
            tried.rollback()
    except IntegrityError as error:
        return f"{table}_transition: " not in str(error.orig)
    return True


def _set_state(c: Connection, table: str, state: StrEnum) -> None:
    ended = ", ended_at = null"
    if table == "job" and state in JOB_TERMINAL:
        ended = ", ended_at = created_at"
    c.execute(text(f"update {table} set state = :state{ended}"), {"state": state.value})


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.PENDING])
def test_a_job_begins_pending(engine: Engine, state: JobState) -> None:
    ended = "created_at" if state in JOB_TERMINAL else "null"
    copied = (
        "insert into job (id, environment, number, kind, state, generation, desired, plan, plan_hash, requested_by,"
        " reason, created_at, changed_at, ended_at, fence) select 'other', environment, 9, kind, :state, generation,"
        f" desired, plan, plan_hash, requested_by, reason, created_at, changed_at, {ended}, fence from job"
    )
    with engine.connect() as c, pytest.raises(IntegrityError, match="job_begins: "):
        c.execute(text(copied), {"state": state.value})


@pytest.mark.parametrize("state", [state for state in TaskState if state is not TaskState.PENDING])
def test_a_task_begins_pending(engine: Engine, state: TaskState) -> None:
    copied = (
        "insert into task (id, job, number, wave, direction, target, key, intent, state, changed_at, fence)"
        " select 'other', job, 9, wave, direction, target, 'other', intent, :state, changed_at, fence from task"
    )
    with engine.connect() as c, pytest.raises(IntegrityError, match="task_begins: "):
        c.execute(text(copied), {"state": state.value})


@pytest.mark.parametrize(
    ("constraint", "statement"),
    [
        ("job_state_listed", "update job set state = 'borrowed', ended_at = created_at"),
        ("job_kind_listed", "update job set kind = 'borrowed'"),
        ("job_wish_listed", "update job set wish = 'borrowed', wished_by = 'joe'"),
        ("job_wish_by_somebody", "update job set wish = 'pause'"),
        ("job_requested_by_said", "update job set requested_by = ''"),
        ("job_ended_when_terminal", "update job set state = 'cancelled'"),
        ("task_state_listed", "update task set state = 'borrowed'"),
        ("task_direction_listed", "update task set direction = 'sideways'"),
        ("refused_lifted_by_somebody", "update refused set lifted_at = at"),
        ("environment_suspended_by_somebody", "update environment set suspended_reason = 'because'"),
        ("lease_held_until", "update lease set until = null"),
        ("last_good_before_proven", "update last_good set before = content"),
        ("installation_one", "insert into installation (one, id, since) values (2, 'x', '2026-01-01 00:00:00+00:00')"),
    ],
)
def test_a_check_refuses_what_no_row_may_say(engine: Engine, constraint: str, statement: str) -> None:
    with engine.connect() as c:
        lease = held(c)
        placement = fleet(1).placements[0]
        job = jobs.active(c, PROD)
        assert job is not None
        memories.refuse(c, memories.Refusal(placement=placement, reason="bad", job=job.id), lease, NOW)
        for rule in rules.RULES:
            if rule.event == "update":  # the checks stand without them
                on = f" on {rule.table}" if engine.dialect.name == "postgresql" else ""
                c.execute(text(f"drop trigger {rule.name}{on}"))
        with pytest.raises(IntegrityError, match=constraint):
            c.execute(text(statement))


def test_evidence_that_a_last_good_rests_on_is_not_deleted(engine: Engine) -> None:
    with engine.connect() as c, pytest.raises(DBAPIError, match=r"(?i)foreign key"):
        c.execute(text("delete from evidence"))


def test_a_wish_is_one_of_three() -> None:
    assert {wish.value for wish in Wish} == {"pause", "continue", "cancel"}


def _table(rule: str) -> str:
    [found] = [each.table for each in rules.RULES if each.name == rule]
    return found
