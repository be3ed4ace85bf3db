"""What attempts that came to nothing have left in the object store."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.store.objects import ObjectStore, step_prefix
from service.store.tables import AuditStep


def leftover_prefixes(session: Session, *, workspace_id: str, audit_id: str, up_to_attempt: int) -> list[str]:
    """Where attempts up to this one may have left files of steps that they did not finish.

    What a finished step has left is kept: an attempt to come goes on from there.
    """
    steps = session.scalars(select(AuditStep).where(AuditStep.audit_id == audit_id).order_by(AuditStep.step_no)).all()
    return [
        step_prefix(workspace_id, audit_id, attempt, step.step_key)
        for attempt in range(1, up_to_attempt + 1)
        for step in steps
        if (step.state, step.attempt) != ("succeeded", attempt)
    ]


def purge(objects: ObjectStore, prefixes: list[str]) -> None:
    """Deletes them; nothing there is no error."""
    for prefix in prefixes:
        objects.delete_tree(prefix)
