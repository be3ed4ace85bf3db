"""Leases and failures of jobs, the workers that are alive, and who looks after both.

A job that a worker holds gets a lease that has run out: workers of the earlier version renew none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NOW = sa.text("now()")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("failures", sa.Integer(), server_default="0", nullable=False))
    op.execute("UPDATE jobs SET lease_expires_at = now() WHERE state IN ('running','cancelling')")
    op.create_check_constraint(
        op.f("ck_jobs_lease"), "jobs", "(state IN ('running','cancelling')) = (lease_expires_at IS NOT NULL)"
    )
    op.create_index(
        "ix_jobs_lease", "jobs", ["lease_expires_at"], postgresql_where=sa.text("lease_expires_at IS NOT NULL")
    )
    op.create_table(
        "workers",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.CheckConstraint("lane IN ('gpu','io')", name=op.f("ck_workers_lane")),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_workers")),
    )
    op.create_table(
        "scheduler",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_scheduler_one")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scheduler")),
    )


def downgrade() -> None:
    op.drop_table("scheduler")
    op.drop_table("workers")
    op.drop_index("ix_jobs_lease", "jobs")
    op.drop_constraint(op.f("ck_jobs_lease"), "jobs", type_="check")
    op.drop_column("jobs", "failures")
    op.drop_column("jobs", "lease_expires_at")
