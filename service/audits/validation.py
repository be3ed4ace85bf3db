"""What must hold before an audit is written."""

import math

from sqlalchemy.orm import Session

from service.audits.schemas import AuditCreate
from service.contract.flags import SPELLINGS, flag_of
from service.contract.spec import MIN_DATASET_ROWS, MIN_DIFFERENT_SAMPLES, MIN_STEPS
from service.errors import InvalidError, InvalidReferenceError, NotFoundError
from service.models.queries import find_model
from service.principal import Principal
from service.scoping import scoped
from service.store.tables import Dataset, Model, Probe


def check_request(session: Session, principal: Principal, body: AuditCreate) -> Model:
    """Find the model that the request names, and check everything else in it.

    The dataset and the probes are kept from being deleted until the transaction ends.

    Args:
        session: An open transaction.
        principal: Who is asking.
        body: The request.

    Raises:
        InvalidReferenceError: `dataset_not_found`, `probe_not_found` or `model_not_found`.
        InvalidError: `dataset_too_small`, `group_column_not_found`, `trusted_column_not_found`,
            `trusted_column_invalid`, or `invalid_request` where the last seed is out of range or the training has a
            single step.
    """
    dataset = session.scalars(
        scoped(Dataset, principal).where(Dataset.id == body.dataset_id).with_for_update(read=True, key_share=True)
    ).one_or_none()
    if dataset is None:
        raise InvalidReferenceError("dataset", "#/dataset_id")
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
            raise InvalidReferenceError("probe", f"#/probe_ids/{position}")
    try:
        model = find_model(session, principal, body.model_id)
    except NotFoundError:
        raise InvalidReferenceError("model", "#/model_id") from None
    if dataset.rows < MIN_DATASET_ROWS:
        detail = (
            f"The dataset has {dataset.rows} samples; an audit needs {MIN_DATASET_ROWS} or more to know the normal."
        )
        raise InvalidError("dataset_too_small", detail, errors={"#/dataset_id": detail})
    different = dataset.rows - dataset.statistics.get("exact_duplicates", 0)
    if different < MIN_DIFFERENT_SAMPLES:
        detail = (
            f"Of the dataset's {dataset.rows} samples only {different} differ, and the others repeat them; an audit "
            f"needs {MIN_DIFFERENT_SAMPLES} different ones or more to know the normal."
        )
        raise InvalidError("dataset_too_small", detail, errors={"#/dataset_id": detail})
    if body.training.epochs * math.ceil(dataset.rows / body.training.batch_size) < MIN_STEPS:
        detail = (
            "The training would be a single step, and the first one is a warm-up of which nothing is measured: raise "
            "training.epochs, or lower training.batch_size."
        )
        raise InvalidError("invalid_request", detail, errors={"#/training/batch_size": detail})
    if body.group_column is not None and body.group_column not in dataset.columns:
        raise _column_not_found(dataset, "group_column_not_found", "#/group_column")
    if body.trusted_column is not None and body.trusted_column not in dataset.columns:
        raise _column_not_found(dataset, "trusted_column_not_found", "#/trusted_column")
    if body.trusted_column is not None:
        _check_trusted(dataset, body.trusted_column)
    if body.training.seed + body.seeds > 2**31:
        detail = "The last seed would be 2147483648 or more: lower training.seed."
        raise InvalidError("invalid_request", detail, errors={"#/training/seed": detail})
    return model


def _check_trusted(dataset: Dataset, name: str) -> None:
    """Raise InvalidError unless each value of the column says yes, no or nothing, and one says yes."""
    column = next((column for column in dataset.statistics["columns"] if column["name"] == name), None)
    detail = None
    if column is None:
        detail = "The values of this column were not counted, since it is not among the first columns. Move it forward."
    elif column["values"] is None or column["distinct"] > len(column["values"]):
        detail = f"This column has too many different values to say who is trusted. Let it hold {SPELLINGS} alone."
    else:
        said = [(flag_of(listed["value"]), listed) for listed in column["values"]]
        wrong = sum(listed["rows"] for flag, listed in said if flag is None and listed["value"] not in (None, ""))
        if wrong:
            detail = f"{wrong} samples have a value in this column that is none of {SPELLINGS}. Correct or empty them."
        elif not any(flag for flag, _ in said):
            detail = "No sample has a true value in this column, so nobody would be trusted. Leave trusted_column out."
    if detail is not None:
        raise InvalidError("trusted_column_invalid", detail, errors={"#/trusted_column": detail})


def _column_not_found(dataset: Dataset, code: str, pointer: str) -> InvalidError:
    known = ", ".join(dataset.columns[:20]) or "none"
    detail = f"The dataset has no extra column of this name. Its extra columns: {known}."
    return InvalidError(code, detail, errors={pointer: detail})
