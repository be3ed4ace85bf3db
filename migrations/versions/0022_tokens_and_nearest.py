"""Which tokens of a finding carry its influence, and which samples are nearest to it. Older audits do not know."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Columns without a default change no row that is there."""
    for name in ("tokens", "nearest"):
        op.add_column("findings", sa.Column(name, postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    for name in ("nearest", "tokens"):
        op.drop_column("findings", name)
