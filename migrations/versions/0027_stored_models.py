"""Base models may lie in the object store."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """No model lies there yet."""
    op.add_column("models", sa.Column("stored", postgresql.JSONB(none_as_null=True)))


def downgrade() -> None:
    """Imported models stay registered; audits of them fail, as no worker has their folder."""
    op.drop_column("models", "stored")
