"""The schema, the same on SQLite and PostgreSQL. What must never be is forbidden here or in `rules.py`, not in code.

Names are written out (`one_active_job`), because an error of the database is told apart by them.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
)

from drivers.contract import RenderedKind
from reconciler.core.drift import Trust, Verdict
from reconciler.core.machine import JOB_ACTIVE, JobState, TaskState
from reconciler.core.plan import JobKind
from reconciler.store.columns import Instant, Plain, Sentence, Serial, this_transaction
from reconciler.store.records import AgentState, Direction, Wish

metadata: Final = MetaData(
    naming_convention={
        "fk": "%(table_name)s_%(column_0_N_name)s_known",
        "pk": "%(table_name)s_key",
        "ix": "%(table_name)s_by_%(column_0_name)s",
    }
)


def _text(name: str, *more: Any, null: bool = False, **options: Any) -> Column[str]:
    return Column(name, Text, *more, nullable=null, **options)


def _number(name: str, *, default: int | None = None) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=None if default is None else str(default))


def _instant(name: str, *, null: bool = False) -> Column[Any]:
    return Column(name, Instant, nullable=null)


def _environment() -> Column[str]:
    return _text("environment", ForeignKey("environment.id"))


def _refers(name: str, to: str, *, null: bool = False) -> Column[str]:
    """Indexed, since what it refers to is deleted one day, and the database asks then who still refers to it."""
    return _text(name, ForeignKey(to), null=null, index=True)


def _content(name: str) -> Column[str]:
    return _refers(name, "content.digest")


def _listed(words: Iterable[StrEnum]) -> str:
    return ", ".join(f"'{word.value}'" for word in sorted(words))


def _one_of(table: str, column: str, words: type[StrEnum]) -> CheckConstraint:
    return CheckConstraint(f"{column} in ({_listed(words)})", name=f"{table}_{column}_listed")


def _said(table: str, column: str) -> CheckConstraint:
    return CheckConstraint(f"length({column}) > 0", name=f"{table}_{column}_said")


installation = Table(
    "installation",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False),
    _text("id"),
    _instant("since"),
    CheckConstraint("one = 1", name="installation_one"),
)

content = Table(
    "content",
    metadata,
    _text("digest", primary_key=True),
    _text("kind"),
    _text("body"),
    _instant("kept_at"),
)

release = Table(
    "release",
    metadata,
    _text("project"),
    _text("name"),
    _text("digest"),
    _content("content"),
    _instant("kept_at"),
    PrimaryKeyConstraint("project", "name"),
)

environment = Table(
    "environment",
    metadata,
    _text("id", primary_key=True),
    _number("generation"),
    _text("meaning"),
    _content("desired"),
    _text("release"),
    _text("revision"),
    _instant("accepted_at"),
    _instant("undeclared_at", null=True),
    Column("suspended_reason", Sentence),
    _text("suspended_by", null=True),
    _instant("suspended_at", null=True),
    _instant("suspended_until", null=True),
    _text("conditions", server_default="[]"),
    _text("last_attempted", null=True),
    _text("last_applied", null=True),
    _number("jobs", default=0),
    _text("memories", server_default=""),
    _text("source", server_default=""),
    CheckConstraint(
        "(suspended_reason is null) = (suspended_by is null) and (suspended_reason is null) = (suspended_at is null)",
        name="environment_suspended_by_somebody",
    ),
)

known_target = Table(
    "known_target",
    metadata,
    _environment(),
    _text("target"),
    _content("content"),
    _instant("known_at"),
    PrimaryKeyConstraint("environment", "target"),
)

lease = Table(
    "lease",
    metadata,
    _text("environment", primary_key=True),
    _text("holder", null=True),
    _number("token"),
    _instant("until", null=True),
    CheckConstraint("(holder is null) = (until is null)", name="lease_held_until"),
)

replica = Table(
    "replica",
    metadata,
    _text("id", primary_key=True),
    _text("place"),
    _text("role"),
    _text("version"),
    _text("key"),
    _instant("until"),
    Column("environments", Integer, nullable=False, server_default="0"),
    _text("agents", server_default=""),
)
Index("replica_by_end", replica.c.until)

command = Table(
    "command",
    metadata,
    _text("id", primary_key=True),
    _text("environment"),
    _text("kind"),
    Column("arguments", Plain, nullable=False),
    _text("actor"),
    _instant("asked_at"),
    _instant("until"),
    _instant("answered_at", null=True),
    Column("answer", Plain, nullable=True),
    CheckConstraint("(answer is null) = (answered_at is null)", name="command_answered_at"),
)
UNANSWERED: Final[ColumnElement[bool]] = literal_column("answered_at is null")
Index(
    "command_waiting",
    command.c.environment,
    command.c.asked_at,
    sqlite_where=UNANSWERED,
    postgresql_where=UNANSWERED,
)
Index("command_by_end", command.c.until)

job = Table(
    "job",
    metadata,
    _text("id", primary_key=True),
    _environment(),
    _number("number"),
    _text("kind"),
    _text("state"),
    _number("generation"),
    _text("desired"),
    _content("plan"),
    _text("plan_hash"),
    _text("requested_by"),
    Column("reason", Sentence, nullable=False),
    _number("wave", default=0),
    Column("message", Sentence, nullable=False, server_default=""),
    _text("wish", null=True),
    _text("wished_by", null=True),
    _instant("wished_at", null=True),
    _instant("created_at"),
    _instant("changed_at"),
    _instant("ended_at", null=True),
    _number("fence"),
    _number("version", default=0),
    UniqueConstraint("environment", "number", name="job_number_once"),
    _one_of("job", "kind", JobKind),
    _one_of("job", "state", JobState),
    _said("job", "requested_by"),
    _one_of("job", "wish", Wish),
    CheckConstraint("(wish is null) = (wished_by is null)", name="job_wish_by_somebody"),
    CheckConstraint(f"(ended_at is null) = (state in ({_listed(JOB_ACTIVE)}))", name="job_ended_when_terminal"),
)
ACTIVE: Final[ColumnElement[bool]] = literal_column(f"state in ({_listed(JOB_ACTIVE)})")
one_active_job = Index("one_active_job", job.c.environment, unique=True, sqlite_where=ACTIVE, postgresql_where=ACTIVE)
Index("job_by_age", job.c.created_at, job.c.id)
Index("job_by_environment", job.c.environment, job.c.created_at, job.c.id)
Index("job_by_state", job.c.state, job.c.created_at, job.c.id)
Index("job_by_end", job.c.ended_at)

task = Table(
    "task",
    metadata,
    _text("id", primary_key=True),
    _text("job", ForeignKey("job.id")),
    _number("number"),
    _number("wave"),
    _text("direction"),
    _text("target"),
    _text("key"),
    _text("intent"),
    _text("state"),
    _number("attempt", default=0),
    _instant("not_before", null=True),
    _text("code", null=True),
    Column("detail", Sentence, nullable=False, server_default=""),
    _text("receipt", null=True),
    _refers("evidence", "evidence.id", null=True),
    _instant("began_at", null=True),
    _instant("changed_at"),
    _instant("ended_at", null=True),
    _number("fence"),
    _number("version", default=0),
    UniqueConstraint("job", "number", name="task_number_once"),
    UniqueConstraint("key", name="task_key_once"),
    _one_of("task", "state", TaskState),
    _one_of("task", "direction", Direction),
)

progress = Table(
    "progress",
    metadata,
    _text("task", ForeignKey("task.id")),
    _number("number"),
    _instant("at"),
    _text("target"),
    _text("component"),
    _text("slot"),
    _text("step"),
    Column("message", Sentence, nullable=False),
    PrimaryKeyConstraint("task", "number"),
)

artifact = Table(
    "artifact",
    metadata,
    _environment(),
    _text("job"),  # may be archived before what it rendered for last good
    _text("direction"),
    _text("target"),
    _text("component"),
    _text("slot"),
    _text("name"),
    _text("kind"),
    _text("media_type"),
    _content("content"),
    _text("artifact", null=True),
    _text("configuration", null=True),
    _refers("placement", "content.digest", null=True),
    _instant("kept_at"),
    PrimaryKeyConstraint("job", "direction", "target", "name", "component", "slot"),
    _one_of("artifact", "direction", Direction),
    _one_of("artifact", "kind", RenderedKind),
    CheckConstraint(
        "(artifact is null) = (placement is null) and (configuration is null) = (placement is null)",
        name="artifact_of_placement",
    ),
)
Index("artifact_by_place", *(artifact.c[name] for name in ("environment", "target", "component", "slot")))

evidence = Table(
    "evidence",
    metadata,
    _text("id", primary_key=True),
    _text("kind"),
    _environment(),
    _text("target"),
    _text("component", null=True),
    _text("envelope"),
    _instant("at"),
    CheckConstraint("kind in ('action', 'evidence', 'result', 'sticker')", name="evidence_kind_listed"),
)
Index("evidence_by_age", evidence.c.at)

memory = Table(
    "memory",
    metadata,
    _environment(),
    _text("target"),
    _text("component"),
    _text("slot"),
    _number("sequence", default=0),
    _number("attempts", default=0),
    _instant("not_before", null=True),
    PrimaryKeyConstraint("environment", "target", "component", "slot"),
)

last_good = Table(
    "last_good",
    metadata,
    _text("environment"),
    _text("target"),
    _text("component"),
    _text("slot"),
    _content("content"),
    _refers("evidence", "evidence.id"),
    _refers("before", "content.digest", null=True),
    _refers("before_evidence", "evidence.id", null=True),
    _instant("since"),
    PrimaryKeyConstraint("environment", "target", "component", "slot"),
    CheckConstraint("(before is null) = (before_evidence is null)", name="last_good_before_proven"),
    ForeignKeyConstraint(
        ["environment", "target", "component", "slot"],
        ["memory.environment", "memory.target", "memory.component", "memory.slot"],
        name="last_good_remembered",
    ),
)

refused = Table(
    "refused",
    metadata,
    _environment(),
    _text("trial"),
    _text("target"),
    _text("component"),
    _text("slot"),
    _text("release"),
    Column("reason", Sentence, nullable=False),
    _refers("job", "job.id"),
    _instant("at"),
    _instant("lifted_at", null=True),
    _text("lifted_by", null=True),
    PrimaryKeyConstraint("environment", "trial"),
    CheckConstraint("(lifted_at is null) = (lifted_by is null)", name="refused_lifted_by_somebody"),
)

circuit = Table(
    "circuit",
    metadata,
    _environment(),
    _text("target"),
    _number("failures"),
    _instant("open_until", null=True),
    PrimaryKeyConstraint("environment", "target"),
)

decision = Table(
    "decision",
    metadata,
    _environment(),
    _number("number"),
    _instant("since"),
    _instant("until"),
    _number("turns"),
    _text("digest"),
    Column("rule", Sentence, nullable=False),
    Column("content", Plain, nullable=False),
    _instant("again_at", null=True),
    PrimaryKeyConstraint("environment", "number"),
    CheckConstraint("turns > 0", name="decision_counted"),
)
Index("decision_by_age", decision.c.until)
Index("decision_by_moment", decision.c.environment, decision.c.since)

standing = Table(
    "standing",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    _environment(),
    _text("target"),
    _text("component"),
    _text("slot"),
    _instant("since"),
    _instant("until", null=True),
    _text("verdict"),
    _text("trust"),
    Column("rule", Sentence, nullable=False),
    Column("reason", Sentence, nullable=False),
    Column("heal", Integer, nullable=False),
    _text("digest"),
    _text("content"),
    _one_of("standing", "verdict", Verdict),
    _one_of("standing", "trust", Trust),
    sqlite_autoincrement=True,  # the number of a deleted row is not given again: pages go by it
)
OPEN: Final[ColumnElement[bool]] = literal_column("until is null")
Index(
    "one_open_standing",
    standing.c.environment,
    standing.c.target,
    standing.c.component,
    standing.c.slot,
    unique=True,
    sqlite_where=OPEN,
    postgresql_where=OPEN,
)
Index(
    "open_standing_by_verdict",
    standing.c.environment,
    standing.c.verdict,
    standing.c.target,
    standing.c.until,
    sqlite_where=OPEN,
    postgresql_where=OPEN,
)  # a fleet at a glance, without reading one row; SQLite wants `until` in it to believe that
Index("standing_by_environment", standing.c.environment, standing.c.number)
Index("standing_by_target", standing.c.target, standing.c.number)
Index("standing_by_age", standing.c.environment, standing.c.until)

source = Table(
    "source",
    metadata,
    _text("name", primary_key=True),
    _text("revision", null=True),
    _text("allowed", null=True),
    _instant("accepted_at", null=True),
    _instant("read_at", null=True),
    Column("signer", Sentence),
    _text("fault", null=True),
    Column("fault_message", Sentence),
    _text("fault_revision", null=True),
    _instant("fault_at", null=True),
    CheckConstraint("(revision is null) = (accepted_at is null)", name="source_accepted_at"),
    CheckConstraint(
        "(fault is null) = (fault_message is null) and (fault is null) = (fault_at is null)", name="source_fault_said"
    ),
)

document = Table(
    "document",
    metadata,
    _text("kind"),
    _text("project"),
    _text("name"),
    _text("body"),
    _number("revision"),
    _text("written_by"),
    _instant("written_at"),
    PrimaryKeyConstraint("kind", "project", "name"),
    _said("document", "written_by"),
)

document_set = Table(
    "document_set",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False),
    _number("revision"),
    CheckConstraint("one = 1", name="document_set_one"),
)

delivery = Table(
    "delivery",
    metadata,
    _text("source"),
    _text("id"),
    _instant("seen_at"),
    PrimaryKeyConstraint("source", "id"),
)
Index("delivery_by_age", delivery.c.seen_at)

commit_status = Table(
    "commit_status",
    metadata,
    _text("source"),
    _text("revision"),
    _text("context"),
    _text("state"),
    Column("says", Sentence, nullable=False),
    _instant("changed_at"),
    _text("sent", null=True),
    _number("attempts", default=0),
    _instant("again_at", null=True),
    Column("problem", Sentence),
    PrimaryKeyConstraint("source", "revision", "context"),
)
Index("commit_status_by_age", commit_status.c.changed_at)

notice = Table(
    "notice",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    _environment(),
    _text("kind"),
    _text("subject"),
    Column("message", Sentence, nullable=False),
    _instant("opened_at"),
    _instant("closed_at", null=True),
)
UNCLOSED: Final[ColumnElement[bool]] = literal_column("closed_at is null")
Index(
    "one_open_notice",
    notice.c.environment,
    notice.c.kind,
    notice.c.subject,
    unique=True,
    sqlite_where=UNCLOSED,
    postgresql_where=UNCLOSED,
)

telling = Table(
    "telling",
    metadata,
    Column("notice", ForeignKey("notice.number"), nullable=False),
    _text("channel"),
    _instant("told", null=True),
    _instant("told_over", null=True),
    _instant("not_before", null=True),
    _number("failures", default=0),
    PrimaryKeyConstraint("notice", "channel"),
)
audit = Table(
    "audit",
    metadata,
    _text("chain"),
    _number("seq"),
    _text("prev"),
    _text("hash"),
    _instant("at"),
    _text("actor"),
    _text("action"),
    _text("subject"),
    _text("detail"),
    PrimaryKeyConstraint("chain", "seq"),
    UniqueConstraint("chain", "prev", name="audit_follows_once"),
    CheckConstraint("seq > 0", name="audit_counted"),
    _said("audit", "actor"),
    _said("audit", "action"),
)
Index("audit_by_age", audit.c.at, audit.c.chain, audit.c.seq)

person = Table(
    "person",
    metadata,
    _text("id", primary_key=True),
    _text("name"),
    _text("password", null=True),
    _text("issuer", null=True),
    _text("subject", null=True),
    Column("groups", Plain, nullable=False),
    _instant("created_at"),
    _text("created_by"),
    _instant("disabled_at", null=True),
    UniqueConstraint("name", name="person_name_once"),
    UniqueConstraint("issuer", "subject", name="person_identity_once"),
    CheckConstraint("(issuer is null) = (subject is null)", name="person_identity_whole"),
    CheckConstraint("(password is null) <> (issuer is null)", name="person_known_one_way"),
)

granted = Table(
    "granted",
    metadata,
    _text("holder"),
    _text("what"),
    _text("place"),
    _instant("granted_at"),
    _text("granted_by"),
    PrimaryKeyConstraint("holder", "what", "place"),
)

token = Table(
    "token",
    metadata,
    _text("id", primary_key=True),
    _text("name"),
    _text("hash"),
    _refers("person", "person.id", null=True),
    Column("scopes", Plain, nullable=False),
    _instant("created_at"),
    _text("created_by"),
    _instant("expires_at"),
    _instant("used_at", null=True),
    _instant("revoked_at", null=True),
    _text("revoked_by", null=True),
    CheckConstraint("(revoked_at is null) = (revoked_by is null)", name="token_revoked_by_somebody"),
    CheckConstraint("expires_at > created_at", name="token_expires"),
)

session = Table(
    "session",
    metadata,
    _text("hash", primary_key=True),
    _refers("person", "person.id"),
    _instant("begun_at"),
    _instant("seen_at"),
    _instant("ends_at"),
)
Index("session_by_end", session.c.ends_at)

event = Table(
    "event",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    Column("written_by", BigInteger, nullable=False, server_default=this_transaction()),
    _text("environment"),
    _text("job", null=True),
    _text("kind"),
    _instant("at"),
    Column("content", Plain, nullable=False),
    sqlite_autoincrement=True,  # whoever follows goes by the numbers
)
Index("event_in_order", event.c.written_by, event.c.number)
Index("event_by_environment", event.c.environment, event.c.written_by, event.c.number)
Index("event_by_job", event.c.job, event.c.written_by, event.c.number)
Index("event_by_age", event.c.at)

answer = Table(
    "answer",
    metadata,
    _text("actor"),
    _text("key"),
    _text("request"),
    Column("content", Plain, nullable=False),
    _instant("at"),
    PrimaryKeyConstraint("actor", "key"),
)
Index("answer_by_age", answer.c.at)

agent = Table(
    "agent",
    metadata,
    _text("name", primary_key=True),
    _text("state"),
    _number("generation", default=0),
    _text("signing", null=True),
    _text("sealing", null=True),
    Column("former", Plain, nullable=False, server_default="{}"),
    Column("granted", Plain, nullable=False),
    Column("reason", Sentence, nullable=False, server_default=""),
    _instant("invited_at"),
    _text("invited_by"),
    _instant("joined_at", null=True),
    _number("revision"),
    Column("version", Sentence, nullable=False, server_default=""),
    Column("reported", Plain, nullable=False),
    _instant("heard_at", null=True),
    _number("queue", default=0),
    _text("way", server_default=""),
    Column("peer", Sentence, nullable=False, server_default=""),
    Column("server", Sentence, nullable=False, server_default=""),
    UniqueConstraint("signing", name="agent_signing_once"),
    _one_of("agent", "state", AgentState),
    _said("agent", "invited_by"),
    CheckConstraint("(signing is null) = (sealing is null)", name="agent_keys_whole"),
    CheckConstraint("state not in ('active', 'draining') or signing is not null", name="agent_active_has_keys"),
)
Index("agent_by_revision", agent.c.revision)

bound = Table(
    "bound",
    metadata,
    _text("agent", ForeignKey("agent.name")),
    _text("target"),
    Column("shared", Integer, nullable=False),
    Column("holder", Integer, nullable=False),
    PrimaryKeyConstraint("agent", "target"),
    CheckConstraint("shared in (0, 1) and holder in (0, 1)", name="bound_yes_or_no"),
    CheckConstraint("shared = 1 or holder = 1", name="bound_alone_holds"),
)
Index("bound_by_target", bound.c.target)
HOLDS: Final[ColumnElement[bool]] = literal_column("holder = 1")
one_holder = Index("one_holder", bound.c.target, unique=True, sqlite_where=HOLDS, postgresql_where=HOLDS)

certificate = Table(
    "certificate",
    metadata,
    _text("serial", primary_key=True),
    _refers("agent", "agent.name"),
    _number("generation"),
    _text("key"),
    _text("issuer"),
    _text("pem"),
    _instant("issued_at"),
    _instant("not_after"),
    _instant("used_at", null=True),
    _instant("ends_at", null=True),
    _instant("revoked_at", null=True),
    UniqueConstraint("agent", "generation", name="certificate_generation_once"),
    UniqueConstraint("key", name="certificate_key_once"),
)
Index("certificate_by_end", certificate.c.not_after)

invite = Table(
    "invite",
    metadata,
    _text("hash", primary_key=True),
    _refers("agent", "agent.name"),
    _instant("created_at"),
    _text("created_by"),
    _instant("expires_at"),
    _instant("used_at", null=True),
    _refers("certificate", "certificate.serial", null=True),
    _instant("withdrawn_at", null=True),
    CheckConstraint("(used_at is null) = (certificate is null)", name="invite_used_for_one"),
)
Index("invite_by_end", invite.c.expires_at)

authority = Table(
    "authority",
    metadata,
    _text("id", primary_key=True),
    _text("role"),
    _text("pem"),
    _instant("made_at"),
    _instant("retired_at", null=True),
    CheckConstraint("role in ('root', 'issuer')", name="authority_role_listed"),
)

roll = Table(
    "roll",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False),
    _number("revision"),
    CheckConstraint("one = 1", name="roll_one"),
)
