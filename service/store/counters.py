"""Counters that outlive the process that counts: workers come and go, and every API process has to tell the same."""

from collections.abc import Mapping
from enum import StrEnum

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.store.tables import Counter

LOCK_TIMEOUT_MS = 500
"""Counting takes milliseconds; who keeps a row for longer has stopped in the middle."""


class Counted(StrEnum):
    """Names of counters; each has one label."""

    ATTEMPTS = "attempts"
    """Attempts that ended, by how: published, cancelled, released, lease_lost, or a failure's code."""
    STARTED = "started"
    """Attempts that a worker has begun, by lane."""
    FENCED = "fenced"
    """Attempts whose worker was refused, or stopped by itself, as the job was no longer its own."""
    STAGE_SECONDS = "stage_seconds"
    """Time spent in a stage, by stage."""
    SAMPLES = "samples"
    """Samples trained on, each as often as it was."""


def count(session: Session, name: Counted, label: str = "", by: float = 1.0) -> None:
    """Add to a counter, in the session's transaction.

    Args:
        session: An open transaction.
        name: What is counted.
        label: Which kind of it; empty where there is one alone.
        by: How much is added.
    """
    statement = insert(Counter).values(name=name, label=label, value=by)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["name", "label"], set_={"value": Counter.value + statement.excluded.value}
        )
    )


def count_aside(session: Session, amounts: Mapping[tuple[Counted, str], float]) -> bool:
    """Add to several counters, in a transaction that does nothing else.

    It fails rather than wait: a process that was frozen while it counted keeps its rows locked for a while, and no
    other one may stand still for that.

    Args:
        session: An open transaction.
        amounts: What is added, by name and label.

    Returns:
        True, for callers that retry until something is returned.

    Raises:
        sqlalchemy.exc.OperationalError: A row stayed locked for LOCK_TIMEOUT_MS, or the database does not answer.
    """
    session.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
    # In one order, so that two processes cannot wait for each other.
    for (name, label), amount in sorted(amounts.items()):
        count(session, name, label, amount)
    return True


def read_counters(session: Session) -> Mapping[tuple[str, str], float]:
    """Return the value of every counter, by name and label."""
    return {(row.name, row.label): row.value for row in session.scalars(select(Counter))}
