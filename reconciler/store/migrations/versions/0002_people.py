"""People, their grants, tokens and sessions; and the audit log."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from reconciler.store import rules

revision: Final = "0002"
down_revision: Final = "0001"

RULES: Final = "sha256:2f8d0818615c5cd02eb09e101f6178f6b7d3a7479f11608ac10135f5fdb5538b"


def upgrade() -> None:
    _audit()
    _person()
    _granted()
    _token()
    _session()
    rules.install(op.get_bind())


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("chain", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("prev", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.CheckConstraint("seq > 0", name="audit_counted"),
        sa.CheckConstraint("length(actor) > 0", name="audit_actor_said"),
        sa.CheckConstraint("length(action) > 0", name="audit_action_said"),
        sa.PrimaryKeyConstraint("chain", "seq", name=op.f("audit_key")),
        sa.UniqueConstraint("chain", "prev", name="audit_follows_once"),
    )
    op.create_index("audit_by_age", "audit", ["at", "chain", "seq"])


def _person() -> None:
    op.create_table(
        "person",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("password", sa.Text(), nullable=True),
        sa.Column("issuer", sa.Text(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("groups", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(issuer is null) = (subject is null)", name="person_identity_whole"),
        sa.CheckConstraint("(password is null) <> (issuer is null)", name="person_known_one_way"),
        sa.PrimaryKeyConstraint("id", name=op.f("person_key")),
        sa.UniqueConstraint("name", name="person_name_once"),
        sa.UniqueConstraint("issuer", "subject", name="person_identity_once"),
    )


def _granted() -> None:
    op.create_table(
        "granted",
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("granted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("granted_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("holder", "what", "place", name=op.f("granted_key")),
    )


def _token() -> None:
    op.create_table(
        "token",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=True),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_by", sa.Text(), nullable=True),
        sa.CheckConstraint("(revoked_at is null) = (revoked_by is null)", name="token_revoked_by_somebody"),
        sa.CheckConstraint("expires_at > created_at", name="token_expires"),
        sa.ForeignKeyConstraint(["person"], ["person.id"], name=op.f("token_person_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("token_key")),
    )
    op.create_index(op.f("token_by_person"), "token", ["person"])


def _session() -> None:
    op.create_table(
        "session",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["person"], ["person.id"], name=op.f("session_person_known")),
        sa.PrimaryKeyConstraint("hash", name=op.f("session_key")),
    )
    op.create_index(op.f("session_by_person"), "session", ["person"])
    op.create_index("session_by_end", "session", ["ends_at"])
