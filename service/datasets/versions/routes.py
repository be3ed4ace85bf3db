"""/v1/datasets/{dataset_id}/versions and /changes."""

from typing import Annotated

from fastapi import Depends

from service.datasets.queries import find_dataset
from service.datasets.versions.queries import finished_audits, list_versions
from service.datasets.versions.schemas import DatasetChanges, DatasetVersions, render_changes, render_versions
from service.http.auth.authentication import RequireScope
from service.http.conditional.etags import NOT_MODIFIED, ConditionsDep, strong_tag
from service.http.dependencies import SessionDep
from service.http.fields import PathId
from service.http.routing import declared_problems, resource_router
from service.principal import Principal

router = resource_router("datasets")
Reader = Annotated[Principal, Depends(RequireScope())]


@router.get("/{dataset_id}/versions", operation_id="list_dataset_versions", responses=declared_problems(404))
def versions(dataset_id: PathId, principal: Reader, session: SessionDep) -> DatasetVersions:
    """Every version that the dataset is one of, with what has changed and what finished audits have flagged."""
    found = list_versions(session, principal, find_dataset(session, principal, dataset_id))
    return render_versions(dataset_id, found, finished_audits(session, principal, [one.id for one in found]))


@router.get(
    "/{dataset_id}/changes", operation_id="get_dataset_changes", responses=declared_problems(404) | NOT_MODIFIED
)
def changes(dataset_id: PathId, principal: Reader, session: SessionDep, conditions: ConditionsDep) -> DatasetChanges:
    """How the rows differ from those of the version before; `/rows` of both datasets gives their texts."""
    dataset = find_dataset(session, principal, dataset_id)
    conditions.serve(strong_tag(dataset.id, dataset.replaces_id, dataset.changes))
    return render_changes(dataset)
