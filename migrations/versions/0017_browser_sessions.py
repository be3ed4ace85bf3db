"""Browser sessions have an id, by which they are listed and ended, and say when they were last used."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Who is signed in stays so: the ids of sessions that exist follow their age, as those of new ones do."""
    op.add_column("browser_sessions", sa.Column("id", sa.Text()))
    op.add_column("browser_sessions", sa.Column("last_used_at", sa.DateTime(timezone=True)))
    op.execute(
        "UPDATE browser_sessions SET id = 'ses_' || "
        "lpad(to_hex((extract(epoch FROM created_at) * 1000)::bigint), 12, '0') || "
        "right(replace(gen_random_uuid()::text, '-', ''), 20)"
    )
    op.alter_column("browser_sessions", "id", nullable=False)
    op.create_unique_constraint(op.f("uq_browser_sessions_id"), "browser_sessions", ["id"])


def downgrade() -> None:
    """Who is signed in stays so."""
    op.drop_column("browser_sessions", "last_used_at")
    op.drop_column("browser_sessions", "id")
