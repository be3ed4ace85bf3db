"""Versions of a dataset as the API shows them."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field

from service.contract.versions import VersionChanges
from service.datasets.schemas import Dataset, render_dataset
from service.datasets.versions.queries import AuditOfVersion
from service.store.tables import Dataset as DatasetTable


class DatasetChanges(BaseModel):
    """What has changed from the version before."""

    object: Literal["dataset.changes"] = "dataset.changes"
    dataset_id: str
    replaces_id: str | None = Field(description="The version before; null where there is none.")
    changes: VersionChanges | None = Field(
        description="Counted in the background; null until then, and where there is no version before."
    )


class ChangeCounts(BaseModel):
    """What has changed from the version before, in numbers."""

    kept: int
    moved: int
    changed: int
    added: int
    removed: int


class VersionAudit(BaseModel):
    """What a finished audit of a version has flagged."""

    audit_id: str
    flagged: int
    rows_scored: int
    flagged_share: float | None = Field(description="Of the rows that were scored; null where none was.")


class DatasetVersion(BaseModel):
    """One version."""

    number: int = Field(description="From 1, the oldest that there is.")
    dataset: Dataset
    changes: ChangeCounts | None = Field(description="From the version before; null as in `changes` of the dataset.")
    audits: list[VersionAudit] = Field(description="The newest 10 finished ones, the oldest of them first.")


class DatasetVersions(BaseModel):
    """All versions of a dataset, the oldest first: at most 100 before and 100 after the one that was asked for."""

    object: Literal["dataset.versions"] = "dataset.versions"
    dataset_id: str = Field(description="The one that was asked for.")
    data: list[DatasetVersion]


def render_changes(dataset: DatasetTable) -> DatasetChanges:
    """The dataset's changes as the API shows them."""
    changes = None if dataset.changes is None else VersionChanges.model_validate(dataset.changes)
    return DatasetChanges(dataset_id=dataset.id, replaces_id=dataset.replaces_id, changes=changes)


def render_versions(
    dataset_id: str, versions: Sequence[DatasetTable], audits: Sequence[AuditOfVersion]
) -> DatasetVersions:
    """All versions as the API shows them.

    Args:
        dataset_id: The one that was asked for.
        versions: The oldest first.
        audits: Finished audits of any of them, the oldest first.
    """
    return DatasetVersions(
        dataset_id=dataset_id,
        data=[
            DatasetVersion(
                number=number,
                dataset=render_dataset(version),
                changes=None if version.changes is None else _counts(VersionChanges.model_validate(version.changes)),
                audits=[_audit(audit) for audit in audits if audit.dataset_id == version.id],
            )
            for number, version in enumerate(versions, start=1)
        ],
    )


def _counts(changes: VersionChanges) -> ChangeCounts:
    return ChangeCounts(**changes.model_dump(include=set(ChangeCounts.model_fields)))


def _audit(audit: AuditOfVersion) -> VersionAudit:
    share = audit.flagged / audit.rows_scored if audit.rows_scored else None
    return VersionAudit(
        audit_id=audit.audit_id, flagged=audit.flagged, rows_scored=audit.rows_scored, flagged_share=share
    )
