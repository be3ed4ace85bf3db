"""Datasets may be JSONL, JSON, CSV or Parquet, compressed with zstd too, mapped, and say what was noticed in them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

FORMATS = "'messages','alpaca','sharegpt','prompt_completion'"


def upgrade() -> None:
    op.add_column("datasets", sa.Column("container", sa.Text(), server_default="jsonl", nullable=False))
    op.add_column("datasets", sa.Column("notices", JSONB(none_as_null=True), nullable=True))
    op.create_check_constraint(
        op.f("ck_datasets_container"), "datasets", "container IN ('jsonl','json','csv','parquet')"
    )
    op.drop_constraint(op.f("ck_datasets_format"), "datasets")
    op.create_check_constraint(op.f("ck_datasets_format"), "datasets", f"format IN ({FORMATS},'mapped')")
    op.drop_constraint(op.f("ck_datasets_encoding"), "datasets")
    op.create_check_constraint(op.f("ck_datasets_encoding"), "datasets", "encoding IN ('identity','gzip','zstd')")


def downgrade() -> None:
    op.drop_constraint(op.f("ck_datasets_encoding"), "datasets")
    op.create_check_constraint(op.f("ck_datasets_encoding"), "datasets", "encoding IN ('identity','gzip')")
    op.drop_constraint(op.f("ck_datasets_format"), "datasets")
    op.create_check_constraint(op.f("ck_datasets_format"), "datasets", f"format IN ({FORMATS})")
    op.drop_constraint(op.f("ck_datasets_container"), "datasets")
    op.drop_column("datasets", "notices")
    op.drop_column("datasets", "container")
