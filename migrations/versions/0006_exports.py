"""Work of the io lane: exports of an audit's samples and scores, and the near-duplicates of a dataset."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

NOW = sa.text("now()")


def upgrade() -> None:
    op.drop_constraint(op.f("ck_jobs_kind"), "jobs", type_="check")
    op.create_check_constraint(op.f("ck_jobs_kind"), "jobs", "kind IN ('audit','export','dataset')")
    op.add_column("datasets", sa.Column("near_duplicates", postgresql.JSONB(none_as_null=True), nullable=True))
    op.create_table(
        "exports",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("audit_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("filter", sa.Text(), nullable=True),
        sa.Column("max_q", sa.Double(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("progress_done", sa.BigInteger(), nullable=True),
        sa.Column("progress_total", sa.BigInteger(), nullable=True),
        sa.Column("progress_unit", sa.Text(), nullable=True),
        sa.Column("eta_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("progressed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("published_attempt", sa.Integer(), nullable=True),
        sa.Column("rows", sa.BigInteger(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.CheckConstraint("kind IN ('cleaned','flagged','scores')", name=op.f("ck_exports_kind")),
        sa.CheckConstraint("format IN ('jsonl','csv','parquet')", name=op.f("ck_exports_format")),
        sa.CheckConstraint("filter IN ('flagged','confirmed','not_rejected')", name=op.f("ck_exports_filter")),
        sa.CheckConstraint("(kind = 'scores') = (filter IS NULL)", name=op.f("ck_exports_filtered")),
        sa.CheckConstraint("max_q > 0 AND max_q < 1", name=op.f("ck_exports_max_q")),
        sa.CheckConstraint(
            "num_nulls(published_attempt, rows, bytes, sha256) IN (0, 4)", name=op.f("ck_exports_published")
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id", "audit_id"],
            ["audits.workspace_id", "audits.id"],
            name=op.f("fk_exports_workspace_id_audits"),
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id", "job_id"], ["jobs.workspace_id", "jobs.id"], name=op.f("fk_exports_workspace_id_jobs")
        ),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_exports_workspace_id_workspaces")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exports")),
        sa.UniqueConstraint("job_id", name=op.f("uq_exports_job_id")),
        sa.UniqueConstraint("workspace_id", "id", name=op.f("uq_exports_workspace_id_id")),
    )
    op.create_index("ix_exports_audit", "exports", ["workspace_id", "audit_id"])


def downgrade() -> None:
    op.drop_table("exports")
    op.drop_column("datasets", "near_duplicates")
    op.execute("DELETE FROM jobs WHERE kind <> 'audit'")
    op.drop_constraint(op.f("ck_jobs_kind"), "jobs", type_="check")
    op.create_check_constraint(op.f("ck_jobs_kind"), "jobs", "kind IN ('audit')")
