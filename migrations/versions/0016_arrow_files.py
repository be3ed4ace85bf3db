"""Datasets may be Arrow files."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

TEXTS_AND_PARQUET = "'jsonl','json','csv','parquet'"


def upgrade() -> None:
    """One form more."""
    _permit(f"{TEXTS_AND_PARQUET},'arrow'")


def downgrade() -> None:
    """Refused by Postgres while there is such a dataset."""
    _permit(TEXTS_AND_PARQUET)


def _permit(containers: str) -> None:
    op.drop_constraint(op.f("ck_datasets_container"), "datasets")
    op.create_check_constraint(op.f("ck_datasets_container"), "datasets", f"container IN ({containers})")
