"""Writes reviewers' opinions of samples, and computes the verdict that counts, for any number of samples at once.

Every reviewer has at most one opinion of a sample, and the verdict that counts follows from all of them. If they differ
the sample is `disputed`, until somebody without an opinion of it gives one: that opinion settles it, and counts
whatever the others say, until its reviewer changes or withdraws it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import BigInteger, BindParameter, Row, Text, bindparam, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from service.principal import Principal
from service.store.score_lists import PublishedAudit
from service.store.verdict_tables import VerdictChange

ROWS_AT_ONCE = 5_000
"""Samples in one statement, so that none comes near the statement timeout."""

_OUTCOMES = """
    SELECT these."row", scores.rank, scores.flagged, coalesce(verdicts.revision, 0) AS revision,
        verdicts.verdict AS counted, own.verdict AS own, own_change.note AS own_note, own.revision AS replaces,
        CASE
            WHEN verdicts.settled_by <> :reviewer_id THEN verdicts.verdict
            WHEN verdicts.settled_by IS NOT NULL AND :verdict IS NOT NULL THEN :verdict
            WHEN cardinality(said.all_of) = 0 THEN NULL
            WHEN cardinality(said.all_of) = 1 THEN said.all_of[1]
            WHEN verdicts.verdict = 'disputed' AND own.verdict IS NULL AND :verdict IS NOT NULL THEN :verdict
            ELSE 'disputed'
        END AS outcome,
        CASE
            WHEN verdicts.settled_by <> :reviewer_id OR :verdict IS NOT NULL THEN coalesce(
                verdicts.settled_by,
                CASE WHEN verdicts.verdict = 'disputed' AND own.verdict IS NULL THEN :reviewer_id END
            )
        END AS settled_by
    FROM unnest(:rows) AS these("row")
    JOIN scores ON scores.list_id = :list_id AND scores."row" = these."row"
    LEFT JOIN verdicts ON verdicts.audit_id = :audit_id AND verdicts."row" = these."row"
    LEFT JOIN opinions AS own
        ON own.audit_id = :audit_id AND own."row" = these."row" AND own.reviewer_id = :reviewer_id
    LEFT JOIN verdict_changes AS own_change
        ON own_change.audit_id = :audit_id AND own_change."row" = these."row" AND own_change.revision = own.revision
    CROSS JOIN LATERAL (
        SELECT ARRAY(
            SELECT opinions.verdict FROM opinions
            WHERE opinions.audit_id = :audit_id AND opinions."row" = these."row"
                AND opinions.reviewer_id <> :reviewer_id
            UNION
            SELECT :verdict WHERE :verdict IS NOT NULL
        ) AS all_of
        OFFSET 0  -- otherwise it is computed again wherever it is read
    ) AS said
"""
"""Selects the verdict on each row now, and the one that would count if the reviewer set :verdict."""
_PARAMETERS: tuple[BindParameter[Any], ...] = (
    bindparam("rows", type_=ARRAY(BigInteger)),
    *(bindparam(name, type_=Text) for name in ("audit_id", "reviewer_id", "verdict")),
)

_FOUND = text(_OUTCOMES).bindparams(*_PARAMETERS)
"""Reads outcomes without changing anything."""

_MISSING = text("""
    INSERT INTO verdicts (audit_id, "row", workspace_id, key_id, user_id, revision, rank, flagged)
    SELECT :audit_id, scores."row", :workspace_id, :key_id, :user_id, 0, scores.rank, scores.flagged
    FROM unnest(:rows) AS these("row") JOIN scores ON scores.list_id = :list_id AND scores."row" = these."row"
    ON CONFLICT DO NOTHING
""").bindparams(bindparam("rows", type_=ARRAY(BigInteger)), *(bindparam(n, type_=Text) for n in ("key_id", "user_id")))
"""Creates verdicts of revision 0 for rows that have none."""

_CHANGES = text(f"""
    INSERT INTO verdict_changes (
        audit_id, "row", revision, workspace_id, verdict, note, key_id, user_id, outcome, settled_by, replaces,
        bulk_id
    )
    SELECT :audit_id, found."row", found.revision + 1, :workspace_id, :verdict, :note, :key_id, :user_id,
        found.outcome, found.settled_by, found.replaces, :bulk_id
    FROM ({_OUTCOMES}) AS found
""").bindparams(*_PARAMETERS, *(bindparam(name, type_=Text) for name in ("key_id", "user_id", "note", "bulk_id")))  # noqa: S608  # constants
"""Appends a change to the history of each row."""

_SAY = text("""
    INSERT INTO opinions (audit_id, "row", reviewer_id, revision, verdict)
    SELECT :audit_id, verdicts."row", :reviewer_id, verdicts.revision + 1, :verdict
    FROM unnest(:rows) AS these("row")
    JOIN verdicts ON verdicts.audit_id = :audit_id AND verdicts."row" = these."row"
    ON CONFLICT (audit_id, "row", reviewer_id) DO UPDATE SET revision = excluded.revision, verdict = excluded.verdict
""").bindparams(bindparam("rows", type_=ARRAY(BigInteger)))
"""Inserts or replaces the reviewer's opinion of each row."""

_TAKE_BACK = text("""
    DELETE FROM opinions WHERE audit_id = :audit_id AND reviewer_id = :reviewer_id AND "row" = ANY(:rows)
""").bindparams(bindparam("rows", type_=ARRAY(BigInteger)))
"""Deletes the reviewer's opinion of each row."""

_COUNT = text("""
    UPDATE verdicts SET
        verdict = change.outcome, settled_by = change.settled_by, revision = change.revision, note = said.note,
        key_id = CASE WHEN said.changed_at IS NULL THEN change.key_id ELSE said.key_id END,
        user_id = CASE WHEN said.changed_at IS NULL THEN change.user_id ELSE said.user_id END,
        decided_at = coalesce(said.changed_at, change.changed_at)
    FROM unnest(:rows) AS these("row")
    JOIN verdict_changes AS change ON change.audit_id = :audit_id AND change."row" = these."row"
    LEFT JOIN LATERAL (
        SELECT standing.note, standing.key_id, standing.user_id, standing.changed_at
        FROM opinions
        JOIN verdict_changes AS standing USING (audit_id, "row", revision)
        WHERE opinions.audit_id = :audit_id AND opinions."row" = these."row"
        ORDER BY (opinions.reviewer_id = change.settled_by) IS TRUE DESC, opinions.revision DESC
        LIMIT 1
    ) AS said ON true
    WHERE verdicts.audit_id = :audit_id AND verdicts."row" = these."row" AND change.revision = verdicts.revision + 1
""").bindparams(bindparam("rows", type_=ARRAY(BigInteger)))
"""Run after changes and opinions are written: sets each sample's verdict to that of the change after its revision."""

_UNDO = text("""
    INSERT INTO verdict_changes (
        audit_id, "row", revision, workspace_id, verdict, note, key_id, user_id, outcome, settled_by, bulk_id,
        restores
    )
    SELECT mine.audit_id, mine."row", verdicts.revision + 1, mine.workspace_id, before.verdict, before.note,
        mine.key_id, mine.user_id, state.outcome, state.settled_by, mine.bulk_id,
        coalesce(state.restores, state.revision, 0)
    FROM verdict_changes AS mine
    JOIN verdicts USING (audit_id, "row")
    JOIN verdict_changes AS newest
        ON newest.audit_id = mine.audit_id AND newest."row" = mine."row" AND newest.revision = verdicts.revision
    LEFT JOIN verdict_changes AS state
        ON state.audit_id = mine.audit_id AND state."row" = mine."row" AND state.revision = mine.revision - 1
    LEFT JOIN verdict_changes AS before
        ON before.audit_id = mine.audit_id AND before."row" = mine."row" AND before.revision = mine.replaces
    WHERE mine.bulk_id = :bulk_id AND mine.restores IS NULL AND mine."row" = ANY(:rows)
        AND coalesce(newest.restores, newest.revision) = mine.revision
    RETURNING "row"
""").bindparams(bindparam("rows", type_=ARRAY(BigInteger)))
"""Appends changes that restore the state before a bulk. Samples whose verdict has changed since are left out; changes
that were undone since do not count."""

_SAY_AGAIN = text("""
    INSERT INTO opinions (audit_id, "row", reviewer_id, revision, verdict)
    SELECT mine.audit_id, mine."row", coalesce(mine.key_id, mine.user_id), before.revision, before.verdict
    FROM verdict_changes AS mine
    JOIN verdict_changes AS before
        ON before.audit_id = mine.audit_id AND before."row" = mine."row" AND before.revision = mine.replaces
    WHERE mine.bulk_id = :bulk_id AND mine.restores IS NULL AND mine."row" = ANY(:rows)
""").bindparams(bindparam("rows", type_=ARRAY(BigInteger)))
"""Restores the opinions that a bulk replaced."""


def lock(session: Session, audit: PublishedAudit) -> None:
    """Take the lock that every writer of the audit's verdicts holds until its transaction ends.

    Args:
        session: An open transaction.
        audit: The published audit.
    """
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended("verdicts " + audit.id, 0))))


def outcomes(
    session: Session, reviewer: Principal, audit: PublishedAudit, rows: Sequence[int], verdict: str | None
) -> Sequence[Row[Any]]:
    """Return the verdicts on samples, and the one that would count for each if the reviewer set this verdict.

    Args:
        session: An open transaction.
        reviewer: Who would set it.
        audit: The published audit.
        rows: The samples.
        verdict: The verdict; None if the reviewer's opinion would be withdrawn.

    Returns:
        By rank: row, rank, flagged, revision, counted (the verdict that counts now), own and own_note (the reviewer's
        own now), replaces, outcome and settled_by.
    """
    asked = {"audit_id": audit.id, "reviewer_id": reviewer.actor_id, "verdict": verdict, "list_id": audit.headline}
    found = [one for part in _parts(rows) for one in session.execute(_FOUND, {**asked, "rows": part})]
    return sorted(found, key=lambda one: one.rank)


def say(
    session: Session,
    reviewer: Principal,
    audit: PublishedAudit,
    rows: Sequence[int],
    verdict: str | None,
    note: str | None,
    *,
    bulk_id: str | None = None,
) -> None:
    """Write the reviewer's opinion of samples, its history, and the verdict that counts then, in a few statements.

    Args:
        session: An open transaction that holds the audit's lock.
        reviewer: Whose opinion it is.
        audit: The published audit.
        rows: The samples. Each is changed, so leave out those on which the reviewer has the same opinion already.
        verdict: The opinion; None withdraws it.
        note: The reviewer's note, if any.
        bulk_id: The bulk that this is a part of, if any.
    """
    for part in _parts(rows):
        of = {"audit_id": audit.id, "reviewer_id": reviewer.actor_id, "rows": part}
        whole = {
            **of,
            "workspace_id": audit.workspace_id,
            "list_id": audit.headline,
            "key_id": reviewer.key_id,
            "user_id": reviewer.user_id,
        }
        session.execute(_MISSING, whole)
        session.execute(_CHANGES, {**whole, "verdict": verdict, "note": note, "bulk_id": bulk_id})
        if verdict is None:
            session.execute(_TAKE_BACK, of)
        else:
            session.execute(_SAY, {**of, "verdict": verdict})
        session.execute(_COUNT, {"audit_id": audit.id, "rows": part})


def undo(session: Session, audit_id: str, bulk_id: str, reviewer_id: str) -> int:
    """Restore the verdicts that the samples of a bulk had before, except those that have changed since.

    Args:
        session: An open transaction that holds the audit's lock.
        audit_id: The audit.
        bulk_id: A bulk of the audit that is not undone.
        reviewer_id: Whose verdict the bulk was.

    Returns:
        The number of restored samples.
    """
    mine = select(VerdictChange.row).where(VerdictChange.bulk_id == bulk_id)
    restored = 0
    for part in _parts(session.scalars(mine.order_by(VerdictChange.row)).all()):
        rows = list(session.scalars(_UNDO, {"bulk_id": bulk_id, "rows": part}))
        session.execute(_TAKE_BACK, {"audit_id": audit_id, "reviewer_id": reviewer_id, "rows": rows})
        session.execute(_SAY_AGAIN, {"bulk_id": bulk_id, "rows": rows})
        session.execute(_COUNT, {"audit_id": audit_id, "rows": rows})
        restored += len(rows)
    return restored


def _parts(rows: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield list(rows[start : start + ROWS_AT_ONCE])
