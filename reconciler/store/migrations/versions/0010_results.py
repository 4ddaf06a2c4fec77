"""What agents say of their tasks is kept among the signed statements."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from reconciler.store import rules

revision: Final = "0010"
down_revision: Final = "0009"

LISTED: Final = "evidence_kind_listed"
KINDS: Final = "kind in ('action', 'evidence', 'result', 'sticker')"


def upgrade() -> None:
    """SQLite has no other way than to make the table anew; the rules that hung on it are laid again."""
    with op.batch_alter_table("evidence") as batch:
        batch.drop_constraint(LISTED, type_="check")
        batch.create_check_constraint(LISTED, sa.text(KINDS))
    rules.install(op.get_bind())
