"""Sources, documents that the database owns, deliveries of webhooks, and statuses on their way to a forge."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0006"
down_revision: Final = "0005"


def upgrade() -> None:
    op.add_column("environment", sa.Column("source", sa.Text(), server_default="", nullable=False))
    _source()
    _document()
    _delivery()
    _commit_status()


def _source() -> None:
    op.create_table(
        "source",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=True),
        sa.Column("allowed", sa.Text(), nullable=True),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("signer", sa.Text(), nullable=True),
        sa.Column("fault", sa.Text(), nullable=True),
        sa.Column("fault_message", sa.Text(), nullable=True),
        sa.Column("fault_revision", sa.Text(), nullable=True),
        sa.Column("fault_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(revision is null) = (accepted_at is null)", name="source_accepted_at"),
        sa.CheckConstraint(
            "(fault is null) = (fault_message is null) and (fault is null) = (fault_at is null)",
            name="source_fault_said",
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("source_key")),
    )


def _document() -> None:
    op.create_table(
        "document",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("written_by", sa.Text(), nullable=False),
        sa.Column("written_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("length(written_by) > 0", name="document_written_by_said"),
        sa.PrimaryKeyConstraint("kind", "project", "name", name=op.f("document_key")),
    )
    op.create_table(
        "document_set",
        sa.Column("one", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("one = 1", name="document_set_one"),
        sa.PrimaryKeyConstraint("one", name=op.f("document_set_key")),
    )


def _delivery() -> None:
    op.create_table(
        "delivery",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("source", "id", name=op.f("delivery_key")),
    )
    op.create_index("delivery_by_age", "delivery", ["seen_at"], unique=False)


def _commit_status() -> None:
    op.create_table(
        "commit_status",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("context", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("says", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent", sa.Text(), nullable=True),
        sa.Column("attempts", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("again_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("source", "revision", "context", name=op.f("commit_status_key")),
    )
    op.create_index("commit_status_by_age", "commit_status", ["changed_at"], unique=False)
