"""Reviewing findings: verdicts with their history, full text, indexes for every order, and the views of `bi`.

`findings` is rewritten for its new column, and indexes are built on `scores`: on a large database this takes minutes.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TSVECTOR

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

NOW = sa.text("now()")
KINDS = "verdict IN ('confirmed','rejected','unsure')"
LIST = ["audit_id", "attempt", "probe_no"]

WORDS = """(jsonb_path_query_array(messages, '$[*]."content"'))::text"""
for escape in (r"\\", r"\n", r"\r", r"\t", r"\f", r"\b", r"\""):
    WORDS = f"replace({WORDS}, '{escape}', ' ')"
SEARCH = f"""array_to_tsvector(ARRAY[audit_id]) || to_tsvector('simple'::regconfig, "left"({WORDS}, 100000))"""

# A role belongs to the whole server: another database may have made it already, or be making it now.
CREATE_ROLE = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'finetooth_bi')
        AND (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user) THEN
        BEGIN
            CREATE ROLE finetooth_bi NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'finetooth_bi') THEN
        GRANT USAGE ON SCHEMA bi TO finetooth_bi;
        GRANT SELECT ON ALL TABLES IN SCHEMA bi TO finetooth_bi;
    END IF;
END $$
"""

VIEWS = {
    "audits": """
        SELECT audits.workspace_id, audits.id AS audit_id, jobs.state, audits.created_at, jobs.started_at,
            jobs.finished_at, audits.dataset_id, datasets.name AS dataset_name, audits.model_id,
            models.name AS model_name, audits.seeds, audits.q, (audits.summary ->> 'rows')::bigint AS samples,
            (audits.summary ->> 'rows_scored')::bigint AS samples_scored,
            (audits.summary ->> 'flagged')::bigint AS flagged
        FROM audits
        JOIN jobs ON jobs.id = audits.job_id
        JOIN datasets ON datasets.id = audits.dataset_id
        JOIN models ON models.id = audits.model_id
    """,
    "findings": """
        SELECT audits.workspace_id, scores.audit_id, scores."row", scores.rank, scores.n, scores.strongest_probe,
            scores.mu, scores.mu_low, scores.mu_high, scores.z, scores.side, scores.p, scores.q, scores.flagged,
            scores.cluster, scores."group"
        FROM audits
        JOIN scores ON scores.audit_id = audits.id AND scores.attempt = audits.published_attempt
        WHERE scores.probe_no = 0
    """,
    "verdicts": """
        SELECT workspace_id, audit_id, "row", rank, flagged, verdict, decided_at, key_id, revision
        FROM verdicts
        WHERE verdict IS NOT NULL
    """,
    "daily_flag_rate": """
        SELECT audits.workspace_id, (jobs.finished_at AT TIME ZONE 'UTC')::date AS day, count(*) AS audits,
            sum((audits.summary ->> 'rows_scored')::bigint)::bigint AS samples_scored,
            sum((audits.summary ->> 'flagged')::bigint)::bigint AS flagged,
            sum((audits.summary ->> 'flagged')::bigint)::double precision
                / nullif(sum((audits.summary ->> 'rows_scored')::bigint), 0)::double precision AS flag_rate
        FROM audits
        JOIN jobs ON jobs.id = audits.job_id
        WHERE audits.summary IS NOT NULL AND jobs.state = 'succeeded'
        GROUP BY 1, 2
    """,
    "review_precision": """
        SELECT audits.workspace_id, audits.id AS audit_id, (audits.summary ->> 'flagged')::bigint AS flagged,
            count(verdicts.verdict) AS reviewed,
            count(*) FILTER (WHERE verdicts.verdict = 'confirmed') AS confirmed,
            count(*) FILTER (WHERE verdicts.verdict = 'rejected') AS rejected,
            count(*) FILTER (WHERE verdicts.verdict = 'unsure') AS unsure,
            count(*) FILTER (WHERE verdicts.verdict = 'confirmed')::double precision
                / nullif(count(*) FILTER (WHERE verdicts.verdict IN ('confirmed', 'rejected')), 0)::double precision
                AS "precision"
        FROM audits
        LEFT JOIN verdicts ON verdicts.audit_id = audits.id AND verdicts.verdict IS NOT NULL AND verdicts.flagged
        WHERE audits.summary IS NOT NULL
        GROUP BY audits.workspace_id, audits.id
    """,
}
"""An interface: docs/bi.md. The views run with their owner's rights; who may read them may read no table."""


def upgrade() -> None:
    op.create_table(
        "verdicts",
        sa.Column("audit_id", sa.Text(), nullable=False),
        sa.Column("row", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("rank", sa.BigInteger(), nullable=False),
        sa.Column("flagged", sa.Boolean(), nullable=False),
        sa.CheckConstraint(KINDS, name=op.f("ck_verdicts_verdict")),
        sa.CheckConstraint("revision >= 0", name=op.f("ck_verdicts_revision")),
        sa.ForeignKeyConstraint(
            ["workspace_id", "audit_id"],
            ["audits.workspace_id", "audits.id"],
            name=op.f("fk_verdicts_workspace_id_audits"),
        ),
        sa.PrimaryKeyConstraint("audit_id", "row", name=op.f("pk_verdicts")),
    )
    given = sa.text("verdict IS NOT NULL")
    op.create_index("ix_verdicts_verdict", "verdicts", ["audit_id", "verdict", "rank"], postgresql_where=given)
    op.create_index("ix_verdicts_decided", "verdicts", ["audit_id", "decided_at", "row"], postgresql_where=given)
    op.create_table(
        "verdict_changes",
        sa.Column("audit_id", sa.Text(), nullable=False),
        sa.Column("row", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.CheckConstraint(KINDS, name=op.f("ck_verdict_changes_verdict")),
        sa.ForeignKeyConstraint(
            ["audit_id", "row"],
            ["verdicts.audit_id", "verdicts.row"],
            name=op.f("fk_verdict_changes_audit_id_verdicts"),
        ),
        sa.PrimaryKeyConstraint("audit_id", "row", "revision", name=op.f("pk_verdict_changes")),
    )

    op.add_column("findings", sa.Column("search", TSVECTOR(), sa.Computed(SEARCH, persisted=True), nullable=False))
    op.create_index("ix_findings_search", "findings", ["search"], postgresql_using="gin")
    op.create_index("ix_scores_mu", "scores", [*LIST, "mu", "row"])
    op.create_index("ix_scores_z", "scores", [*LIST, sa.text("z DESC"), sa.text('"row" DESC')])
    op.create_index(
        "ix_scores_group",
        "scores",
        [*LIST, sa.text('hashtextextended("group", 0::bigint)'), "rank"],
        postgresql_where=sa.text('"group" IS NOT NULL'),
    )
    op.create_index("ix_scores_side", "scores", [*LIST, "side", "rank"], postgresql_where=sa.text("side IS NOT NULL"))
    op.drop_index("ix_scores_cluster", "scores")
    op.create_index(
        "ix_scores_cluster", "scores", [*LIST, "cluster", "row"], postgresql_where=sa.text("cluster <> row")
    )

    op.execute("CREATE SCHEMA bi")
    for name, query in VIEWS.items():
        op.execute(f"CREATE VIEW bi.{name} AS {query}")
    op.execute(CREATE_ROLE)


def downgrade() -> None:
    # The role stays: it belongs to the server, and another database may use it.
    op.execute("DROP SCHEMA bi CASCADE")
    op.drop_index("ix_scores_cluster", "scores")
    op.create_index("ix_scores_cluster", "scores", [*LIST, "cluster"])
    for name in ("side", "group", "z", "mu"):
        op.drop_index(f"ix_scores_{name}", "scores")
    op.drop_index("ix_findings_search", "findings")
    op.drop_column("findings", "search")
    op.drop_table("verdict_changes")
    op.drop_table("verdicts")
