"""What users do with datasets once their bytes are there: record and delete them. `upload` receives the bytes."""

from sqlalchemy.orm import Session

from service.datasets.intake import Parsed
from service.datasets.queries import find_dataset
from service.http.audit_log import record as record_change
from service.http.in_use import delete_unused
from service.http.quotas import check_datasets
from service.lifecycle.datasets import queue_duplicate_count
from service.lifecycle.purging import purge_objects
from service.principal import Principal
from service.settings import Settings
from service.store.objects import dataset_key
from service.store.tables import Audit, Dataset


def record(
    session: Session,
    principal: Principal,
    dataset_id: str,
    *,
    name: str,
    size: int,
    sha256: str,
    parsed: Parsed,
    request_id: str | None,
    settings: Settings,
) -> Dataset:
    """Write the row of a dataset whose objects are complete, and the job that counts its near-duplicates.

    Args:
        session: An open transaction.
        principal: Whose dataset it becomes.
        dataset_id: The id that its objects have.
        name: What it is called.
        size: Bytes of the upload.
        sha256: Hexadecimal digest of the upload.
        parsed: The parser's report.
        request_id: Of the request that brings it.
        settings: Hold the quotas.

    Raises:
        ConflictError: `dataset_quota`.
    """
    check_datasets(session, principal.workspace_id, settings, more_bytes=size, more_rows=parsed.rows)
    dataset = Dataset(
        id=dataset_id,
        workspace_id=principal.workspace_id,
        name=name,
        format=parsed.format,
        container=parsed.container,
        encoding=parsed.encoding,
        bytes=size,
        sha256=sha256,
        rows=parsed.rows,
        columns=parsed.columns,
        statistics=parsed.statistics,
        notices=parsed.notices,
    )
    session.add(dataset)
    session.flush()
    record_change(session, principal, "dataset.create", dataset.id)
    queue_duplicate_count(session, workspace_id=principal.workspace_id, dataset_id=dataset_id, request_id=request_id)
    return dataset


def delete(session: Session, principal: Principal, dataset_id: str) -> None:
    """Delete a dataset that no audit stands on; its files are cleared away in the background.

    Args:
        session: An open transaction.
        principal: Who is asking.
        dataset_id: Which dataset.

    Raises:
        NotFoundError: `dataset_not_found`.
        ConflictError: `dataset_in_use`.
    """
    dataset = find_dataset(session, principal, dataset_id)
    delete_unused(session, principal, dataset, kind="dataset", used=Audit.dataset_id == dataset.id)
    purge_objects(session, principal.workspace_id, dataset_key(principal.workspace_id, dataset_id))
    record_change(session, principal, "dataset.delete", dataset_id)
