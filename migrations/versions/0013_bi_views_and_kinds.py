"""`bi.findings` shows what each view says of a sample and how likely it is of each kind."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

VIEW = """
    CREATE OR REPLACE VIEW bi.findings AS
    SELECT audits.workspace_id, score_lists.audit_id, scores."row", scores.rank, scores.n, scores.strongest_probe,
        scores.mu, scores.mu_low, scores.mu_high, scores.z, scores.side, scores.p, scores.q, scores.flagged,
        scores.cluster, scores."group"{added}
    FROM audits
    JOIN score_lists ON score_lists.audit_id = audits.id AND score_lists.attempt = audits.published_attempt
        AND score_lists.probe_no = 0
    JOIN scores ON scores.list_id = score_lists.id
"""

ADDED = ", scores.z_gradient, scores.z_representation, scores.probability_unwanted, scores.probability_fair"


def upgrade() -> None:
    """New columns come last, as CREATE OR REPLACE VIEW asks, so grants on the view stay."""
    op.execute(VIEW.format(added=ADDED))


def downgrade() -> None:
    """A view loses columns only by being made anew; the reading role's grant is given again."""
    op.execute("DROP VIEW bi.findings")
    op.execute(VIEW.format(added=""))
    op.execute("GRANT SELECT ON bi.findings TO finetooth_bi")
