"""Reading datasets."""

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from service.principal import Principal
from service.scoping import get_scoped, scoped
from service.store.newest_first import newest_first
from service.store.tables import Dataset


def find_dataset(session: Session, principal: Principal, dataset_id: str) -> Dataset:
    """Read one dataset.

    Args:
        session: An open transaction.
        principal: Who is asking.
        dataset_id: Which dataset.

    Raises:
        NotFoundError: `dataset_not_found`.
    """
    return get_scoped(session, Dataset, principal, dataset_id, kind="dataset")


def list_datasets(session: Session, principal: Principal, *, after: str | None, limit: int) -> list[Dataset]:
    """Read the workspace's datasets, the newest first, without their statistics and notices.

    Args:
        session: An open transaction.
        principal: Who is asking.
        after: Id of the dataset behind which to begin; None: at the newest.
        limit: The most that are read.
    """
    query = scoped(Dataset, principal).options(
        defer(Dataset.statistics, raiseload=True), defer(Dataset.notices, raiseload=True)
    )
    return list(session.scalars(newest_first(query, Dataset.id, after=after, limit=limit)))


def dataset_exists(session: Session, dataset_id: str) -> bool:
    """Return whether a dataset has this id, in any workspace.

    Args:
        session: An open transaction.
        dataset_id: The id.
    """
    return session.scalar(select(Dataset.id).where(Dataset.id == dataset_id)) is not None
