"""Workspaces can be deleted: their rows say since when and how far it is."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

TIMES = ("deletion_requested_at", "deletion_due_at", "deleted_at")
COUNTS = ("deletion_done", "deletion_total")


def upgrade() -> None:
    """No workspace is being deleted."""
    for name in TIMES:
        op.add_column("workspaces", sa.Column(name, sa.DateTime(timezone=True)))
    op.add_column("workspaces", sa.Column("deletion_stage", sa.Text()))
    for name in COUNTS:
        op.add_column("workspaces", sa.Column(name, sa.BigInteger()))
    op.create_check_constraint(
        op.f("ck_workspaces_deletion"),
        "workspaces",
        "deletion_requested_at IS NOT NULL OR num_nonnulls(deletion_due_at, deleted_at, deletion_stage, "
        "deletion_done, deletion_total) = 0",
    )
    op.create_check_constraint(
        op.f("ck_workspaces_deletion_stage"), "workspaces", "deletion_stage IN ('stopping','deleting','clearing')"
    )


def downgrade() -> None:
    """A workspace that is being deleted keeps what it still has, without keys and people."""
    op.drop_constraint(op.f("ck_workspaces_deletion_stage"), "workspaces")
    op.drop_constraint(op.f("ck_workspaces_deletion"), "workspaces")
    for name in (*TIMES, "deletion_stage", *COUNTS):
        op.drop_column("workspaces", name)
