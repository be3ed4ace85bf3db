"""Which dataset replaces which: one version follows another."""

from sqlalchemy.orm import Session

from service.datasets.versions.queries import newest_version
from service.errors import ConflictError, InvalidReferenceError
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
