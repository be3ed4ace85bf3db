"""Who created an audit, and what device a worker computes on.

Audits from before take their creator from the audit log, as far as it reaches.
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0018"
branch_labels = None
depends_on = None

CREATORS = """
UPDATE audits SET created_by = audit_log.key_id FROM audit_log
WHERE audit_log.action = 'audit.create' AND audit_log.object_id = audits.id
  AND audit_log.workspace_id = audits.workspace_id
"""


def upgrade() -> None:
    op.add_column("audits", sa.Column("created_by", sa.Text(), nullable=True))
    op.execute(CREATORS)
    op.add_column("workers", sa.Column("device", sa.Text(), nullable=True))
    op.add_column("workers", sa.Column("memory_bytes", sa.BigInteger(), nullable=True))
    op.add_column("workers", sa.Column("memory_used_bytes", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "memory_used_bytes")
    op.drop_column("workers", "memory_bytes")
    op.drop_column("workers", "device")
    op.drop_column("audits", "created_by")
