"""What whoever watches is told, in its order, and the first answers to requests that carry a key."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from reconciler.store.columns import Serial, this_transaction

revision: Final = "0003"
down_revision: Final = "0002"


def upgrade() -> None:
    _event()
    _answer()


def _event() -> None:
    op.create_table(
        "event",
        sa.Column("number", Serial, autoincrement=True, nullable=False),
        sa.Column("written_by", sa.BigInteger(), server_default=this_transaction(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("event_key")),
        sqlite_autoincrement=True,
    )
    op.create_index("event_in_order", "event", ["written_by", "number"], unique=False)
    op.create_index("event_by_environment", "event", ["environment", "written_by", "number"], unique=False)
    op.create_index("event_by_job", "event", ["job", "written_by", "number"], unique=False)
    op.create_index("event_by_age", "event", ["at"], unique=False)


def _answer() -> None:
    op.create_table(
        "answer",
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("actor", "key", name=op.f("answer_key")),
    )
    op.create_index("answer_by_age", "answer", ["at"], unique=False)
