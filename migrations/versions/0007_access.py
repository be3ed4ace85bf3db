"""Keys that are rotated with an overlap, names of workspaces that are one of a kind, and which pack a probe is from."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("previous_sha256", sa.LargeBinary(), nullable=True))
    op.add_column("api_keys", sa.Column("previous_expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("api_keys", sa.Column("previous_last_used_at", sa.DateTime(timezone=True), nullable=True))
    op.create_unique_constraint(op.f("uq_api_keys_previous_sha256"), "api_keys", ["previous_sha256"])
    op.create_check_constraint(
        op.f("ck_api_keys_previous"), "api_keys", "(previous_sha256 IS NULL) = (previous_expires_at IS NULL)"
    )
    op.create_unique_constraint(op.f("uq_workspaces_name"), "workspaces", ["name"])
    op.add_column("probes", sa.Column("pack", postgresql.JSONB(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("probes", "pack")
    op.drop_constraint(op.f("uq_workspaces_name"), "workspaces", type_="unique")
    op.drop_constraint(op.f("ck_api_keys_previous"), "api_keys", type_="check")
    op.drop_constraint(op.f("uq_api_keys_previous_sha256"), "api_keys", type_="unique")
    op.drop_column("api_keys", "previous_last_used_at")
    op.drop_column("api_keys", "previous_expires_at")
    op.drop_column("api_keys", "previous_sha256")
