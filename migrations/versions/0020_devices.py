"""What device a worker computes on.

Audits from before 0019 take the key that asked for them from the audit log, as far as it reaches.
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

CREATORS = """
UPDATE audits SET key_id = audit_log.key_id FROM audit_log
WHERE audit_log.action = 'audit.create' AND audit_log.object_id = audits.id
  AND audit_log.workspace_id = audits.workspace_id AND audits.key_id IS NULL AND audits.user_id IS NULL
"""


def upgrade() -> None:
    op.execute(CREATORS)
    op.add_column("workers", sa.Column("device", sa.Text(), nullable=True))
    op.add_column("workers", sa.Column("memory_bytes", sa.BigInteger(), nullable=True))
    op.add_column("workers", sa.Column("memory_used_bytes", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "memory_used_bytes")
    op.drop_column("workers", "memory_bytes")
    op.drop_column("workers", "device")
