"""Who lives, and what people ask of environments that another replica holds."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0008"
down_revision: Final = "0007"


def upgrade() -> None:
    _replica()
    _command()


def _replica() -> None:
    op.create_table(
        "replica",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("environments", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("replica_key")),
    )
    op.create_index("replica_by_end", "replica", ["until"])


def _command() -> None:
    op.create_table(
        "command",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("arguments", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.CheckConstraint("(answer is null) = (answered_at is null)", name="command_answered_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("command_key")),
    )
    unanswered = sa.text("answered_at is null")
    op.create_index(
        "command_waiting",
        "command",
        ["environment", "asked_at"],
        sqlite_where=unanswered,
        postgresql_where=unanswered,
    )
    op.create_index("command_by_end", "command", ["until"])
