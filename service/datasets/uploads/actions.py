"""What changes an upload in parts: its beginning, its parts, its end."""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Interval, delete, func, literal, update
from sqlalchemy.orm import Session

from service.datasets.queries import find_dataset
from service.datasets.uploads.queries import find_upload, list_parts
from service.errors import ConflictError, DomainError, InvalidError, NotFoundError, TooLargeError
from service.http.audit_log import record as record_change
from service.http.quotas import check_uploads
from service.lifecycle.purging import purge_objects
from service.principal import Principal
from service.scoping import owned
from service.settings import Settings
from service.store.ids import new_id
from service.store.objects import upload_prefix
from service.store.tables import Dataset, Upload, UploadPart

FINISHING_SECONDS = 60.0
"""How long a process keeps an upload to itself, while it makes the dataset, without renewing the claim."""

_KINDS: dict[int, type[DomainError]] = {413: TooLargeError, 422: InvalidError}
"""The errors of refusals that are stored, by status."""


class Taken(NamedTuple):
    """An upload that is whole, for a process to make a dataset of."""

    upload_id: str
    name: str | None
    size: int
    parts: list[str]
    """The names of its objects."""


def create(
    session: Session, principal: Principal, settings: Settings, *, size: int, name: str | None, metadata: str
) -> Upload:
    """Begin an upload.

    Args:
        session: An open transaction.
        principal: Whose upload it becomes.
        settings: Hold the limits.
        size: How many bytes it will have.
        name: What the client calls the file.
        metadata: Upload-Metadata as it came.

    Raises:
        TooLargeError: `upload_too_large`.
        StorageFullError: `storage_quota`.
        ConflictError: `upload_quota` or `dataset_quota`.
    """
    if size > settings.max_upload_bytes:
        detail = f"An upload has at most {settings.max_upload_bytes} bytes. Split the dataset, or use gzip."
        raise TooLargeError("upload_too_large", detail)
    check_uploads(session, principal.workspace_id, settings, more_bytes=size)
    upload = Upload(
        id=new_id("up"),
        workspace_id=principal.workspace_id,
        name=name,
        sent_metadata=metadata,
        bytes=size,
        expires_at=_expiry(settings),
    )
    session.add(upload)
    session.flush()
    record_change(session, principal, "upload.create", upload.id)
    session.refresh(upload)
    return upload


def append(
    session: Session, principal: Principal, settings: Settings, upload_id: str, *, start: int, size: int, name: str
) -> datetime | None:
    """Note that an object holds the next bytes of an upload, unless somebody else has just brought them.

    Args:
        session: An open transaction.
        principal: Who brings them.
        settings: Say how long an upload is kept after its last part.
        upload_id: Which upload.
        start: Where they belong.
        size: How many they are.
        name: Name of the object.

    Returns:
        When the upload will expire; None: these are not the next bytes, and the object is of no use.
    """
    expires_at = session.scalar(
        update(Upload)
        .where(owned(Upload, principal), Upload.id == upload_id, Upload.expires_at > func.now())
        .where(Upload.received == start, Upload.received + size <= Upload.bytes, Upload.dataset_id.is_(None))
        .values(received=start + size, parts=Upload.parts + 1, expires_at=_expiry(settings))
        .returning(Upload.expires_at)
    )
    if expires_at is not None:
        session.add(
            UploadPart(workspace_id=principal.workspace_id, upload_id=upload_id, start=start, bytes=size, name=name)
        )
    return expires_at


def terminate(session: Session, principal: Principal, upload_id: str) -> None:
    """Drop an upload with what has come of it. The dataset that it has become stays.

    Args:
        session: An open transaction.
        principal: Who is asking.
        upload_id: Which upload.

    Raises:
        NotFoundError: `upload_not_found`.
        ConflictError: `upload_being_finished`.
    """
    upload = find_upload(session, principal, upload_id, lock=True)
    if _is_taken(session, upload):
        raise ConflictError(
            "upload_being_finished",
            "A dataset is being made of this upload just now. Wait until that has ended, and delete the dataset.",
            retry_after=2,
        )
    session.delete(upload)
    purge_objects(session, upload.workspace_id, upload_prefix(upload.workspace_id, upload.id))
    record_change(session, principal, "upload.delete", upload_id)


def take(session: Session, principal: Principal, upload_id: str, form: str) -> Taken | Dataset | None:
    """Take an upload to make a dataset of it.

    Args:
        session: An open transaction.
        principal: Who is asking.
        upload_id: Which upload.
        form: What it is to be read as, in one text.

    Returns:
        The dataset where it was made already; None where a process is making it.

    Raises:
        NotFoundError: `upload_not_found`.
        ConflictError: `upload_not_complete`.
        TooLargeError, InvalidError: It was refused when it was read in this form before.
    """
    upload = find_upload(session, principal, upload_id, lock=True)
    if upload.dataset_id is not None:
        return find_dataset(session, principal, upload.dataset_id)
    if upload.received < upload.bytes:
        raise ConflictError(
            "upload_not_complete",
            f"{upload.received} of {upload.bytes} bytes have come. Send the rest with PATCH, from this offset on.",
        )
    if _is_taken(session, upload):
        return None
    if upload.refusal is not None and upload.refusal["form"] == form:
        raise _KINDS[upload.refusal["status"]](
            upload.refusal["code"], upload.refusal["detail"], errors=upload.refusal["errors"]
        )
    upload.refusal = None
    upload.finishing_until = _later(FINISHING_SECONDS)
    return Taken(upload.id, upload.name, upload.bytes, list_parts(session, upload))


def hold(session: Session, upload_id: str) -> None:
    """Say that its process is still making the dataset of an upload.

    Args:
        session: An open transaction.
        upload_id: Which upload.
    """
    session.execute(update(Upload).where(Upload.id == upload_id).values(finishing_until=_later(FINISHING_SECONDS)))


def release(session: Session, upload_id: str, form: str, error: DomainError | None) -> None:
    """Say that no dataset came of an upload.

    Args:
        session: An open transaction.
        upload_id: Which upload.
        form: What it was read as.
        error: Why the file is refused in this form; None: the same request may succeed later.
    """
    refusal: dict[str, Any] | None = None
    if error is not None:
        status = next(status for status, kind in _KINDS.items() if isinstance(error, kind))
        refusal = {
            "form": form,
            "status": status,
            "code": error.code,
            "detail": error.detail,
            "errors": error.errors,
        }
    of = Upload.id == upload_id, Upload.dataset_id.is_(None)
    session.execute(update(Upload).where(*of).values(finishing_until=None, refusal=refusal))


def complete(session: Session, settings: Settings, upload_id: str, dataset: Dataset) -> None:
    """Note the dataset that an upload has become, and that its parts are to be deleted.

    Args:
        session: The transaction that records the dataset.
        settings: Say how long it is remembered which dataset it was.
        upload_id: Which upload.
        dataset: The one just recorded.

    Raises:
        NotFoundError: `upload_not_found`: it is gone, or has become another dataset meanwhile.
    """
    done = session.scalar(
        update(Upload)
        .where(Upload.workspace_id == dataset.workspace_id, Upload.id == upload_id, Upload.dataset_id.is_(None))
        .values(dataset_id=dataset.id, finishing_until=None, expires_at=_expiry(settings))
        .returning(Upload.id)
    )
    if done is None:
        raise NotFoundError("upload")
    session.execute(
        delete(UploadPart).where(UploadPart.workspace_id == dataset.workspace_id, UploadPart.upload_id == upload_id)
    )
    purge_objects(session, dataset.workspace_id, upload_prefix(dataset.workspace_id, upload_id))


def _is_taken(session: Session, upload: Upload) -> bool:
    now = session.scalar(func.clock_timestamp())
    return upload.finishing_until is not None and upload.finishing_until > now


def _expiry(settings: Settings) -> Any:
    return _later(settings.upload_hours * 3600.0)


def _later(seconds: float) -> Any:
    return func.clock_timestamp() + literal(timedelta(seconds=seconds), Interval())
