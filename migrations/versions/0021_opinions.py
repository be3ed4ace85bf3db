"""Reviewers may disagree: each one's opinion, what counts, and who settled it; bulks can be undone; saved views.

What counted before goes on counting: of each sample the verdict that was said last, as the opinion of who said it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

NOW = sa.text("now()")
ONE_ACTOR = "num_nonnulls(key_id, user_id) = 1"
KINDS = "verdict IN ('confirmed','rejected','unsure')"
OUTCOMES = "IN ('confirmed','rejected','unsure','disputed')"

VIEW = """
    CREATE OR REPLACE VIEW bi.review_precision AS
    SELECT audits.workspace_id, audits.id AS audit_id, (audits.summary ->> 'flagged')::bigint AS flagged,
        count(verdicts.verdict) AS reviewed,
        count(*) FILTER (WHERE verdicts.verdict = 'confirmed') AS confirmed,
        count(*) FILTER (WHERE verdicts.verdict = 'rejected') AS rejected,
        count(*) FILTER (WHERE verdicts.verdict = 'unsure') AS unsure,
        count(*) FILTER (WHERE verdicts.verdict = 'confirmed')::double precision
            / nullif(count(*) FILTER (WHERE verdicts.verdict IN ('confirmed', 'rejected')), 0)::double precision
            AS "precision"{added}
    FROM audits
    LEFT JOIN verdicts ON verdicts.audit_id = audits.id AND verdicts.verdict IS NOT NULL AND verdicts.flagged
    WHERE audits.summary IS NOT NULL
    GROUP BY audits.workspace_id, audits.id
"""
ADDED = ", count(*) FILTER (WHERE verdicts.verdict = 'disputed') AS disputed"


def upgrade() -> None:
    op.create_table(
        "verdict_bulks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("audit_id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text()),
        sa.Column("user_id", sa.Text()),
        sa.Column("verdict", sa.Text()),
        sa.Column("note", sa.Text()),
        sa.Column("filter", JSONB(none_as_null=True), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("undone_at", sa.DateTime(timezone=True)),
        sa.Column("undone_by", sa.Text()),
        sa.Column("restored", sa.BigInteger()),
        sa.CheckConstraint(KINDS, name=op.f("ck_verdict_bulks_verdict")),
        sa.CheckConstraint(ONE_ACTOR, name=op.f("ck_verdict_bulks_said_by")),
        sa.CheckConstraint("(undone_at IS NULL) = (restored IS NULL)", name=op.f("ck_verdict_bulks_undone")),
        sa.ForeignKeyConstraint(
            ["workspace_id", "audit_id"],
            ["audit_data.workspace_id", "audit_data.audit_id"],
            name=op.f("fk_verdict_bulks_workspace_id_audit_data"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_verdict_bulks")),
    )
    op.create_index("ix_verdict_bulks_audit", "verdict_bulks", ["audit_id", "id"])

    for name, kind in (
        ("outcome", sa.Text()),
        ("settled_by", sa.Text()),
        ("replaces", sa.Integer()),
        ("bulk_id", sa.Text()),
        ("restores", sa.Integer()),
    ):
        op.add_column("verdict_changes", sa.Column(name, kind))
    op.execute("UPDATE verdict_changes SET outcome = verdict WHERE verdict IS NOT NULL")
    op.create_check_constraint(op.f("ck_verdict_changes_outcome"), "verdict_changes", f"outcome {OUTCOMES}")
    op.create_check_constraint(
        op.f("ck_verdict_changes_restores"), "verdict_changes", "restores IS NULL OR bulk_id IS NOT NULL"
    )
    op.create_foreign_key(
        op.f("fk_verdict_changes_bulk_id_verdict_bulks"), "verdict_changes", "verdict_bulks", ["bulk_id"], ["id"]
    )
    op.create_index(
        "ix_verdict_changes_bulk",
        "verdict_changes",
        ["bulk_id", "row"],
        postgresql_where=sa.text("bulk_id IS NOT NULL"),
    )

    op.add_column("verdicts", sa.Column("settled_by", sa.Text()))
    op.drop_constraint(op.f("ck_verdicts_verdict"), "verdicts", type_="check")
    op.create_check_constraint(op.f("ck_verdicts_verdict"), "verdicts", f"verdict {OUTCOMES}")

    op.create_table(
        "opinions",
        sa.Column("audit_id", sa.Text(), nullable=False),
        sa.Column("row", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("reviewer_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.CheckConstraint(KINDS, name=op.f("ck_opinions_verdict")),
        sa.PrimaryKeyConstraint("audit_id", "row", "reviewer_id", name=op.f("pk_opinions")),
    )
    op.execute(
        'INSERT INTO opinions (audit_id, "row", reviewer_id, revision, verdict) '
        'SELECT audit_id, "row", coalesce(said.key_id, said.user_id), revision, verdict FROM verdicts '
        'JOIN verdict_changes AS said USING (audit_id, "row", revision, verdict)'
    )
    op.create_foreign_key(
        "fk_opinions_verdict_changes",
        "opinions",
        "verdict_changes",
        ["audit_id", "row", "revision"],
        ["audit_id", "row", "revision"],
    )
    op.create_index("ix_opinions_reviewer", "opinions", ["audit_id", "reviewer_id", "row"])

    op.create_table(
        "saved_views",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text()),
        sa.Column("user_id", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_saved_views_workspace_id_workspaces")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_saved_views")),
        sa.UniqueConstraint("workspace_id", "name", name=op.f("uq_saved_views_workspace_id_name")),
        sa.CheckConstraint(ONE_ACTOR, name=op.f("ck_saved_views_saved_by")),
    )
    op.execute(VIEW.format(added=ADDED))


def downgrade() -> None:
    """What is disputed has no verdict then: who looks at it again decides anew."""
    op.execute("DROP VIEW bi.review_precision")
    op.execute(VIEW.format(added=""))
    op.execute("GRANT SELECT ON bi.review_precision TO finetooth_bi")
    op.drop_table("saved_views")
    op.drop_table("opinions")
    op.execute("UPDATE verdicts SET verdict = NULL WHERE verdict = 'disputed'")
    op.drop_constraint(op.f("ck_verdicts_verdict"), "verdicts", type_="check")
    op.create_check_constraint(op.f("ck_verdicts_verdict"), "verdicts", KINDS)
    op.drop_column("verdicts", "settled_by")
    op.drop_index("ix_verdict_changes_bulk", "verdict_changes")
    op.drop_constraint(op.f("fk_verdict_changes_bulk_id_verdict_bulks"), "verdict_changes", type_="foreignkey")
    op.drop_constraint(op.f("ck_verdict_changes_restores"), "verdict_changes", type_="check")
    for name in ("restores", "bulk_id", "replaces", "settled_by", "outcome"):
        op.drop_column("verdict_changes", name)
    op.drop_table("verdict_bulks")
