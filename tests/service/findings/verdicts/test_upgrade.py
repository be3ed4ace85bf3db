"""Verdicts of before there were opinions: what counted goes on counting, and the way back works."""

from alembic import command
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from service.migration import alembic_config, migrate
from tests.support.review_data import publish_audit

BEFORE = "0018"
SAID = {
    1: [("confirmed", "key_a"), ("rejected", "key_b")],  # replaced by another key
    2: [("confirmed", "key_a"), (None, "key_b")],  # withdrawn by another key
    3: [("unsure", "key_a")],
}


def test_what_counted_before_goes_on_counting(
    database_url: str, engine: Engine, sessions: sessionmaker[Session], workspace_id: str
) -> None:
    audit = publish_audit(sessions, workspace_id).id
    command.downgrade(alembic_config(database_url), BEFORE)
    with engine.begin() as connection:
        for row, changes in SAID.items():
            of = {"audit": audit, "ws": workspace_id, "row": row}
            verdict, key = changes[-1]
            connection.execute(
                text(
                    'INSERT INTO verdicts (audit_id, "row", workspace_id, verdict, key_id, revision, rank, flagged) '
                    "VALUES (:audit, :row, :ws, :verdict, :key, :revision, :row, false)"
                ),
                {**of, "verdict": verdict, "key": key, "revision": len(changes)},
            )
            for revision, (said, by) in enumerate(changes, start=1):
                connection.execute(
                    text(
                        'INSERT INTO verdict_changes (audit_id, "row", revision, workspace_id, verdict, key_id) '
                        "VALUES (:audit, :row, :revision, :ws, :verdict, :key)"
                    ),
                    {**of, "revision": revision, "verdict": said, "key": by},
                )
    migrate(database_url)
    with engine.begin() as connection:
        verdicts = connection.execute(text('SELECT "row", verdict, settled_by FROM verdicts ORDER BY 1')).all()
        assert [tuple(found) for found in verdicts] == [(1, "rejected", None), (2, None, None), (3, "unsure", None)]
        opinions = connection.execute(text('SELECT "row", reviewer_id, verdict FROM opinions ORDER BY 1')).all()
        assert [tuple(found) for found in opinions] == [(1, "key_b", "rejected"), (3, "key_a", "unsure")]
        outcomes = connection.execute(text('SELECT outcome FROM verdict_changes ORDER BY "row", revision')).scalars()
        assert list(outcomes) == ["confirmed", "rejected", "confirmed", None, "unsure"]
        connection.execute(text("UPDATE verdicts SET verdict = 'disputed' WHERE \"row\" = 1"))
    command.downgrade(alembic_config(database_url), BEFORE)
    with engine.begin() as connection:
        left = connection.execute(text('SELECT "row", verdict FROM verdicts ORDER BY 1')).all()
        assert [tuple(found) for found in left] == [(1, None), (2, None), (3, "unsure")]
    migrate(database_url)
