"""Objects that rows name and the object store lacks."""

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.contract.protocol import RECORDING_FILE, ROWS_FILE, SCORES_FILE, SUMMARY_FILE
from service.contract.spec import COMBINE
from service.contract.stored_models import StoredModel
from service.store.objects import ObjectStore, audit_key, dataset_key, export_key, model_key, upload_key
from service.store.tables import AuditStep, Dataset, Export, Model, UploadPart

ORIGINAL = "original"
"""Name of a dataset's file as it was uploaded."""


def named_objects(session: Session) -> Iterator[str]:
    """Yield the keys of all that has to exist: datasets, parts of uploads, finished steps, models, exports."""
    for workspace, dataset in session.execute(select(Dataset.workspace_id, Dataset.id)):
        yield dataset_key(workspace, dataset, ORIGINAL)
        yield dataset_key(workspace, dataset, ROWS_FILE)
    for workspace, upload, part in session.execute(
        select(UploadPart.workspace_id, UploadPart.upload_id, UploadPart.name)
    ):
        yield upload_key(workspace, upload, part)
    steps = select(AuditStep.workspace_id, AuditStep.audit_id, AuditStep.attempt, AuditStep.step_key)
    for workspace, audit, attempt, step in session.execute(steps.where(AuditStep.state == "succeeded")):
        assert attempt is not None
        # Every version wrote these files; others came later.
        for name in (SCORES_FILE, SUMMARY_FILE) if step == COMBINE else (RECORDING_FILE,):
            yield audit_key(workspace, audit, attempt, step, name)
    models = select(Model.workspace_id, Model.id, Model.stored).where(Model.stored.is_not(None))
    for workspace, model, stored in session.execute(models):
        for file in StoredModel.model_validate(stored).files:
            yield model_key(workspace, model, file.sha256)
    exports = select(Export.workspace_id, Export.id, Export.published_attempt)
    for workspace, export, attempt in session.execute(exports.where(Export.published_attempt.is_not(None))):
        assert attempt is not None
        yield export_key(workspace, export, attempt)


def missing_objects(session: Session, objects: ObjectStore) -> list[str]:
    """Return the keys that rows name and the object store lacks, sorted.

    Args:
        session: An open transaction.
        objects: The object store.

    Raises:
        ObjectStoreUnavailableError: The object store does not respond.
    """
    there = set(objects.all_keys())
    return sorted(key for key in named_objects(session) if key not in there)
