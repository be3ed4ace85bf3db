"""Workspaces take turns by rows of their own, and have limits of their own; audits have a priority.

What the service deletes by itself stands in the audit log without a key or a person.
"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Every job has the priority `normal`, and workspaces go on taking turns where they were."""
    op.add_column("jobs", sa.Column("priority", sa.SmallInteger(), server_default="1", nullable=False))
    op.create_check_constraint(op.f("ck_jobs_priority"), "jobs", "priority IN (0, 1, 2)")
    op.drop_index("ix_jobs_due", "jobs")
    op.create_index(
        "ix_jobs_queued",
        "jobs",
        ["lane", "workspace_id", "priority", "next_attempt_at", "id"],
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "ix_jobs_succeeded", "jobs", ["lane", "finished_at"], postgresql_where=sa.text("state = 'succeeded'")
    )
    op.add_column("workspaces", sa.Column("max_queued_audits", sa.Integer()))
    op.add_column("workspaces", sa.Column("max_running_audits", sa.Integer()))
    op.add_column("workspaces", sa.Column("max_bytes", sa.BigInteger()))
    op.add_column("audit_steps", sa.Column("bytes", sa.BigInteger()))
    op.create_check_constraint(
        op.f("ck_workspaces_limits"),
        "workspaces",
        "max_queued_audits > 0 AND max_running_audits > 0 AND max_bytes > 0",
    )
    op.drop_constraint(op.f("ck_audit_log_made_by"), "audit_log")
    op.create_check_constraint(op.f("ck_audit_log_made_by"), "audit_log", "num_nonnulls(key_id, user_id) <= 1")
    op.create_table(
        "turns",
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("served_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("lane IN ('gpu','io')", name=op.f("ck_turns_lane")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_turns_workspace_id_workspaces")),
        sa.PrimaryKeyConstraint("lane", "workspace_id", name=op.f("pk_turns")),
    )
    op.execute(
        "INSERT INTO turns SELECT lane, workspace_id, max(started_at) FROM jobs "
        "WHERE started_at IS NOT NULL GROUP BY lane, workspace_id"
    )


def downgrade() -> None:
    """Turns are read from the jobs again, and limits are the same for all workspaces."""
    op.execute("SELECT set_config('finetooth.audit_log_sweep', 'on', true)")
    op.execute("DELETE FROM audit_log WHERE key_id IS NULL AND user_id IS NULL")
    op.execute("SELECT set_config('finetooth.audit_log_sweep', 'off', true)")
    op.drop_constraint(op.f("ck_audit_log_made_by"), "audit_log")
    op.create_check_constraint(op.f("ck_audit_log_made_by"), "audit_log", "num_nonnulls(key_id, user_id) = 1")
    op.drop_table("turns")
    op.drop_column("audit_steps", "bytes")
    op.drop_constraint(op.f("ck_workspaces_limits"), "workspaces")
    for limit in ("max_queued_audits", "max_running_audits", "max_bytes"):
        op.drop_column("workspaces", limit)
    op.drop_index("ix_jobs_succeeded", "jobs")
    op.drop_index("ix_jobs_queued", "jobs")
    op.create_index(
        "ix_jobs_due", "jobs", ["lane", "next_attempt_at", "id"], postgresql_where=sa.text("state = 'queued'")
    )
    op.drop_constraint(op.f("ck_jobs_priority"), "jobs")
    op.drop_column("jobs", "priority")
