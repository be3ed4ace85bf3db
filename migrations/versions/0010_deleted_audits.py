"""Audits can be deleted: what may be large stands on a row that outlives them, and objects to be deleted are noted.

The new foreign keys are checked against every score: on a large database this takes minutes.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

PARENTS = {"scores": ["audit_id"], "findings": ["workspace_id", "audit_id"], "verdicts": ["workspace_id", "audit_id"]}

VERDICTS = """
    SELECT workspace_id, audit_id, "row", rank, flagged, verdict, decided_at, key_id, revision
    FROM verdicts
    WHERE verdict IS NOT NULL
"""


def upgrade() -> None:
    op.create_table(
        "audit_data",
        sa.Column("audit_id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("purge_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_audit_data_workspace_id_workspaces")
        ),
        sa.PrimaryKeyConstraint("audit_id", name=op.f("pk_audit_data")),
        sa.UniqueConstraint("workspace_id", "audit_id", name=op.f("uq_audit_data_workspace_id_audit_id")),
    )
    op.create_index("ix_audit_data_purge", "audit_data", ["purge_at"], postgresql_where=sa.text("purge_at IS NOT NULL"))
    op.create_table(
        "object_purges",
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_object_purges_workspace_id_workspaces")
        ),
        sa.PrimaryKeyConstraint("prefix", name=op.f("pk_object_purges")),
    )
    op.create_index(op.f("ix_object_purges_due_at"), "object_purges", ["due_at"])
    op.execute("INSERT INTO audit_data (audit_id, workspace_id) SELECT id, workspace_id FROM audits")
    op.create_foreign_key(
        op.f("fk_audits_workspace_id_audit_data"),
        "audits",
        "audit_data",
        ["workspace_id", "id"],
        ["workspace_id", "audit_id"],
    )
    for table, columns in PARENTS.items():
        op.drop_constraint(op.f(f"fk_{table}_{columns[0]}_audits"), table, type_="foreignkey")
        op.create_foreign_key(op.f(f"fk_{table}_{columns[0]}_audit_data"), table, "audit_data", columns, columns)
    op.execute(
        f"CREATE OR REPLACE VIEW bi.verdicts AS {VERDICTS} "
        "AND EXISTS (SELECT FROM audits WHERE audits.id = verdicts.audit_id)"
    )


def downgrade() -> None:
    op.execute(f"CREATE OR REPLACE VIEW bi.verdicts AS {VERDICTS}")
    for table in ("verdict_changes", *PARENTS):
        op.execute(f"DELETE FROM {table} WHERE audit_id NOT IN (SELECT id FROM audits)")  # noqa: S608  # our own names
    for table, columns in PARENTS.items():
        op.drop_constraint(op.f(f"fk_{table}_{columns[0]}_audit_data"), table, type_="foreignkey")
        op.create_foreign_key(
            op.f(f"fk_{table}_{columns[0]}_audits"),
            table,
            "audits",
            columns,
            [column.removeprefix("audit_") for column in columns],
        )
    op.drop_constraint(op.f("fk_audits_workspace_id_audit_data"), "audits", type_="foreignkey")
    op.drop_table("object_purges")
    op.drop_table("audit_data")
