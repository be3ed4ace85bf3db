"""Reading and writing `datasets` rows."""

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from service.datasets.intake import Parsed
from service.http.auth.principal import Principal
from service.http.auth.scoping import get_scoped, scoped
from service.http.in_use import delete_unused
from service.http.middleware.request_ids import request_id
from service.lifecycle.datasets import queue_duplicate_count
from service.lifecycle.purging import purge_objects
from service.store.objects import dataset_key
from service.store.tables import Audit, Dataset


def find_dataset(session: Session, principal: Principal, dataset_id: str) -> Dataset:
    """One dataset. Raises Problem 404 `dataset_not_found`."""
    return get_scoped(session, Dataset, principal, dataset_id, kind="dataset")


def list_datasets(session: Session, principal: Principal, *, after: str | None, limit: int) -> list[Dataset]:
    """Newest first, without statistics and notices."""
    query = scoped(Dataset, principal).options(
        defer(Dataset.statistics, raiseload=True), defer(Dataset.notices, raiseload=True)
    )
    if after is not None:
        query = query.where(Dataset.id < after)
    return list(session.scalars(query.order_by(Dataset.id.desc()).limit(limit)))


def insert_dataset(
    session: Session, *, workspace_id: str, dataset_id: str, name: str, size: int, sha256: str, parsed: Parsed
) -> Dataset:
    """The row of a dataset whose objects are complete, and the job that counts its near-duplicates."""
    dataset = Dataset(
        id=dataset_id,
        workspace_id=workspace_id,
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
    queue_duplicate_count(session, workspace_id=workspace_id, dataset_id=dataset_id, request_id=request_id.get())
    return dataset


def dataset_exists(session: Session, dataset_id: str) -> bool:
    """Whether the row is there, in any workspace."""
    return session.scalar(select(Dataset.id).where(Dataset.id == dataset_id)) is not None


def delete_dataset(session: Session, principal: Principal, dataset_id: str) -> None:
    """Deletes the row, and notes that its objects are to go. Raises Problem 404, or 409 `dataset_in_use`."""
    dataset = find_dataset(session, principal, dataset_id)
    delete_unused(session, principal, dataset, kind="dataset", used=Audit.dataset_id == dataset.id)
    purge_objects(session, principal.workspace_id, dataset_key(principal.workspace_id, dataset_id))
