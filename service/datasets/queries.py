"""Reading and writing `datasets` rows."""

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, defer

from service.datasets.intake import Parsed
from service.http.auth import Principal
from service.http.problems import Problem
from service.http.request_ids import request_id
from service.http.scoping import get_scoped, scoped
from service.lifecycle.datasets import queue_duplicate_count
from service.store.tables import Dataset


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
    """Deletes the row. Raises Problem 404, or 409 `dataset_in_use`."""
    session.delete(find_dataset(session, principal, dataset_id))
    try:
        session.flush()
    except IntegrityError:
        raise Problem(
            409, "dataset_in_use", "An audit stands on this dataset; its findings would lose their text."
        ) from None
