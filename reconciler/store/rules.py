"""What the database refuses beyond keys and checks: triggers, made from the state machines and from one list.

They are laid anew by every migration that changes them; `fingerprint` is what such a migration was written for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection, inspect

from reconciler.core import machine
from reconciler.core.machine import JOB, JOB_ACTIVE, TASK, JobState, TaskState
from reconciler.store.records import AgentState
from stickers import digest
from stickers.names import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Refuses `event` on a row of `table` when `when` holds of OLD and NEW; always, when it is empty.

    `<>` between two columns that may be null is written `{differs}`, which each database spells its own way.
    """

    name: str
    table: str
    event: str
    says: str
    when: str = ""

    @property
    def sentence(self) -> str:
        """As an SQL literal."""
        return "'" + f"{self.name}: {self.says}".replace("'", "''") + "'"


def _transitions(table: str, moves: machine.Table[machine.S, machine.E]) -> Rule:
    listed = sorted({f"'{before}>{after}'" for (before, _), after in moves.items()})
    return Rule(
        name=f"{table}_transition",
        table=table,
        event="update",
        says=f"the state machine of {table} does not list this transition",
        when=f"OLD.state <> NEW.state and OLD.state || '>' || NEW.state not in ({', '.join(listed)})",
    )


def _begins(table: str, first: StrEnum) -> Rule:
    return Rule(
        name=f"{table}_begins",
        table=table,
        event="insert",
        says=f"a {table} begins as {first}",
        when=f"NEW.state <> '{first}'",
    )


def _fixed(table: str, *columns: str) -> Rule:
    return Rule(
        name=f"{table}_fixed",
        table=table,
        event="update",
        says=f"{', '.join(columns)} of a {table} never change",
        when=" or ".join(f"NEW.{column} {{differs}} OLD.{column}" for column in columns),
    )


def _never(table: str, event: str) -> Rule:
    return Rule(name=f"{table}_no_{event}", table=table, event=event, says=f"no {event} of a {table}")


_ACTIVE = ", ".join(f"'{state}'" for state in sorted(JOB_ACTIVE))

RULES: Final = (
    _begins("job", JobState.PENDING),
    _begins("task", TaskState.PENDING),
    _transitions("job", JOB),
    _transitions("task", TASK),
    _fixed("job", "id", "environment", "number", "kind", "generation", "desired", "plan", "plan_hash", "requested_by"),
    _fixed("task", "id", "job", "number", "wave", "direction", "target", "key", "intent"),
    Rule(
        name="job_wish_final",
        table="job",
        event="update",
        says="a wish to cancel is final",
        when="OLD.wish = 'cancel' and NEW.wish {differs} OLD.wish",
    ),
    Rule(
        name="job_ended_first",
        table="job",
        event="delete",
        says="an active job is not deleted",
        when=f"OLD.state in ({_ACTIVE})",
    ),
    _never("installation", "update"),
    _never("installation", "delete"),
    _never("release", "update"),
    _never("release", "delete"),
    _never("content", "update"),
    _never("artifact", "update"),
    _never("evidence", "update"),
    _fixed("decision", "environment", "number", "since", "digest", "rule", "content"),
    Rule(
        name="decision_grows",
        table="decision",
        event="update",
        says="a decision's interval only grows",
        when="NEW.until < OLD.until or NEW.turns < OLD.turns",
    ),
    _fixed(
        "standing",
        *("environment", "target", "component", "slot", "since"),
        *("verdict", "trust", "rule", "reason", "heal", "digest", "content"),
    ),
    Rule(
        name="standing_closes",
        table="standing",
        event="update",
        says="a standing's interval closes once",
        when="OLD.until is not null",
    ),
    Rule(
        name="memory_rises",
        table="memory",
        event="update",
        says="a sequence only rises",
        when="NEW.sequence < OLD.sequence",
    ),
    _never("memory", "delete"),
    Rule(
        name="lease_rises",
        table="lease",
        event="update",
        says="a lease's token rises with every change of holder",
        when="NEW.token < OLD.token or (NEW.holder is not null and NEW.holder {differs} OLD.holder"
        " and NEW.token <= OLD.token)",
    ),
    _never("lease", "delete"),
    _never("audit", "update"),
    _never("audit", "delete"),
    _fixed("token", "id", "name", "hash", "person", "scopes", "created_at", "created_by", "expires_at"),
    Rule(
        name="token_revoked_once",
        table="token",
        event="update",
        says="a revoked token stays revoked",
        when="OLD.revoked_at is not null and NEW.revoked_at is null",
    ),
    _fixed("person", "id", "name", "issuer", "subject", "created_at", "created_by"),
    _fixed("session", "hash", "person", "begun_at", "ends_at"),
    _begins("agent", AgentState.INVITED),
    _fixed("agent", "name"),
    Rule(
        name="agent_generation_rises",
        table="agent",
        event="update",
        says="a generation only rises, and a removed agent begins with an invitation",
        when="NEW.generation < OLD.generation or (OLD.state = 'removed' and NEW.state not in ('removed', 'invited'))",
    ),
    _never("agent", "delete"),
    _fixed("certificate", "serial", "agent", "generation", "key", "issuer", "pem", "issued_at", "not_after"),
    Rule(
        name="certificate_revoked_once",
        table="certificate",
        event="update",
        says="a revoked certificate stays revoked",
        when="OLD.revoked_at is not null and NEW.revoked_at is null",
    ),
    _fixed("invite", "hash", "agent", "created_at", "created_by", "expires_at"),
    Rule(
        name="invite_used_once",
        table="invite",
        event="update",
        says="an invitation is used once, and a withdrawn one never",
        when="(OLD.used_at is not null or OLD.withdrawn_at is not null) and"
        " (NEW.used_at {differs} OLD.used_at or NEW.certificate {differs} OLD.certificate)",
    ),
    _fixed("authority", "id", "role", "pem", "made_at"),
    Rule(
        name="authority_retired_once",
        table="authority",
        event="update",
        says="a retired authority stays retired",
        when="OLD.retired_at is not null and NEW.retired_at is null",
    ),
)


def install(connection: Connection) -> None:
    """Lay the rules of every table there is anew, whatever was laid before. Steps that make more tables lay theirs."""
    there = set(inspect(connection).get_table_names())
    for statement in _statements(connection.dialect.name, [rule for rule in RULES if rule.table in there]):
        connection.exec_driver_sql(statement)


def lift(connection: Connection) -> None:
    """Take the rules away, for whoever puts rows back as they were; `install` lays them again."""
    for rule in RULES:
        on = "" if connection.dialect.name == "sqlite" else f" on {rule.table}"
        connection.exec_driver_sql(f"drop trigger if exists {rule.name}{on}")


def fingerprint() -> Digest:
    """Changes when a rule does: a new migration has to lay them again then."""
    return digest.of(list(RULES))


def _statements(dialect: str, wanted: Sequence[Rule]) -> Iterator[str]:
    yield from _sqlite(wanted) if dialect == "sqlite" else _postgresql(wanted)


def _sqlite(wanted: Sequence[Rule]) -> Iterator[str]:
    for rule in wanted:
        when = f"when {rule.when.format(differs='is not')} " if rule.when else ""
        yield f"drop trigger if exists {rule.name}"
        yield (
            f"create trigger {rule.name} before {rule.event} on {rule.table} for each row {when}"
            f"begin select raise(abort, {rule.sentence}); end"
        )


def _postgresql(wanted: Sequence[Rule]) -> Iterator[str]:
    yield (
        "create or replace function holdfast_refuse() returns trigger language plpgsql as $$ begin "
        "raise using message = TG_ARGV[0], errcode = 'check_violation', constraint = TG_NAME; end $$"
    )
    for rule in wanted:
        when = f"when ({rule.when.format(differs='is distinct from')}) " if rule.when else ""
        yield f"drop trigger if exists {rule.name} on {rule.table}"
        yield (
            f"create trigger {rule.name} before {rule.event} on {rule.table} for each row {when}"
            f"execute function holdfast_refuse({rule.sentence})"
        )
