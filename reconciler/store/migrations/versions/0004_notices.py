"""What people elsewhere are told, and which channel has heard it."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from reconciler.store.columns import Serial

revision: Final = "0004"
down_revision: Final = "0003"


def upgrade() -> None:
    op.create_table(
        "notice",
        sa.Column("number", Serial, autoincrement=True, nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["environment"], ["environment.id"], name=op.f("notice_environment_known")),
        sa.PrimaryKeyConstraint("number", name=op.f("notice_key")),
    )
    unclosed: sa.ColumnElement[bool] = sa.literal_column("closed_at is null")
    op.create_index(
        "one_open_notice",
        "notice",
        ["environment", "kind", "subject"],
        unique=True,
        sqlite_where=unclosed,
        postgresql_where=unclosed,
    )
    op.create_table(
        "telling",
        sa.Column("notice", Serial, nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("told", sa.DateTime(timezone=True), nullable=True),
        sa.Column("told_over", sa.DateTime(timezone=True), nullable=True),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failures", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["notice"], ["notice.number"], name=op.f("telling_notice_known")),
        sa.PrimaryKeyConstraint("notice", "channel", name=op.f("telling_key")),
    )
