"""What each view says of a sample, and how likely it is of each kind. Audits from before have none of it."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

COLUMNS = ("z_gradient", "z_representation", "probability_unwanted", "probability_fair")


def upgrade() -> None:
    """Columns without a default change no row that is there."""
    for name in COLUMNS:
        op.add_column("scores", sa.Column(name, sa.REAL(), nullable=True))


def downgrade() -> None:
    """Drop them."""
    for name in COLUMNS:
        op.drop_column("scores", name)
