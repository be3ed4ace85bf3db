"""What must hold before an audit is written."""

from sqlalchemy.orm import Session

from service.audits.schemas import AuditCreate
from service.contract.spec import MIN_DATASET_ROWS
from service.http.auth.principal import Principal
from service.http.auth.scoping import not_found, scoped
from service.http.problems.problem import Problem
from service.models.queries import find_model
from service.store.tables import Dataset, Model, Probe


def check_request(session: Session, principal: Principal, body: AuditCreate) -> Model:
    """The model that the request names.

    Raises Problem 422: `dataset_not_found`, `probe_not_found`, `model_not_found`, `dataset_too_small`,
    `group_column_not_found`, `trusted_column_not_found`, `invalid_request` for seeds out of range. The dataset and the
    probes are kept from being deleted until the transaction ends.
    """
    dataset = session.scalars(
        scoped(Dataset, principal).where(Dataset.id == body.dataset_id).with_for_update(read=True, key_share=True)
    ).one_or_none()
    if dataset is None:
        raise not_found("dataset", 422, "#/dataset_id")
    known = set(
        session.scalars(
            scoped(Probe, principal)
            .with_only_columns(Probe.id)
            .where(Probe.id.in_(body.probe_ids))
            .with_for_update(read=True, key_share=True)
        )
    )
    for position, probe_id in enumerate(body.probe_ids):
        if probe_id not in known:
            raise not_found("probe", 422, f"#/probe_ids/{position}")
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
        raise _column_not_found(dataset, "group_column_not_found", "#/group_column")
    if body.trusted_column is not None and body.trusted_column not in dataset.columns:
        raise _column_not_found(dataset, "trusted_column_not_found", "#/trusted_column")
    if body.training.seed + body.seeds > 2**31:
        detail = "The last seed would be 2147483648 or more: lower training.seed."
        raise Problem(422, "invalid_request", detail, errors=[{"pointer": "#/training/seed", "detail": detail}])
    return model


def _column_not_found(dataset: Dataset, code: str, pointer: str) -> Problem:
    known = ", ".join(dataset.columns[:20]) or "none"
    detail = f"The dataset has no extra column of this name. Its extra columns: {known}."
    return Problem(422, code, detail, errors=[{"pointer": pointer, "detail": detail}])
