"""Several probes and seeds an audit, and what their results add.

Results of the first version cannot be read as the second's: they are dropped, and the audits that had them say so.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

DROPPED = (
    '{"code": "internal", "message": "This audit was made by an earlier version, whose results cannot be shown any '
    'more.", "hint": "Start the audit again."}'
)


def upgrade() -> None:
    op.execute("TRUNCATE scores, findings")
    op.execute(
        sa.text(
            "UPDATE jobs SET state = 'failed', error = CAST(:error AS jsonb) "
            "WHERE kind = 'audit' AND state = 'succeeded'"
        ).bindparams(error=DROPPED)
    )
    op.execute("UPDATE audits SET published_attempt = NULL, summary = NULL")

    op.create_table(
        "audit_probes",
        sa.Column("audit_id", sa.Text(), nullable=False),
        sa.Column("probe_no", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("probe_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id", "audit_id"],
            ["audits.workspace_id", "audits.id"],
            name=op.f("fk_audit_probes_workspace_id_audits"),
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id", "probe_id"],
            ["probes.workspace_id", "probes.id"],
            name=op.f("fk_audit_probes_workspace_id_probes"),
        ),
        sa.PrimaryKeyConstraint("audit_id", "probe_no", name=op.f("pk_audit_probes")),
        sa.UniqueConstraint("audit_id", "probe_id", name=op.f("uq_audit_probes_audit_id_probe_id")),
    )
    op.create_index("ix_audit_probes_probe", "audit_probes", ["workspace_id", "probe_id"])
    op.execute(
        "INSERT INTO audit_probes (audit_id, probe_no, workspace_id, probe_id) "
        "SELECT id, 1, workspace_id, probe_id FROM audits"
    )
    op.drop_constraint(op.f("fk_audits_workspace_id_probes"), "audits", type_="foreignkey")
    op.drop_column("audits", "probe_id")
    op.add_column("audits", sa.Column("seeds", sa.SmallInteger(), server_default="1", nullable=False))
    op.alter_column("audits", "seeds", server_default=None)
    op.create_check_constraint(op.f("ck_audits_seeds"), "audits", "seeds >= 1")
    op.add_column("audits", sa.Column("trusted_column", sa.Text(), nullable=True))
    op.add_column("audits", sa.Column("step_key", sa.Text(), nullable=True))

    op.add_column("audit_steps", sa.Column("step_no", sa.SmallInteger(), server_default="1", nullable=False))
    op.alter_column("audit_steps", "step_no", server_default=None)
    op.execute(
        "INSERT INTO audit_steps (audit_id, step_key, workspace_id, step_no) "
        "SELECT audits.id, 'combine', audits.workspace_id, 2 FROM audits JOIN jobs ON jobs.id = audits.job_id "
        "WHERE jobs.state IN ('queued','running','cancelling')"
    )

    op.add_column("scores", sa.Column("strongest_probe", sa.SmallInteger(), nullable=False))
    op.add_column("scores", sa.Column("mu_composed", sa.Double(), nullable=True))
    op.add_column("scores", sa.Column("side", sa.Text(), nullable=True))
    op.add_column("scores", sa.Column("cluster", sa.BigInteger(), nullable=False))
    op.create_check_constraint(op.f("ck_scores_side"), "scores", "side IN ('toward','against','both')")
    op.create_index("ix_scores_cluster", "scores", ["audit_id", "attempt", "probe_no", "cluster"])
    op.add_column("findings", sa.Column("trace", JSONB(), nullable=False))
    op.add_column("findings", sa.Column("baselines", JSONB(), nullable=False))


def downgrade() -> None:
    op.execute("TRUNCATE scores, findings")
    op.execute("UPDATE audits SET published_attempt = NULL, summary = NULL")
    op.drop_column("findings", "baselines")
    op.drop_column("findings", "trace")
    op.drop_index("ix_scores_cluster", "scores")
    op.drop_constraint(op.f("ck_scores_side"), "scores", type_="check")
    op.drop_column("scores", "cluster")
    op.drop_column("scores", "side")
    op.drop_column("scores", "mu_composed")
    op.drop_column("scores", "strongest_probe")
    op.execute("DELETE FROM audit_steps WHERE step_no > 1")
    op.drop_column("audit_steps", "step_no")
    op.drop_column("audits", "step_key")
    op.drop_column("audits", "trusted_column")
    op.drop_constraint(op.f("ck_audits_seeds"), "audits", type_="check")
    op.drop_column("audits", "seeds")
    op.add_column("audits", sa.Column("probe_id", sa.Text(), nullable=True))
    op.execute(
        "UPDATE audits SET probe_id = audit_probes.probe_id FROM audit_probes "
        "WHERE audit_probes.audit_id = audits.id AND audit_probes.probe_no = 1"
    )
    op.alter_column("audits", "probe_id", nullable=False)
    op.create_foreign_key(
        op.f("fk_audits_workspace_id_probes"),
        "audits",
        "probes",
        ["workspace_id", "probe_id"],
        ["workspace_id", "id"],
    )
    op.drop_table("audit_probes")
