"""What users do with datasets once their bytes are there: record and delete them. `upload` receives the bytes."""

from sqlalchemy.orm import Session

from service.datasets.intake import Parsed
from service.datasets.queries import find_dataset
from service.datasets.versions.chain import check_replaceable
from service.http.audit_log import record as record_change
from service.http.in_use import delete_unused
from service.http.quotas import check_datasets
from service.lifecycle.datasets import close_gap, queue_duplicate_count, queue_version_comparison
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
    replaces: str | None,
    besides: str | None,
    request_id: str | None,
    settings: Settings,
) -> Dataset:
    """Write the row of a dataset whose objects are complete, and the jobs that count what is counted behind it.

    Args:
        session: An open transaction.
        principal: Whose dataset it becomes.
        dataset_id: The id that its objects have.
        name: What it is called.
        size: Bytes of the upload.
        sha256: Hexadecimal digest of the upload.
        parsed: The parser's report.
        replaces: Id of the dataset of which it is the next version.
        besides: Id of the upload in parts that it was, which does not count beside it.
        request_id: Id of the request that brings it.
        settings: Hold the quotas.

    Raises:
        ConflictError: `dataset_quota`, or `dataset_replaced`.
        InvalidReferenceError: `dataset_not_found`: there is none to be replaced.
    """
    check_datasets(session, principal.workspace_id, settings, more_bytes=size, more_rows=parsed.rows, besides=besides)
    check_replaceable(session, principal, replaces)
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
        replaces_id=replaces,
    )
    session.add(dataset)
    session.flush()
    record_change(session, principal, "dataset.create", dataset.id)
    queue_duplicate_count(session, workspace_id=principal.workspace_id, dataset_id=dataset_id, request_id=request_id)
    if replaces is not None:
        queue_version_comparison(
            session, workspace_id=principal.workspace_id, dataset_id=dataset_id, request_id=request_id
        )
    return dataset


def delete(session: Session, principal: Principal, dataset_id: str, *, request_id: str | None) -> None:
    """Delete a dataset that no audit uses; its files are deleted in the background.

    A version that replaced it replaces the one before it from now on.

    Args:
        session: An open transaction.
        principal: Who is asking.
        dataset_id: Which dataset.
        request_id: Id of the request that deletes it.

    Raises:
        NotFoundError: `dataset_not_found`.
        ConflictError: `dataset_in_use`.
    """
    dataset = find_dataset(session, principal, dataset_id)
    with session.begin_nested():  # a refusal takes back what was done to the versions
        close_gap(session, dataset, request_id=request_id)
        delete_unused(session, principal, dataset, kind="dataset", used=Audit.dataset_id == dataset.id)
    purge_objects(session, principal.workspace_id, dataset_key(principal.workspace_id, dataset_id))
    record_change(session, principal, "dataset.delete", dataset_id)
