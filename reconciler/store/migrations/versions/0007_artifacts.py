"""Rendered files of jobs: which there were, each body by its content."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from reconciler.store import rules

revision: Final = "0007"
down_revision: Final = "0006"

RULES: Final = "sha256:8f4385c07dca1ddf3422f90f0e3aab2add930ee80f02d40105d4cd7069c714ac"


def upgrade() -> None:
    op.create_table(
        "artifact",
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("component", sa.Text(), nullable=False),
        sa.Column("slot", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=True),
        sa.Column("configuration", sa.Text(), nullable=True),
        sa.Column("placement", sa.Text(), nullable=True),
        sa.Column("kept_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("direction in ('back', 'forward')", name="artifact_direction_listed"),
        sa.CheckConstraint(
            "kind in ('compose-file', 'compose-lock', 'env-file', 'manifest', 'nginx-config', 'systemd-unit')",
            name="artifact_kind_listed",
        ),
        sa.CheckConstraint(
            "(artifact is null) = (placement is null) and (configuration is null) = (placement is null)",
            name="artifact_of_placement",
        ),
        sa.ForeignKeyConstraint(["environment"], ["environment.id"], name=op.f("artifact_environment_known")),
        sa.ForeignKeyConstraint(["content"], ["content.digest"], name=op.f("artifact_content_known")),
        sa.ForeignKeyConstraint(["placement"], ["content.digest"], name=op.f("artifact_placement_known")),
        sa.PrimaryKeyConstraint("job", "direction", "target", "name", "component", "slot", name=op.f("artifact_key")),
    )
    op.create_index(op.f("artifact_by_content"), "artifact", ["content"], unique=False)
    op.create_index(op.f("artifact_by_placement"), "artifact", ["placement"], unique=False)
    op.create_index("artifact_by_place", "artifact", ["environment", "target", "component", "slot"], unique=False)
    rules.install(op.get_bind())
