"""A job as the worker that took it holds it, and how every command finds and locks the job's row."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from service.lifecycle import transitions
from service.lifecycle.job_rows import now, read_snapshot
from service.lifecycle.transitions import FencingToken
from service.store.tables import Job


@dataclass(frozen=True)
class Claim:
    """A job as the worker that took it holds it."""

    job_id: str
    kind: str
    """What kind of job it is: audit, export, dataset or version."""
    subject_id: str
    """The id of the audit, export or dataset."""
    workspace_id: str
    attempt: int
    owner: str
    request_id: str | None = None
    """Id of the request that asked for the job."""

    @property
    def token(self) -> FencingToken:
        """By what the worker's acts are known."""
        return FencingToken(self.attempt, self.owner)


def locked(*, skip_locked: bool = False) -> "Select[Job, datetime]":
    """Jobs, locked, each with the database's time."""
    return select(Job, now()).with_for_update(of=Job, skip_locked=skip_locked, key_share=True)


def first(session: Session, query: "Select[Job, datetime]") -> tuple[Job, datetime] | None:
    """Return the one job that a query finds, with the database's time; None if it finds none.

    Args:
        session: An open transaction.
        query: What `locked` returned, narrowed to at most one job.
    """
    row = session.execute(query.execution_options(populate_existing=True)).one_or_none()
    return None if row is None else (row[0], row[1])


def held(session: Session, claim: Claim) -> tuple[Job, datetime] | None:
    """Lock the claim's job; None if the claim no longer holds it.

    Args:
        session: An open transaction.
        claim: What the worker holds the job by.

    Returns:
        The job and the database's time.
    """
    found = first(session, locked().where(Job.id == claim.job_id))
    if found is None or not transitions.is_held(read_snapshot(found[0]), claim.token, found[1]):
        return None
    return found
