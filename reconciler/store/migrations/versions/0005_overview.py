"""A fleet at a glance: how many placements stand how, from an index alone."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0005"
down_revision: Final = "0004"


def upgrade() -> None:
    still = sa.text("until is null")
    op.create_index(
        "open_standing_by_verdict",
        "standing",
        ["environment", "verdict", "target", "until"],
        unique=False,
        sqlite_where=still,
        postgresql_where=still,
    )
