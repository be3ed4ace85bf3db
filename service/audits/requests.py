"""What must hold before an audit is written."""

from sqlalchemy.orm import Session

from service.audits.schemas import AuditCreate
from service.contract import MIN_DATASET_ROWS
from service.http.auth import Principal
from service.http.problems import Problem
from service.http.scoping import not_found, scoped
from service.models.queries import find_model
from service.store.tables import Dataset, Model, Probe


def check_request(session: Session, principal: Principal, body: AuditCreate) -> Model:
    """The model that the request names.

    Raises Problem 422: `dataset_not_found`, `probe_not_found`, `model_not_found`, `dataset_too_small`,
    `group_column_not_found`. The dataset and the probe are kept from being deleted until the transaction ends.
    """
    dataset = session.scalars(
        scoped(Dataset, principal).where(Dataset.id == body.dataset_id).with_for_update(read=True, key_share=True)
    ).one_or_none()
    if dataset is None:
        raise not_found("dataset", 422, "#/dataset_id")
    probe_id = session.scalars(
        scoped(Probe, principal)
        .with_only_columns(Probe.id)
        .where(Probe.id == body.probe_ids[0])
        .with_for_update(read=True, key_share=True)
    ).one_or_none()
    if probe_id is None:
        raise not_found("probe", 422, "#/probe_ids/0")
    try:
        model = find_model(session, principal, body.model_id)
    except Problem:
        raise not_found("model", 422, "#/model_id") from None
    if dataset.rows < MIN_DATASET_ROWS:
        detail = (
            f"The dataset has {dataset.rows} samples; an audit needs {MIN_DATASET_ROWS} or more to know the normal."
        )
        raise Problem(422, "dataset_too_small", detail, errors=[{"pointer": "#/dataset_id", "detail": detail}])
    if body.group_column is not None and body.group_column not in dataset.columns:
        known = ", ".join(dataset.columns[:20]) or "none"
        detail = f"The dataset has no extra column of this name. Its extra columns: {known}."
        raise Problem(422, "group_column_not_found", detail, errors=[{"pointer": "#/group_column", "detail": detail}])
    return model
