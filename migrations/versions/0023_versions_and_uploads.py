"""Datasets that replace others, with what has changed, and uploads that come in parts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

KINDS = "kind IN ('audit','export','dataset','version')"
KINDS_BEFORE = "kind IN ('audit','export','dataset')"


def upgrade() -> None:
    op.add_column("datasets", sa.Column("replaces_id", sa.Text()))
    op.add_column("datasets", sa.Column("changes", postgresql.JSONB(none_as_null=True)))
    op.create_foreign_key(
        op.f("fk_datasets_workspace_id_datasets"),
        "datasets",
        "datasets",
        ["workspace_id", "replaces_id"],
        ["workspace_id", "id"],
    )
    op.create_unique_constraint(op.f("uq_datasets_replaces_id"), "datasets", ["replaces_id"])
    op.drop_constraint(op.f("ck_jobs_kind"), "jobs")
    op.create_check_constraint(op.f("ck_jobs_kind"), "jobs", KINDS)
    op.create_table(
        "uploads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text()),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("received", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("parts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finishing_until", sa.DateTime(timezone=True)),
        sa.Column("refusal", postgresql.JSONB(none_as_null=True)),
        sa.Column("dataset_id", sa.Text()),
        sa.CheckConstraint("received BETWEEN 0 AND bytes", name=op.f("ck_uploads_received")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("fk_uploads_workspace_id_workspaces")),
        sa.ForeignKeyConstraint(
            ["workspace_id", "dataset_id"],
            ["datasets.workspace_id", "datasets.id"],
            name=op.f("fk_uploads_workspace_id_datasets"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
        sa.UniqueConstraint("workspace_id", "id", name=op.f("uq_uploads_workspace_id_id")),
    )
    op.create_index(op.f("ix_uploads_expires_at"), "uploads", ["expires_at"])
    op.create_index(op.f("ix_uploads_dataset_id"), "uploads", ["dataset_id"])
    op.create_table(
        "upload_parts",
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("upload_id", sa.Text(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id", "upload_id"],
            ["uploads.workspace_id", "uploads.id"],
            name=op.f("fk_upload_parts_workspace_id_uploads"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("upload_id", "start", name=op.f("pk_upload_parts")),
    )


def downgrade() -> None:
    op.drop_table("upload_parts")
    op.drop_table("uploads")
    op.execute("DELETE FROM jobs WHERE kind = 'version'")
    op.drop_constraint(op.f("ck_jobs_kind"), "jobs")
    op.create_check_constraint(op.f("ck_jobs_kind"), "jobs", KINDS_BEFORE)
    op.drop_constraint(op.f("uq_datasets_replaces_id"), "datasets")
    op.drop_constraint(op.f("fk_datasets_workspace_id_datasets"), "datasets")
    op.drop_column("datasets", "changes")
    op.drop_column("datasets", "replaces_id")
