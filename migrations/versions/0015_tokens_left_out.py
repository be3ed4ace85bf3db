"""How much of each sample lies behind the token limit, unmeasured. Audits and exports from before do not know."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

VIEW = """
    CREATE OR REPLACE VIEW bi.findings AS
    SELECT audits.workspace_id, score_lists.audit_id, scores."row", scores.rank, scores.n, scores.strongest_probe,
        scores.mu, scores.mu_low, scores.mu_high, scores.z, scores.side, scores.p, scores.q, scores.flagged,
        scores.cluster, scores."group", scores.z_gradient, scores.z_representation, scores.probability_unwanted,
        scores.probability_fair{added}
    FROM audits
    JOIN score_lists ON score_lists.audit_id = audits.id AND score_lists.attempt = audits.published_attempt
        AND score_lists.probe_no = 0
    JOIN scores ON scores.list_id = score_lists.id
"""


def upgrade() -> None:
    """Columns without a default change no row that is there, and the view's new one comes last, so grants stay."""
    op.add_column("scores", sa.Column("tokens_left_out", sa.Integer(), nullable=True))
    op.add_column("exports", sa.Column("rows_truncated", sa.BigInteger(), nullable=True))
    op.create_index(
        "ix_scores_truncated", "scores", ["list_id", "rank"], postgresql_where=sa.text("tokens_left_out > 0")
    )
    op.execute(VIEW.format(added=", scores.tokens_left_out"))


def downgrade() -> None:
    """A view loses columns only by being made anew; the reading role's grant is given again."""
    op.execute("DROP VIEW bi.findings")
    op.execute(VIEW.format(added=""))
    op.execute("GRANT SELECT ON bi.findings TO finetooth_bi")
    op.drop_index("ix_scores_truncated", "scores")
    op.drop_column("exports", "rows_truncated")
    op.drop_column("scores", "tokens_left_out")
