"""People beside keys: users, what they are in which workspace, and who did what."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

NOW = sa.text("now()")
ONE_OF_BOTH = "num_nonnulls(key_id, user_id) = 1"
DONE_BY = {"verdicts": "said_by", "verdict_changes": "said_by", "audit_log": "made_by", "browser_sessions": "owner"}
"""Tables of which every row belongs to a key or a person, and the name of the CHECK that says so."""

VERDICTS = """
    CREATE OR REPLACE VIEW bi.verdicts AS
    SELECT workspace_id, audit_id, "row", rank, flagged, verdict, decided_at, key_id, revision{added}
    FROM verdicts
    WHERE verdict IS NOT NULL AND EXISTS (SELECT FROM audits WHERE audits.id = verdicts.audit_id)
"""


def upgrade() -> None:
    """Everything so far was done with keys. Answers under an Idempotency-Key stay those of their API keys."""
    op.create_table(
        "users",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("issuer", sa.Text()),
        sa.Column("subject", sa.Text()),
        sa.Column("email", sa.Text()),
        sa.Column("email_verified", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("name", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("last_sign_in_at", sa.DateTime(timezone=True)),
        sa.Column("disabled_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("issuer", "subject", name=op.f("uq_users_issuer_subject")),
        sa.CheckConstraint("(issuer IS NULL) = (subject IS NULL)", name=op.f("ck_users_identity")),
        sa.CheckConstraint("subject IS NOT NULL OR email IS NOT NULL", name=op.f("ck_users_known")),
    )
    op.create_index("ix_users_email", "users", ["email"])
    op.create_index("uq_users_invited", "users", ["email"], unique=True, postgresql_where=sa.text("subject IS NULL"))
    op.create_table(
        "memberships",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("given_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_memberships")),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_memberships_workspace_id_workspaces")
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_memberships_user_id_users"), ondelete="CASCADE"
        ),
        sa.UniqueConstraint("workspace_id", "user_id", name=op.f("uq_memberships_workspace_id_user_id")),
        sa.CheckConstraint("role IN ('viewer','reviewer','editor','admin')", name=op.f("ck_memberships_role")),
        sa.CheckConstraint("given_by IN ('settings','admin')", name=op.f("ck_memberships_given_by")),
    )
    op.create_index(op.f("ix_memberships_user_id"), "memberships", ["user_id"])
    for table, check in DONE_BY.items():
        op.alter_column(table, "key_id", nullable=True)
        op.add_column(table, sa.Column("user_id", sa.Text()))
        op.create_check_constraint(op.f(f"ck_{table}_{check}"), table, ONE_OF_BOTH)
    op.create_foreign_key(
        op.f("fk_browser_sessions_user_id_users"), "browser_sessions", "users", ["user_id"], ["id"], ondelete="CASCADE"
    )
    op.create_index(op.f("ix_browser_sessions_user_id"), "browser_sessions", ["user_id"])
    op.add_column("audit_log", sa.Column("user_name", sa.Text()))
    for table in ("audits", "exports"):
        op.add_column(table, sa.Column("key_id", sa.Text()))
        op.add_column(table, sa.Column("user_id", sa.Text()))
    op.drop_constraint(op.f("fk_idempotency_records_key_id_api_keys"), "idempotency_records", type_="foreignkey")
    _rename_in_key("key_id", "actor_id")
    op.execute(VERDICTS.format(added=", user_id"))


def downgrade() -> None:
    """People and their sessions go. What they said and did stays, with a person's id where a key's would be."""
    op.execute("DROP VIEW bi.verdicts")
    op.execute("DELETE FROM idempotency_records WHERE actor_id NOT IN (SELECT id FROM api_keys)")
    _rename_in_key("actor_id", "key_id")
    op.create_foreign_key(
        op.f("fk_idempotency_records_key_id_api_keys"),
        "idempotency_records",
        "api_keys",
        ["key_id"],
        ["id"],
        ondelete="CASCADE",
    )
    for table in ("audits", "exports"):
        op.drop_column(table, "user_id")
        op.drop_column(table, "key_id")
    op.execute("DELETE FROM browser_sessions WHERE key_id IS NULL")
    op.execute("ALTER TABLE audit_log DISABLE TRIGGER append_only")
    op.execute("UPDATE audit_log SET key_name = user_name WHERE key_id IS NULL")
    for table, check in DONE_BY.items():
        op.drop_constraint(op.f(f"ck_{table}_{check}"), table, type_="check")
        op.execute(f"UPDATE {table} SET key_id = user_id WHERE key_id IS NULL")  # noqa: S608  # names of ours
        op.drop_column(table, "user_id")
        op.alter_column(table, "key_id", nullable=False)
    op.execute("ALTER TABLE audit_log ENABLE TRIGGER append_only")
    op.drop_column("audit_log", "user_name")
    op.execute(VERDICTS.format(added=""))
    op.execute("GRANT SELECT ON bi.verdicts TO finetooth_bi")
    op.drop_table("memberships")
    op.drop_table("users")


def _rename_in_key(old: str, new: str) -> None:
    """Postgres 18 names the NOT NULL of a column by the column, and keeps that name: it is made anew."""
    table, key = "idempotency_records", op.f("pk_idempotency_records")
    op.drop_constraint(key, table, type_="primary")
    op.alter_column(table, old, nullable=True)
    op.alter_column(table, old, new_column_name=new)
    op.create_primary_key(key, table, ["workspace_id", new, "key"])
