"""The first schema: desire, jobs, memory, history."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from reconciler.store import rules

revision: Final = "0001"
down_revision: Final = None

RULES: Final = "sha256:c8621650e30fab358a209c94a4b8a9430539aab11a782cec660d36562cbf0772"


def upgrade() -> None:
    _content()
    _installation()
    _lease()
    _environment()
    _release()
    _circuit()
    _decision()
    _evidence()
    _job()
    _known_target()
    _memory()
    _standing()
    _last_good()
    _refused()
    _task()
    _progress()
    rules.install(op.get_bind())


def _content() -> None:
    op.create_table(
        "content",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("kept_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("content_key")),
    )


def _installation() -> None:
    op.create_table(
        "installation",
        sa.Column("one", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("one = 1", name="installation_one"),
        sa.PrimaryKeyConstraint("one", name=op.f("installation_key")),
    )


def _lease() -> None:
    op.create_table(
        "lease",
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(holder is null) = (until is null)", name="lease_held_until"),
        sa.PrimaryKeyConstraint("environment", name=op.f("lease_key")),
    )


def _environment() -> None:
    op.create_table(
        "environment",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("meaning", sa.Text(), nullable=False),
        sa.Column("desired", sa.Text(), nullable=False),
        sa.Column("release", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("undeclared_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("suspended_reason", sa.Text(), nullable=True),
        sa.Column("suspended_by", sa.Text(), nullable=True),
        sa.Column("suspended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("suspended_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("conditions", sa.Text(), server_default="[]", nullable=False),
        sa.Column("last_attempted", sa.Text(), nullable=True),
        sa.Column("last_applied", sa.Text(), nullable=True),
        sa.Column("jobs", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("memories", sa.Text(), server_default="", nullable=False),
        sa.CheckConstraint(
            "(suspended_reason is null) = (suspended_by is null) and (suspended_reason is null) = "
            "(suspended_at is null)",
            name="environment_suspended_by_somebody",
        ),
        sa.ForeignKeyConstraint(["desired"], ["content.digest"], name=op.f("environment_desired_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("environment_key")),
    )
    op.create_index(op.f("environment_by_desired"), "environment", ["desired"], unique=False)


def _release() -> None:
    op.create_table(
        "release",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("kept_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["content"], ["content.digest"], name=op.f("release_content_known")),
        sa.PrimaryKeyConstraint("project", "name", name=op.f("release_key")),
    )
    op.create_index(op.f("release_by_content"), "release", ["content"], unique=False)


def _circuit() -> None:
    op.create_table(
        "circuit",
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("open_until", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["environment"], ["environment.id"], name=op.f("circuit_environment_known")),
        sa.PrimaryKeyConstraint("environment", "target", name=op.f("circuit_key")),
    )


def _decision() -> None:
    op.create_table(
        "decision",
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("turns", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("again_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("turns > 0", name="decision_counted"),
        sa.ForeignKeyConstraint(["environment"], ["environment.id"], name=op.f("decision_environment_known")),
        sa.PrimaryKeyConstraint("environment", "number", name=op.f("decision_key")),
    )
    op.create_index("decision_by_age", "decision", ["until"], unique=False)
    op.create_index("decision_by_moment", "decision", ["environment", "since"], unique=False)


def _evidence() -> None:
    op.create_table(
        "evidence",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("component", sa.Text(), nullable=True),
        sa.Column("envelope", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind in ('action', 'evidence', 'sticker')", name="evidence_kind_listed"),
        sa.ForeignKeyConstraint(["environment"], ["environment.id"], name=op.f("evidence_environment_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("evidence_key")),
    )
    op.create_index("evidence_by_age", "evidence", ["at"], unique=False)


def _job() -> None:
    op.create_table(
        "job",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("desired", sa.Text(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("plan_hash", sa.Text(), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("wave", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("message", sa.Text(), server_default="", nullable=False),
        sa.Column("wish", sa.Text(), nullable=True),
        sa.Column("wished_by", sa.Text(), nullable=True),
        sa.Column("wished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "(ended_at is null) = (state in ('completing', 'paused', 'pending', 'preparing', "
            "'rolling_back', 'running'))",
            name="job_ended_when_terminal",
        ),
        sa.CheckConstraint("kind in ('adopt', 'deploy', 'heal', 'remove', 'rollback')", name="job_kind_listed"),
        sa.CheckConstraint(
            "state in ('cancelled', 'completed', 'completing', 'failed', 'paused', 'pending', "
            "'preparing', 'rolled_back', 'rolling_back', 'running', 'superseded')",
            name="job_state_listed",
        ),
        sa.CheckConstraint("wish in ('cancel', 'continue', 'pause')", name="job_wish_listed"),
        sa.CheckConstraint("(wish is null) = (wished_by is null)", name="job_wish_by_somebody"),
        sa.CheckConstraint("length(requested_by) > 0", name="job_requested_by_said"),
        sa.ForeignKeyConstraint(["environment"], ["environment.id"], name=op.f("job_environment_known")),
        sa.ForeignKeyConstraint(["plan"], ["content.digest"], name=op.f("job_plan_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("job_key")),
        sa.UniqueConstraint("environment", "number", name="job_number_once"),
    )
    op.create_index("job_by_age", "job", ["created_at", "id"], unique=False)
    op.create_index("job_by_end", "job", ["ended_at"], unique=False)
    op.create_index("job_by_environment", "job", ["environment", "created_at", "id"], unique=False)
    op.create_index(op.f("job_by_plan"), "job", ["plan"], unique=False)
    op.create_index("job_by_state", "job", ["state", "created_at", "id"], unique=False)
    op.create_index(
        "one_active_job",
        "job",
        ["environment"],
        unique=True,
        sqlite_where=sa.text("state in ('completing', 'paused', 'pending', 'preparing', 'rolling_back', 'running')"),
        postgresql_where=sa.text(
            "state in ('completing', 'paused', 'pending', 'preparing', 'rolling_back', 'running')"
        ),
    )


def _known_target() -> None:
    op.create_table(
        "known_target",
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("known_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["content"], ["content.digest"], name=op.f("known_target_content_known")),
        sa.ForeignKeyConstraint(["environment"], ["environment.id"], name=op.f("known_target_environment_known")),
        sa.PrimaryKeyConstraint("environment", "target", name=op.f("known_target_key")),
    )
    op.create_index(op.f("known_target_by_content"), "known_target", ["content"], unique=False)


def _memory() -> None:
    op.create_table(
        "memory",
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("component", sa.Text(), nullable=False),
        sa.Column("slot", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempts", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["environment"], ["environment.id"], name=op.f("memory_environment_known")),
        sa.PrimaryKeyConstraint("environment", "target", "component", "slot", name=op.f("memory_key")),
    )


def _standing() -> None:
    op.create_table(
        "standing",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("component", sa.Text(), nullable=False),
        sa.Column("slot", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("trust", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("heal", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "trust in ('forged', 'none', 'replayed', 'unreadable', 'unsigned', 'valid')", name="standing_trust_listed"
        ),
        sa.CheckConstraint(
            "verdict in ('ahead', 'behind', 'foreign', 'in sync', 'in transit', 'lying', 'missing', "
            "'stopped', 'unhealthy', 'unknown', 'unlabelled', 'unmanaged', 'wrong artifact', 'wrong "
            "configuration')",
            name="standing_verdict_listed",
        ),
        sa.ForeignKeyConstraint(["environment"], ["environment.id"], name=op.f("standing_environment_known")),
        sa.PrimaryKeyConstraint("number", name=op.f("standing_key")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "one_open_standing",
        "standing",
        ["environment", "target", "component", "slot"],
        unique=True,
        sqlite_where=sa.text("until is null"),
        postgresql_where=sa.text("until is null"),
    )
    op.create_index("standing_by_age", "standing", ["environment", "until"], unique=False)
    op.create_index("standing_by_environment", "standing", ["environment", "number"], unique=False)
    op.create_index("standing_by_target", "standing", ["target", "number"], unique=False)


def _last_good() -> None:
    op.create_table(
        "last_good",
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("component", sa.Text(), nullable=False),
        sa.Column("slot", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("before_evidence", sa.Text(), nullable=True),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(before is null) = (before_evidence is null)", name="last_good_before_proven"),
        sa.ForeignKeyConstraint(["before"], ["content.digest"], name=op.f("last_good_before_known")),
        sa.ForeignKeyConstraint(["before_evidence"], ["evidence.id"], name=op.f("last_good_before_evidence_known")),
        sa.ForeignKeyConstraint(["content"], ["content.digest"], name=op.f("last_good_content_known")),
        sa.ForeignKeyConstraint(
            ["environment", "target", "component", "slot"],
            ["memory.environment", "memory.target", "memory.component", "memory.slot"],
            name="last_good_remembered",
        ),
        sa.ForeignKeyConstraint(["evidence"], ["evidence.id"], name=op.f("last_good_evidence_known")),
        sa.PrimaryKeyConstraint("environment", "target", "component", "slot", name=op.f("last_good_key")),
    )
    op.create_index(op.f("last_good_by_before"), "last_good", ["before"], unique=False)
    op.create_index(op.f("last_good_by_before_evidence"), "last_good", ["before_evidence"], unique=False)
    op.create_index(op.f("last_good_by_content"), "last_good", ["content"], unique=False)
    op.create_index(op.f("last_good_by_evidence"), "last_good", ["evidence"], unique=False)


def _refused() -> None:
    op.create_table(
        "refused",
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("trial", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("component", sa.Text(), nullable=False),
        sa.Column("slot", sa.Text(), nullable=False),
        sa.Column("release", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lifted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lifted_by", sa.Text(), nullable=True),
        sa.CheckConstraint("(lifted_at is null) = (lifted_by is null)", name="refused_lifted_by_somebody"),
        sa.ForeignKeyConstraint(["environment"], ["environment.id"], name=op.f("refused_environment_known")),
        sa.ForeignKeyConstraint(["job"], ["job.id"], name=op.f("refused_job_known")),
        sa.PrimaryKeyConstraint("environment", "trial", name=op.f("refused_key")),
    )
    op.create_index(op.f("refused_by_job"), "refused", ["job"], unique=False)


def _task() -> None:
    op.create_table(
        "task",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("wave", sa.BigInteger(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("intent", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), server_default="", nullable=False),
        sa.Column("receipt", sa.Text(), nullable=True),
        sa.Column("evidence", sa.Text(), nullable=True),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("direction in ('back', 'forward')", name="task_direction_listed"),
        sa.CheckConstraint(
            "state in ('cancelled', 'dispatched', 'failed', 'lost', 'pending', 'queued', 'retrying', "
            "'running', 'skipped', 'succeeded', 'verifying')",
            name="task_state_listed",
        ),
        sa.ForeignKeyConstraint(["evidence"], ["evidence.id"], name=op.f("task_evidence_known")),
        sa.ForeignKeyConstraint(["job"], ["job.id"], name=op.f("task_job_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("task_key")),
        sa.UniqueConstraint("job", "number", name="task_number_once"),
        sa.UniqueConstraint("key", name="task_key_once"),
    )
    op.create_index(op.f("task_by_evidence"), "task", ["evidence"], unique=False)


def _progress() -> None:
    op.create_table(
        "progress",
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("component", sa.Text(), nullable=False),
        sa.Column("slot", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["task"], ["task.id"], name=op.f("progress_task_known")),
        sa.PrimaryKeyConstraint("task", "number", name=op.f("progress_key")),
    )
