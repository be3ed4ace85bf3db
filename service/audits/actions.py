"""What users do with audits: create, cancel, retry and delete them."""

from collections.abc import Callable

from sqlalchemy.orm import Session

from service.audits.queries import show_audit
from service.audits.schemas import Audit, AuditCreate, AuditsCancel, AuditsCancelled
from service.audits.validation import check_request
from service.errors import ConflictError, ForbiddenError, missing_is_not_found
from service.http.audit_log import record
from service.http.quotas import check_queued_audits
from service.lifecycle.audits import NotRetryableError, create_audit, request_cancel, request_cancel_all, retry_audit
from service.lifecycle.deletion import ExportsNotEndedError, delete_audit
from service.lifecycle.jobs import NotEndedError
from service.lifecycle.transitions import State
from service.lifecycle.wakeup import wake_idle
from service.principal import Principal
from service.settings import Settings

EXPORTS_NAMED = 3
"""How many of the exports that are in the way of a deletion the error names."""

ME = "me"
"""In place of the id of whoever asks."""

CANCELLED_AT_ONCE = 500
"""Audits that one request cancels."""

POLL_SECONDS = 2
"""When to ask again about an audit that has not ended."""


def create(
    session: Session,
    principal: Principal,
    body: AuditCreate,
    *,
    settings: Settings,
    request_id: str | None,
    later: Callable[..., None],
) -> Audit:
    """Queue an audit.

    Args:
        session: An open transaction.
        principal: Who is asking.
        body: What to audit.
        settings: For waking a worker.
        request_id: Id of the request that asks for it.
        later: Runs its first argument, with the others, after the commit.

    Raises:
        ForbiddenError: `scope_missing`: the priority is `high`, and the principal no admin.
        InvalidError: As `check_request` does.
        ConflictError: `queued_audits_quota`.
    """
    if body.priority == "high" and not principal.may("admin"):
        raise ForbiddenError(
            "scope_missing",
            "An audit of priority high goes before all others of the workspace, and needs the scope admin. Leave "
            "`priority` out, or ask an admin of the workspace to start the audit.",
            errors={"#/priority": "needs the scope admin"},
        )
    model = check_request(session, principal, body)
    check_queued_audits(session, principal.workspace_id, settings)
    audit = create_audit(
        session,
        workspace_id=principal.workspace_id,
        dataset_id=body.dataset_id,
        probe_ids=body.probe_ids,
        model_id=model.id,
        training=body.training,
        seeds=body.seeds,
        q=body.q,
        group_column=body.group_column,
        trusted_column=body.trusted_column,
        priority=body.priority,
        request_id=request_id,
        key_id=principal.key_id,
        user_id=principal.user_id,
    )
    record(session, principal, "audit.create", audit.id)
    wake_idle(session, settings, "gpu", later)
    return show_audit(session, principal, audit.id, settings)


def cancel(session: Session, principal: Principal, audit_id: str, *, settings: Settings) -> Audit:
    """Stop an audit: at once while it is queued, else as soon as its worker has heard of it. Idempotent.

    Args:
        session: An open transaction.
        principal: Who is asking.
        audit_id: Which audit.
        settings: Says how long its worker has.

    Raises:
        NotFoundError: `audit_not_found`.
    """
    with missing_is_not_found("audit"):
        request_cancel(
            session,
            workspace_id=principal.workspace_id,
            audit_id=audit_id,
            within_seconds=settings.cancel_seconds,
        )
    record(session, principal, "audit.cancel", audit_id)
    return show_audit(session, principal, audit_id, settings)


def cancel_all(session: Session, principal: Principal, body: AuditsCancel, *, settings: Settings) -> AuditsCancelled:
    """Stop all audits of the workspace that are in a state, or those of them that somebody has started.

    Args:
        session: An open transaction.
        principal: Who is asking.
        body: Which audits.
        settings: Says how long the workers of running ones have.
    """
    found = request_cancel_all(
        session,
        workspace_id=principal.workspace_id,
        state=State(body.status),
        creator_id=principal.actor_id if body.created_by == ME else body.created_by,
        limit=CANCELLED_AT_ONCE,
        within_seconds=settings.cancel_seconds,
    )
    record(session, principal, "audit.cancel", None, count=len(found))
    return AuditsCancelled(audit_ids=found, has_more=len(found) == CANCELLED_AT_ONCE)


def retry(
    session: Session,
    principal: Principal,
    audit_id: str,
    *,
    settings: Settings,
    request_id: str | None,
    later: Callable[..., None],
) -> Audit:
    """Queue a failed or cancelled audit again; one that is queued or runs is left alone. Idempotent.

    Args:
        session: An open transaction.
        principal: Who is asking.
        audit_id: Which audit.
        settings: For waking a worker.
        request_id: Id of the request that asks for it.
        later: Runs its first argument, with the others, after the commit.

    Raises:
        NotFoundError: `audit_not_found`.
        ConflictError: `audit_not_retryable` or `queued_audits_quota`.
    """
    try:
        with missing_is_not_found("audit"):
            check_queued_audits(session, principal.workspace_id, settings, besides=audit_id)
            retry_audit(session, workspace_id=principal.workspace_id, audit_id=audit_id, request_id=request_id)
    except NotRetryableError as error:
        if error.state is State.SUCCEEDED:
            raise ConflictError("audit_not_retryable", "This audit has succeeded. Start another one.") from None
        detail = "This audit is being cancelled. Retry it once it is cancelled."
        raise ConflictError("audit_not_retryable", detail, retry_after=POLL_SECONDS) from None
    record(session, principal, "audit.retry", audit_id)
    wake_idle(session, settings, "gpu", later)
    return show_audit(session, principal, audit_id, settings)


def delete(session: Session, principal: Principal, audit_id: str) -> None:
    """Delete an audit that has ended, with its findings, verdicts, events and exports.

    It is gone at once; what it leaves in the database and the object store is cleared away in the background.

    Args:
        session: An open transaction.
        principal: Who is asking.
        audit_id: Which audit.

    Raises:
        NotFoundError: `audit_not_found`.
        ConflictError: `audit_not_ended` or `audit_in_use`.
    """
    try:
        with missing_is_not_found("audit"):
            delete_audit(session, workspace_id=principal.workspace_id, audit_id=audit_id)
    except NotEndedError as error:
        if error.state is State.CANCELLING:
            detail = "This audit is being cancelled. Delete it once it is cancelled."
            raise ConflictError("audit_not_ended", detail, retry_after=POLL_SECONDS) from None
        detail = f"This audit is {error.state}. Cancel it first: POST /v1/audits/{audit_id}/cancel."
        raise ConflictError("audit_not_ended", detail) from None
    except ExportsNotEndedError as error:
        names = ", ".join(error.export_ids[:EXPORTS_NAMED]) + (" ..." if error.export_ids[EXPORTS_NAMED:] else "")
        detail = f"Exports of this audit are queued or run: {names}. Let them end, or cancel them first."
        raise ConflictError("audit_in_use", detail) from None
    record(session, principal, "audit.delete", audit_id)
