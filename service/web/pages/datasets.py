"""Pages of datasets: the list with the upload form, and one dataset with its rows, its audits and its deletion."""

from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy.orm import Session

from service.audits.queries import render_audit_summary
from service.contract.results import NearDuplicates
from service.contract.versions import VersionChanges
from service.datasets import actions
from service.datasets.queries import find_dataset, list_datasets
from service.datasets.schemas import render_dataset, render_validation
from service.datasets.versions.queries import finished_audits, list_versions
from service.datasets.versions.schemas import render_changes, render_versions
from service.errors import ConflictError
from service.http.auth.authentication import RequireScope
from service.http.dependencies import ObjectReadsDep, RowsDep, SessionDep, SettingsDep, TransactionsDep
from service.http.fields import PathId, Storable
from service.http.middleware.request_ids import request_id
from service.http.pagination import PageDep, make_cursor
from service.http.sub_path import address
from service.principal import Principal
from service.store.objects import ObjectMissingError, ObjectStoreUnavailableError
from service.store.stored_rows import StoredRows
from service.store.tables import Dataset
from service.web import dataset_view, queries
from service.web.forms import see_other
from service.web.page_route import PageRoute
from service.web.pages.page import Reader, answer_list, answer_page

router = APIRouter(route_class=PageRoute)

Writer = Annotated[Principal, Depends(RequireScope("datasets:write"))]

ROWS_SHOWN = 10
"""Samples that a dataset's page shows."""

AUDITS_SHOWN = 20
"""Audits that a dataset's page lists."""

CHANGED_SHOWN = 5
"""Changed rows that the page shows as conversations."""


@router.get("/datasets")
def dataset_list(
    request: Request,
    principal: Reader,
    session: SessionDep,
    page: PageDep,
    settings: SettingsDep,
    replaces: Annotated[str | None, Query(max_length=100), Storable] = None,
) -> Response:
    """Show all datasets, the newest first, and take new ones, or the next version of `replaces`."""
    replaced = find_dataset(session, principal, replaces) if replaces else None
    found = list_datasets(session, principal, after=page.after, limit=page.limit + 1)
    listed = page.page(found, key=lambda row: row.id, render=render_dataset)
    return answer_list(request, "datasets", principal, listed, most_bytes=settings.max_upload_bytes, replaces=replaced)


@router.get("/datasets/{dataset_id}")
async def dataset_page(
    dataset_id: PathId,
    principal: Reader,
    transactions: TransactionsDep,
    reads: ObjectReadsDep,
    rows: RowsDep,
    row: Annotated[int, Query(ge=0, lt=2**63)] = 0,
) -> Response:
    """Show one dataset, and its rows from `row` on."""
    dataset = await transactions.run(lambda session: find_dataset(session, principal, dataset_id))
    try:
        samples = await reads.run(lambda: _read(rows, dataset, row))
    except ObjectStoreUnavailableError:
        samples = _Samples()
    return await transactions.run(lambda session: _answer(session, principal, dataset, samples, row))


@router.post("/datasets/{dataset_id}/delete")
def delete(dataset_id: PathId, principal: Writer, session: SessionDep, rows: RowsDep) -> Response:
    """Delete a dataset that no audit uses, and go to the list; else show which audits do."""
    try:
        actions.delete(session, principal, dataset_id, request_id=request_id.get())
    except ConflictError:
        dataset = find_dataset(session, principal, dataset_id)
        return _answer(session, principal, dataset, _read(rows, dataset, 0), 0, status=409)
    return see_other("/datasets")


class _Samples(NamedTuple):
    """What the object store has given of a dataset; None where it gives none."""

    rows: list[dict[str, Any]] | None = None
    changed: list[dataset_view.ShownChange] | None = None


def _answer(
    session: Session, principal: Principal, dataset: Dataset, read: _Samples, first: int, *, status: int = 200
) -> Response:
    """Answer with the dataset's page; status 409 says that it could not be deleted."""
    samples = read.rows
    audits = [render_audit_summary(found) for found in queries.audits_of(session, principal, dataset, AUDITS_SHOWN)]
    statistics, near = dataset.statistics, dataset.near_duplicates
    versions = list_versions(session, principal, dataset)
    finished = finished_audits(session, principal, [one.id for one in versions])
    changes = render_changes(dataset).changes
    return answer_page(
        "dataset.html",
        "datasets",
        principal,
        status=status,
        dataset=render_dataset(dataset),
        refused=status == 409,
        roles=statistics.get("roles", {}),
        pictures=dataset_view.pictures(statistics),
        columns=dataset_view.columns(statistics),
        duplicates=dataset_view.duplicate_words(
            statistics.get("exact_duplicates"), None if near is None else NearDuplicates.model_validate(near)
        ),
        notices=render_validation(dataset).notices,
        notice_words=dataset_view.notice_words,
        rows=None if samples is None else dataset_view.preview(samples),
        row_link=lambda number: _row_link(dataset.id, number),
        row=first,
        following=samples[-1]["row"] + 1 if samples and samples[-1]["row"] + 1 < dataset.rows else None,
        rows_shown=ROWS_SHOWN,
        audits=audits,
        audits_shown=AUDITS_SHOWN,
        names=queries.names(session, principal, [i for audit in audits for i in (*audit.probe_ids, audit.model_id)]),
        flagged=queries.flagged_counts(session, principal, [audit.id for audit in audits]),
        versions=render_versions(dataset.id, versions, finished).data,
        changes=changes,
        changed=read.changed,
    )


def _read(stored: StoredRows, dataset: Dataset, first: int) -> _Samples:
    """Read the rows from `first` on, and those that have changed."""
    changes = render_changes(dataset).changes
    try:
        rows = stored.page(dataset.workspace_id, dataset.id, first - 1, ROWS_SHOWN)
    except (ObjectMissingError, ObjectStoreUnavailableError):
        rows = None
    return _Samples(rows, None if changes is None else _changed(stored, dataset, changes))


def _changed(stored: StoredRows, dataset: Dataset, changes: VersionChanges) -> list[dataset_view.ShownChange] | None:
    """Read the first changed rows, each as it was and as it is; None where the object store does not give them."""
    workspace = dataset.workspace_id
    try:
        return [
            dataset_view.changed_row(
                stored.row(workspace, changes.replaces_id, row.before), stored.row(workspace, dataset.id, row.after)
            )
            for row in changes.first_changed[:CHANGED_SHOWN]
        ]
    except (ObjectMissingError, ObjectStoreUnavailableError):
        return None


def _row_link(dataset_id: str, row: int) -> str:
    """Make the address of a row as JSON."""
    after = f"&after={make_cursor(str(row - 1))}" if row else ""
    return address(f"/v1/datasets/{dataset_id}/rows?limit=1{after}")
