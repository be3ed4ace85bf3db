"""What users do with exports: create, cancel and delete them."""

from collections.abc import Callable

from sqlalchemy.orm import Session

from service.audits.queries import find_published
from service.errors import ConflictError, missing_is_not_found
from service.exports.queries import find_export, render_export
from service.exports.schemas import Export, ExportCreate
from service.http.audit_log import record
from service.http.quotas import check_exports
from service.lifecycle.exports import create_export, delete_export, request_cancel_export
from service.lifecycle.jobs import NotEndedError
from service.lifecycle.wakeup import wake_idle
from service.principal import Principal
from service.settings import Settings


def create(
    session: Session,
    principal: Principal,
    audit_id: str,
    body: ExportCreate,
    *,
    settings: Settings,
    request_id: str | None,
    later: Callable[..., None],
) -> Export:
    """Queue an export of an audit that has succeeded.

    Args:
        session: An open transaction.
        principal: Who is asking.
        audit_id: The audit.
        body: What to export.
        settings: Holds the quota and what wakes a worker.
        request_id: Id of the request that asks for it.
        later: Runs its first argument, with the others, after the commit.

    Returns:
        The queued export, as the API shows it.

    Raises:
        NotFoundError: `audit_not_found`.
        ConflictError: `audit_not_finished` or `export_quota`.
    """
    audit = find_published(session, principal, audit_id)
    check_exports(session, principal.workspace_id, settings)
    with missing_is_not_found("audit"):  # deleted just now
        export = create_export(
            session,
            workspace_id=principal.workspace_id,
            audit_id=audit.id,
            kind=body.kind,
            format=body.format,
            filter=None if body.kind == "scores" else body.filter,
            max_q=body.max_q,
            request_id=request_id,
            key_id=principal.key_id,
            user_id=principal.user_id,
        )
    record(session, principal, "export.create", export.id)
    wake_idle(session, settings, "io", later)
    return render_export(find_export(session, principal, export.id))


def cancel(session: Session, principal: Principal, export_id: str, *, settings: Settings) -> Export:
    """Cancel an export: at once if it is queued, otherwise as soon as its worker learns of it. Idempotent.

    Args:
        session: An open transaction.
        principal: Who is asking.
        export_id: The export.
        settings: Holds how long its worker has to stop.

    Returns:
        The export, as the API shows it.

    Raises:
        NotFoundError: `export_not_found`.
    """
    with missing_is_not_found("export"):
        request_cancel_export(
            session,
            workspace_id=principal.workspace_id,
            export_id=export_id,
            within_seconds=settings.cancel_seconds,
        )
    record(session, principal, "export.cancel", export_id)
    return render_export(find_export(session, principal, export_id))


def delete(session: Session, principal: Principal, export_id: str) -> None:
    """Delete an export that has ended; its file is deleted in the background.

    Args:
        session: An open transaction.
        principal: Who is asking.
        export_id: The export.

    Raises:
        NotFoundError: `export_not_found`.
        ConflictError: `export_not_ended`.
    """
    try:
        with missing_is_not_found("export"):
            delete_export(session, workspace_id=principal.workspace_id, export_id=export_id)
    except NotEndedError:
        raise ConflictError("export_not_ended", "This export is queued or runs. Cancel it first.") from None
    record(session, principal, "export.delete", export_id)
