"""A number for each ranked list of scores, in place of audit, attempt and probe in every index.

`scores` is written anew beside the old table, which readers go on reading until the last moment; on a large database
this takes minutes, and as much space again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# A schema of its own meanwhile: so constraints and indexes have their names from the first.
BESIDE = "rebuilt"

NUMBERED = ["list_id"]
SPELLED_OUT = ["audit_id", "attempt", "probe_no"]
VALUES = (
    'n, rank, "row", cluster, mu, mu_low, mu_high, mu_composed, p, q, z, z_reference, strongest_probe, flagged, side, '
    '"group"'
)

VIEW = """
    CREATE OR REPLACE VIEW bi.findings AS
    SELECT audits.workspace_id, {audit_id}, scores."row", scores.rank, scores.n, scores.strongest_probe,
        scores.mu, scores.mu_low, scores.mu_high, scores.z, scores.side, scores.p, scores.q, scores.flagged,
        scores.cluster, scores."group"
    FROM audits
    {join}
"""


def upgrade() -> None:
    op.execute("LOCK TABLE scores IN SHARE MODE")  # readers go on
    op.create_table(
        "score_lists",
        sa.Column("id", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column("audit_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("probe_no", sa.SmallInteger(), nullable=False),
        sa.ForeignKeyConstraint(["audit_id"], ["audit_data.audit_id"], name=op.f("fk_score_lists_audit_id_audit_data")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_score_lists")),
        sa.UniqueConstraint("audit_id", "attempt", "probe_no", name=op.f("uq_score_lists_audit_id_attempt_probe_no")),
    )
    op.execute(
        "INSERT INTO score_lists (audit_id, attempt, probe_no) "
        "SELECT DISTINCT audit_id, attempt, probe_no FROM scores ORDER BY 1, 2, 3"
    )
    op.execute(f"CREATE SCHEMA {BESIDE}")
    op.create_table(
        "scores",
        sa.Column("list_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("rank", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("row", sa.BigInteger(), nullable=False),
        sa.Column("cluster", sa.BigInteger(), nullable=False),
        sa.Column("mu", sa.Double(), nullable=False),
        *(sa.Column(name, sa.Double()) for name in ("mu_low", "mu_high", "mu_composed", "p", "q")),
        sa.Column("z", sa.REAL()),
        sa.Column("z_reference", sa.REAL()),
        sa.Column("strongest_probe", sa.SmallInteger(), nullable=False),
        sa.Column("flagged", sa.Boolean(), nullable=False),
        sa.Column("side", sa.Text()),
        sa.Column("group", sa.Text()),
        schema=BESIDE,
    )
    op.execute(
        f"INSERT INTO {BESIDE}.scores (list_id, {VALUES}) SELECT score_lists.id, {VALUES} "  # noqa: S608
        "FROM scores JOIN score_lists USING (audit_id, attempt, probe_no) ORDER BY score_lists.id, rank"
    )
    _constrain(NUMBERED, 'hashtext("group")')
    join = (
        "JOIN score_lists ON score_lists.audit_id = audits.id AND score_lists.attempt = audits.published_attempt "
        f"AND score_lists.probe_no = 0 JOIN {BESIDE}.scores ON scores.list_id = score_lists.id"
    )
    op.execute(VIEW.format(audit_id="score_lists.audit_id", join=join))
    _take_the_place()


def downgrade() -> None:
    op.execute("LOCK TABLE scores IN SHARE MODE")
    op.execute(f"CREATE SCHEMA {BESIDE}")
    op.create_table(
        "scores",
        sa.Column("audit_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("probe_no", sa.SmallInteger(), nullable=False),
        sa.Column("rank", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("row", sa.BigInteger(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("mu", sa.Double(), nullable=False),
        sa.Column("mu_low", sa.Double()),
        sa.Column("mu_high", sa.Double()),
        sa.Column("z", sa.REAL()),
        sa.Column("z_reference", sa.REAL()),
        sa.Column("p", sa.Double()),
        sa.Column("q", sa.Double()),
        sa.Column("flagged", sa.Boolean(), nullable=False),
        sa.Column("group", sa.Text()),
        sa.Column("strongest_probe", sa.SmallInteger(), nullable=False),
        sa.Column("mu_composed", sa.Double()),
        sa.Column("side", sa.Text()),
        sa.Column("cluster", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["audit_id"], ["audit_data.audit_id"], name=op.f("fk_scores_audit_id_audit_data")),
        schema=BESIDE,
    )
    op.execute(
        f"INSERT INTO {BESIDE}.scores (audit_id, attempt, probe_no, {VALUES}) "  # noqa: S608
        f"SELECT audit_id, attempt, probe_no, {VALUES} "
        "FROM scores JOIN score_lists ON score_lists.id = list_id ORDER BY list_id, rank"
    )
    _constrain(SPELLED_OUT, 'hashtextextended("group", 0::bigint)')
    join = (
        f"JOIN {BESIDE}.scores ON scores.audit_id = audits.id AND scores.attempt = audits.published_attempt "
        "WHERE scores.probe_no = 0"
    )
    op.execute(VIEW.format(audit_id="scores.audit_id", join=join))
    _take_the_place()
    op.drop_table("score_lists")


def _constrain(lead: list[str], group: str) -> None:
    """Once the rows are there: an index is built faster than filled."""
    op.create_primary_key(op.f("pk_scores"), "scores", [*lead, "rank"], schema=BESIDE)
    op.create_check_constraint(op.f("ck_scores_side"), "scores", "side IN ('toward','against','both')", schema=BESIDE)
    for name, columns, where in (
        ("ix_scores_mu", ["mu", "row"], None),
        ("ix_scores_z", [sa.text("z DESC"), sa.text('"row" DESC')], None),
        ("ix_scores_group", [sa.text(group), "rank"], '"group" IS NOT NULL'),
        ("ix_scores_side", ["side", "rank"], "side IS NOT NULL"),
        ("ix_scores_cluster", ["cluster", "row"], "cluster <> row"),
        ("ix_scores_flagged", ["rank"], "flagged"),
    ):
        condition = None if where is None else sa.text(where)
        op.create_index(name, "scores", [*lead, *columns], postgresql_where=condition, schema=BESIDE)
    op.create_index("uq_scores_row", "scores", [*lead, "row"], unique=True, schema=BESIDE)


def _take_the_place() -> None:
    op.drop_table("scores")
    op.execute(f"ALTER TABLE {BESIDE}.scores SET SCHEMA public")
    op.execute(f"DROP SCHEMA {BESIDE}")
