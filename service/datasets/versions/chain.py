"""Which dataset replaces which: one version follows another, and a version that is deleted leaves no gap."""

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service.datasets.versions.queries import newest_version
from service.errors import ConflictError, InvalidReferenceError
from service.lifecycle.datasets import queue_version_comparison
from service.principal import Principal
from service.scoping import scoped
from service.store.tables import Dataset


def check_replaceable(session: Session, principal: Principal, dataset_id: str | None) -> None:
    """See that a new dataset may replace this one, which stays until the transaction ends.

    Args:
        session: An open transaction.
        principal: Whose datasets they are.
        dataset_id: The one to be replaced; None: the new one replaces none.

    Raises:
        InvalidReferenceError: `dataset_not_found`.
        ConflictError: `dataset_replaced`: another one replaces it already.
    """
    if dataset_id is None:
        return
    of = scoped(Dataset, principal).where(Dataset.id == dataset_id).with_only_columns(Dataset.id)
    if session.scalar(of.with_for_update(read=True, key_share=True)) is None:
        raise InvalidReferenceError("dataset", "query:replaces")
    newest = newest_version(session, principal, dataset_id)
    if newest != dataset_id:
        detail = (
            f"The dataset {dataset_id} has a newer version already; the newest one is {newest}. Nothing was kept. Name "
            f"{newest} in `replaces`, or delete the newer versions."
        )
        raise ConflictError("dataset_replaced", detail, errors={"query:replaces": f"the newest version is {newest}"})


def close_gap(session: Session, dataset: Dataset, *, request_id: str | None) -> None:
    """Let the version after a dataset that is about to be deleted replace the one before it.

    Args:
        session: An open transaction.
        dataset: The one that goes, read in this session.
        request_id: Of the request that deletes it.
    """
    # A transaction that is just naming it as replaced holds this row, so that this one waits.
    session.execute(select(Dataset.id).where(Dataset.id == dataset.id).with_for_update())
    before = session.scalar(select(Dataset.replaces_id).where(Dataset.id == dataset.id))
    # First of all, as no two datasets replace the same one.
    session.execute(update(Dataset).where(Dataset.id == dataset.id).values(replaces_id=None))
    after = session.scalar(
        update(Dataset)
        .where(Dataset.replaces_id == dataset.id)
        .values(replaces_id=before, changes=None)
        .returning(Dataset.id)
    )
    if after is not None and before is not None:
        queue_version_comparison(session, workspace_id=dataset.workspace_id, dataset_id=after, request_id=request_id)
