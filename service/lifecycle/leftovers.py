"""What attempts that came to nothing have left in the object store."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.store.objects import ObjectStore, export_prefix, step_prefix
from service.store.tables import AuditStep, Export


def leftover_prefixes(
    session: Session, *, kind: str, workspace_id: str, subject_id: str, up_to_attempt: int
) -> list[str]:
    """Return where attempts at a job may have left files that nobody needs, as prefixes of the object store.

    Args:
        session: An open transaction.
        kind: What kind of job it is.
        workspace_id: Id of the workspace.
        subject_id: Id of the job's subject, such as an audit.
        up_to_attempt: The newest attempt whose files are no longer needed.
    """
    match kind:
        case "audit":
            return _of_steps(session, workspace_id, subject_id, up_to_attempt)
        case "export":
            published = session.scalar(select(Export.published_attempt).where(Export.id == subject_id))
            attempts = range(1, up_to_attempt + 1)
            return [export_prefix(workspace_id, subject_id, number) for number in attempts if number != published]
        case _:
            return []


def _of_steps(session: Session, workspace_id: str, audit_id: str, up_to_attempt: int) -> list[str]:
    """What a finished step of an audit has left is kept: an attempt to come goes on from there."""
    steps = session.scalars(select(AuditStep).where(AuditStep.audit_id == audit_id).order_by(AuditStep.step_no)).all()
    return [
        step_prefix(workspace_id, audit_id, attempt, step.step_key)
        for attempt in range(1, up_to_attempt + 1)
        for step in steps
        if (step.state, step.attempt) != ("succeeded", attempt)
    ]


def purge(objects: ObjectStore, prefixes: list[str]) -> None:
    """Delete everything below some prefixes; one with nothing below it is no error.

    Args:
        objects: The object store.
        prefixes: Prefixes of the object store.
    """
    for prefix in prefixes:
        objects.delete_tree(prefix)
