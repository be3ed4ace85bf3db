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
    """audit, export or dataset."""
    subject_id: str
    """The id of the audit, export or dataset."""
    workspace_id: str
    attempt: int
    owner: str
    request_id: str | None = None
    """Of the request that asked for it."""

    @property
    def token(self) -> FencingToken:
        """By what the worker's acts are known."""
        return FencingToken(self.attempt, self.owner)


def locked(*, skip_locked: bool = False) -> "Select[Job, datetime]":
    """Jobs, locked, each with the database's time."""
    return select(Job, now()).with_for_update(of=Job, skip_locked=skip_locked, key_share=True)


def first(session: Session, query: "Select[Job, datetime]") -> tuple[Job, datetime] | None:
    """The one that the query finds, or None."""
    row = session.execute(query.execution_options(populate_existing=True)).one_or_none()
    return None if row is None else (row[0], row[1])


def held(session: Session, claim: Claim) -> tuple[Job, datetime] | None:
    """The claim's job, locked, with the time, if it is still the claim's."""
    found = first(session, locked().where(Job.id == claim.job_id))
    if found is None or not transitions.is_held(read_snapshot(found[0]), claim.token, found[1]):
        return None
    return found
