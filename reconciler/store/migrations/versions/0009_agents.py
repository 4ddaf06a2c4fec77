"""Agents: what they are called, who they are by which certificate, what they serve, and who issues all that."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from reconciler.store import rules

revision: Final = "0009"
down_revision: Final = "0008"

RULES: Final = "sha256:52e03a86d11148d96e08c641076b61f308053e4c2946c50759eab1e8b0f882f6"


def upgrade() -> None:
    _agent()
    _bound()
    _certificate()
    _invite()
    _authority()
    op.add_column("replica", sa.Column("agents", sa.Text(), server_default="", nullable=False))
    rules.install(op.get_bind())


def _agent() -> None:
    op.create_table(
        "agent",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("signing", sa.Text(), nullable=True),
        sa.Column("sealing", sa.Text(), nullable=True),
        sa.Column("former", sa.Text(), server_default="{}", nullable=False),
        sa.Column("granted", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("invited_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("invited_by", sa.Text(), nullable=False),
        sa.Column("joined_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Text(), server_default="", nullable=False),
        sa.Column("reported", sa.Text(), nullable=False),
        sa.Column("heard_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("queue", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("way", sa.Text(), server_default="", nullable=False),
        sa.Column("peer", sa.Text(), server_default="", nullable=False),
        sa.Column("server", sa.Text(), server_default="", nullable=False),
        sa.CheckConstraint(
            "state in ('active', 'draining', 'invited', 'locked', 'removed')", name="agent_state_listed"
        ),
        sa.CheckConstraint("length(invited_by) > 0", name="agent_invited_by_said"),
        sa.CheckConstraint("(signing is null) = (sealing is null)", name="agent_keys_whole"),
        sa.CheckConstraint("state not in ('active', 'draining') or signing is not null", name="agent_active_has_keys"),
        sa.PrimaryKeyConstraint("name", name=op.f("agent_key")),
        sa.UniqueConstraint("signing", name="agent_signing_once"),
    )
    op.create_index("agent_by_revision", "agent", ["revision"])


def _bound() -> None:
    op.create_table(
        "bound",
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("shared", sa.Integer(), nullable=False),
        sa.Column("holder", sa.Integer(), nullable=False),
        sa.CheckConstraint("shared in (0, 1) and holder in (0, 1)", name="bound_yes_or_no"),
        sa.CheckConstraint("shared = 1 or holder = 1", name="bound_alone_holds"),
        sa.ForeignKeyConstraint(["agent"], ["agent.name"], name=op.f("bound_agent_known")),
        sa.PrimaryKeyConstraint("agent", "target", name=op.f("bound_key")),
    )
    op.create_index("bound_by_target", "bound", ["target"])
    holds = sa.text("holder = 1")
    op.create_index("one_holder", "bound", ["target"], unique=True, sqlite_where=holds, postgresql_where=holds)


def _certificate() -> None:
    op.create_table(
        "certificate",
        sa.Column("serial", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("pem", sa.Text(), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("not_after", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["agent"], ["agent.name"], name=op.f("certificate_agent_known")),
        sa.PrimaryKeyConstraint("serial", name=op.f("certificate_key")),
        sa.UniqueConstraint("agent", "generation", name="certificate_generation_once"),
        sa.UniqueConstraint("key", name="certificate_key_once"),
    )
    op.create_index(op.f("certificate_by_agent"), "certificate", ["agent"])
    op.create_index("certificate_by_end", "certificate", ["not_after"])


def _invite() -> None:
    op.create_table(
        "invite",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("certificate", sa.Text(), nullable=True),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(used_at is null) = (certificate is null)", name="invite_used_for_one"),
        sa.ForeignKeyConstraint(["agent"], ["agent.name"], name=op.f("invite_agent_known")),
        sa.ForeignKeyConstraint(["certificate"], ["certificate.serial"], name=op.f("invite_certificate_known")),
        sa.PrimaryKeyConstraint("hash", name=op.f("invite_key")),
    )
    op.create_index(op.f("invite_by_agent"), "invite", ["agent"])
    op.create_index(op.f("invite_by_certificate"), "invite", ["certificate"])
    op.create_index("invite_by_end", "invite", ["expires_at"])


def _authority() -> None:
    op.create_table(
        "authority",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("pem", sa.Text(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("role in ('root', 'issuer')", name="authority_role_listed"),
        sa.PrimaryKeyConstraint("id", name=op.f("authority_key")),
    )
    op.create_table(
        "roll",
        sa.Column("one", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("one = 1", name="roll_one"),
        sa.PrimaryKeyConstraint("one", name=op.f("roll_key")),
    )
