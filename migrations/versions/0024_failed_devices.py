"""Workers say that their device has failed."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing is known of the workers that live now."""
    op.add_column("workers", sa.Column("device_failed_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Older workers take jobs whatever their device does."""
    op.drop_column("workers", "device_failed_at")
